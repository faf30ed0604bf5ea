"""Submitting: the source first, then the job; both durable before anybody is told "accepted"."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ingest import ids
from ingest.errors import Conflict, EmptyFile, NotAPdf, NotEnded, StoreUnavailable
from ingest.metadata import Metadata
from ingest.model import Document, Job, JobState, PipelineSpec
from ingest.stores import Stores
from ingest.turns import Priority

PDF_HEADER = b"%PDF-"
PDF_HEADER_WITHIN = (
    1024  # Acrobat's implementation note 13 to ISO 32000-1, appendix H: anywhere in the first 1024 bytes
)
COLLECTION_WAIT_S = 10.0
COLLECTION_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that has arrived whole, with what was learned while it streamed in."""

    path: Path
    filename: str
    sha256: str
    size_bytes: int
    metadata: Metadata | None = None  # None leaves what is known about the document as it is
    priority: Priority = Priority.NORMAL  # of a new job; one that there is keeps its own


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submit: a new job, or the one that does the same already."""

    job: Job
    created: bool


def check_header(upload: Upload) -> None:
    """What can be seen without parsing. Raises `EmptyFile` or `NotAPdf`."""
    if upload.size_bytes == 0:
        raise EmptyFile("The file is empty. Send a PDF with at least one page.")
    with upload.path.open("rb") as file:
        if PDF_HEADER not in file.read(PDF_HEADER_WITHIN):
            raise NotAPdf("The file is not a PDF: it does not begin with %PDF-. Convert it to PDF, then send it again.")


def submit(stores: Stores, upload: Upload, *, tenant: str, pipeline: PipelineSpec) -> Submission:
    """Make source and job durable; the same bytes get one document and one job, also when sent at the same moment.

    The source is put before the job is inserted, so that a job never waits for bytes; and looked for again afterwards,
    because the collection of an earlier job may have removed it in between. Once a job is open nobody else removes it.
    """
    check_header(upload)
    document_id = ids.document_id(tenant, upload.sha256)
    existing = _job_that_serves(stores, tenant, document_id, pipeline)
    if existing is not None:
        _describe(stores, document_id, upload)
        if not existing.state.terminal and _put_source(stores, document_id, upload):  # its submitter may have died
            _sweep_late_source(stores, existing)
        return Submission(existing, created=False)
    _put_source(stores, document_id, upload)
    stores.catalog.register(_document(upload, tenant, document_id))
    _describe(stores, document_id, upload)
    wanted = _Wanted(tenant, document_id, pipeline, upload.filename, upload.priority)
    submission = _open_job(stores, wanted, lambda: _job_that_serves(stores, tenant, document_id, pipeline))
    if _put_source(stores, document_id, upload) or not submission.created:
        _sweep_late_source(stores, submission.job)
    if submission.created:
        stores.catalog.advance(document_id, submission.job.revision)
    return submission


def submit_once(stores: Stores, upload: Upload, *, tenant: str, pipeline: PipelineSpec, key: str) -> Submission:
    """Submit, unless the same was submitted under this key within a day: then what became of that, whatever it was.

    Raises `IdempotencyKeyReused` when the key came with other bytes.
    """
    receipt = stores.receipts.reserve(tenant, key, upload.sha256)
    if receipt.job_id is None:  # the first, or one that comes while the first is under way, or after it was refused
        submission = submit(stores, upload, tenant=tenant, pipeline=pipeline)
        receipt = stores.receipts.fill(receipt, job_id=submission.job.job_id, created=submission.created)
    assert receipt.job_id is not None
    return Submission(stores.jobs.job(tenant, receipt.job_id), receipt.created)


def retry(stores: Stores, job: Job, *, pipeline: PipelineSpec) -> Submission:
    """A new job for the document of one that ended without all its pages; what was committed is not done again.

    When the document has another job by now, that one is it. Raises `Conflict` where no retry can help.
    """
    if not job.state.terminal:
        raise NotEnded(f"The job is {job.shown_state}. Only one that has ended can be retried.")
    _refuse_pointless_retry(stores, job)

    def newer() -> Job | None:
        latest = stores.jobs.latest(job.document_id)
        return latest if latest is not None and _is_active(latest) else None

    wanted = _Wanted(job.tenant, job.document_id, pipeline, job.filename, job.priority)
    submission = _open_job(stores, wanted, newer)
    if submission.created:
        stores.catalog.advance(job.document_id, submission.job.revision)
    return submission


def _refuse_pointless_retry(stores: Stores, job: Job) -> None:
    """Judged by the document's latest job: a later one may have done what this one did not."""
    latest = stores.jobs.latest(job.document_id) or job
    if not stores.catalog.documents(job.tenant, [job.document_id]):
        raise Conflict("The document was deleted. Send it again.")
    if latest.state is JobState.SUCCEEDED:
        raise Conflict("There is nothing to retry: every page of the document is published.")
    if latest.state.terminal and not latest.retryable:
        reason = "" if latest.error is None else f" {latest.error.message}"
        raise Conflict(f"The same bytes would fail in the same way.{reason}")
    if not stores.objects.exists(ids.source_key(job.document_id)):
        raise Conflict("The uploaded file is not kept any more. Send it again.")


def _describe(stores: Stores, document_id: str, upload: Upload) -> None:
    if upload.metadata is not None:
        stores.catalog.describe(document_id, upload.metadata)


def _put_source(stores: Stores, document_id: str, upload: Upload) -> bool:
    """Put the source where it is missing; whether it was."""
    key = ids.source_key(document_id)
    return not stores.objects.exists(key) and stores.objects.put_file(key, upload.path)


def _sweep_late_source(stores: Stores, job: Job) -> None:
    """A source that was put when its job was done with it already is nobody's, unless a retry may still want it."""
    now = stores.jobs.job(job.tenant, job.job_id)
    swept_later = now.retryable and not now.sweep_due and (now.open or now.sweep_at is not None)
    if now.state.terminal and not swept_later:
        stores.jobs.request_sweep(job.job_id)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A job that shall be opened."""

    tenant: str
    document_id: str
    pipeline: PipelineSpec
    filename: str
    priority: Priority


def _open_job(stores: Stores, wanted: _Wanted, job_that_serves: Callable[[], Job | None]) -> Submission:
    """Insert the document's next job, or find that somebody else has just done so."""
    give_up_at = time.monotonic() + COLLECTION_WAIT_S
    while time.monotonic() < give_up_at:
        existing = job_that_serves()
        if existing is not None:
            return Submission(existing, created=False)
        latest = stores.jobs.latest(wanted.document_id)
        revision = 1 if latest is None else latest.revision + 1
        job = stores.jobs.insert(
            tenant=wanted.tenant,
            document_id=wanted.document_id,
            revision=revision,
            pipeline=wanted.pipeline,
            filename=wanted.filename,
            priority=wanted.priority,
        )
        if job is not None:
            return Submission(job, created=True)
        time.sleep(COLLECTION_POLL_S)  # a job of the document is being cancelled or collected: it closes soon
    raise StoreUnavailable("An earlier job of this document is still being cleaned up. Try again in a moment.")


def _job_that_serves(stores: Stores, tenant: str, document_id: str, pipeline: PipelineSpec) -> Job | None:
    """The job that already does, or has done, what a new one would do.

    None serves a document that was deleted, until `register` brings it back. One that has decided to publish serves
    only once readers see what it published: a delete may have come between.
    """
    latest = stores.jobs.latest(document_id)
    if latest is None:
        return None
    document = stores.catalog.documents(tenant, [document_id]).get(document_id)
    if document is None:
        return None
    if _is_active(latest) and not latest.publish_decided:
        return latest
    if latest.state.terminal and not (latest.state.published and latest.pipeline.fingerprint == pipeline.fingerprint):
        return None
    return latest if document.published_revision == latest.revision else None


def _is_active(job: Job) -> bool:
    """Whether the job will bring its document to readers; one that is being cancelled will not."""
    return not job.state.terminal and job.cancel_requested_at is None


def _document(upload: Upload, tenant: str, document_id: str) -> Document:
    return Document(
        document_id=document_id,
        tenant=tenant,
        sha256=upload.sha256,
        filename=upload.filename,
        size_bytes=upload.size_bytes,
        created_at=datetime.now(UTC),
    )
