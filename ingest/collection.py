"""Collection: once a job has ended, remove what nobody needs any more, and keep the rest until nobody can.

Only for a document whose job is still open: nobody else writes to it, and no other job exists that could need any of
it. What is kept, and until when, is decided in docs/adr/0005; what a delete adds, in docs/adr/0006.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ingest import ids
from ingest.model import Document, Job, JobState, Keeping
from ingest.stores import Stores

SWEEP_AGAIN = timedelta(seconds=120)  # after a delete: by then whatever wrote unseen has found out that it must not


@dataclass(frozen=True, slots=True)
class Kept:
    """Which objects of a document stay: its source, and those checkpoints whose keys begin with `checkpoints`."""

    source: bool = False
    checkpoints: str | None = None  # None: none of them


def collect(
    stores: Stores,
    job: Job,
    *,
    keeping: Keeping,
    retry_window: timedelta,
    still_ours: Callable[[], None],
) -> datetime | None:
    """Remove the rows and objects that the job, which has ended, leaves behind; when to look again, if ever.

    `still_ours` is asked before each object goes, and raises when the job may have another holder.
    """
    document = stores.catalog.known(job.document_id)
    kept = kept_objects(job, document, keeping, for_retry=not job.sweep_due)
    if job.may_have_rows or job.revision > 1:
        collect_rows(stores, job, document)
    collect_objects(stores, job.document_id, kept, still_ours)
    return _next_sweep(job, document, retry_window)


def kept_objects(job: Job | None, document: Document | None, keeping: Keeping, *, for_retry: bool) -> Kept:
    """What of the document's objects is still needed when its latest job has ended.

    `keeping` says what is kept of a published one, also when fsck has hidden it; `for_retry` that the time in which a
    retry may come is not over.
    """
    if job is None or document is None or document.deleted_at is not None:
        return Kept()
    if for_retry and job.retryable:
        whole = None if job.state is JobState.CANCELLED else ids.checkpoint_prefix(job.document_id)
        return Kept(source=True, checkpoints=whole)
    if document.published_revision is None and not job.state.published:
        return Kept()
    pages = ids.extract_prefix(job.document_id, job.pipeline.extract)
    return Kept(source=keeping.source, checkpoints=pages if keeping.pages else None)


def collect_rows(stores: Stores, job: Job, document: Document | None) -> None:
    """Remove every revision up to the job's, except the one that readers see: all of them, of a deleted document."""
    shown = None if document is None else document.published_revision
    stores.catalog.delete_other_revisions(job.document_id, up_to=job.revision, shown=shown)
    stores.vectors.delete_other_revisions(job.document_id, up_to=job.revision, shown=shown)


def collect_objects(stores: Stores, document_id: str, kept: Kept, still_ours: Callable[[], None]) -> None:
    """Remove the checkpoints and the source that are not kept, by exact key, the source last."""
    checkpoints = checkpoints_to_remove(stores, document_id, kept)
    for key in checkpoints if kept.source else [*checkpoints, ids.source_key(document_id)]:
        still_ours()
        stores.objects.delete(key)


def checkpoints_to_remove(stores: Stores, document_id: str, kept: Kept) -> list[str]:
    """The keys of the document's checkpoints that are not kept."""
    everything = ids.checkpoint_prefix(document_id)
    if kept.checkpoints == everything:
        return []
    keys = stores.objects.keys(everything)
    return [key for key in keys if kept.checkpoints is None or not key.startswith(kept.checkpoints)]


def _next_sweep(job: Job, document: Document | None, retry_window: timedelta) -> datetime | None:
    """After a delete, once more when no write can be on its way any more; else when a retry cannot come any more."""
    if document is None:
        return None
    if document.deleted_at is not None:
        again_at = document.deleted_at + SWEEP_AGAIN
        return again_at if again_at > job.updated_at else None
    return job.updated_at + retry_window if job.retryable and not job.sweep_due else None
