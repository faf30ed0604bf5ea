"""Submit: "accepted" means that source and job are durable, and the same bytes never get two of either."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest import ids
from ingest.errors import EmptyFile, InputError, NotAPdf, StoreUnavailable
from ingest.metadata import Metadata
from ingest.model import Job, JobState, PipelineSpec
from ingest.points import POINTS_VERSION
from ingest.stores import Stores
from ingest.submission import Submission, Upload, submit
from tests.builders import PDF_BYTES, TENANT, an_upload, at_once, make_visible, pipeline_named
from tests.integration.queue import claim, collect_and_close

PIPELINE, OTHER = pipeline_named("p"), pipeline_named("other")


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """A small PDF that has arrived."""
    return an_upload(tmp_path)


def send(stores: Stores, upload: Upload, *, pipeline: PipelineSpec = PIPELINE, tenant: str = TENANT) -> Submission:
    """Submit it."""
    return submit(stores, upload, tenant=tenant, pipeline=pipeline)


def finish(stores: Stores, *, collect: bool = True) -> Job:
    """Publish the waiting job's document; `collect` does what comes after that."""
    held = claim(stores.jobs)
    job = held.job
    held.decide_publish()
    assert make_visible(stores, job.document_id, job.revision, chunk_count=0)
    held.settle(JobState.SUCCEEDED)
    if collect:
        collect_and_close(stores, held)
    return held.job


def source(stores: Stores, submission: Submission) -> bytes:
    """The bytes that the job will work on."""
    return stores.objects.get(ids.source_key(submission.job.document_id))


def test_what_is_accepted_is_durable(stores: Stores, upload: Upload) -> None:
    """After a submit the source, the document and a queued job are in the stores, under ids made from the bytes."""
    accepted = send(stores, upload)
    job = accepted.job
    assert accepted.created
    assert source(stores, accepted) == PDF_BYTES
    assert stores.jobs.job(TENANT, job.job_id) == job
    assert (job.document_id, job.revision, job.state) == (ids.document_id(TENANT, upload.sha256), 1, JobState.QUEUED)
    document = stores.catalog.document(TENANT, job.document_id)
    assert (document.filename, document.size_bytes, document.sha256) == (
        "letter.pdf",
        len(PDF_BYTES),
        upload.sha256,
    )
    assert (document.latest_revision, document.published_revision) == (1, None)


@pytest.mark.parametrize("claimed", [False, True])
def test_the_same_bytes_get_the_same_job_while_it_is_active(stores: Stores, tmp_path: Path, *, claimed: bool) -> None:
    """Sent twice, under any name, waiting or running: the second submit is told about the first one's job."""
    first = send(stores, an_upload(tmp_path))
    if claimed:
        claim(stores.jobs)
    again = send(stores, an_upload(tmp_path, filename="copy.pdf"))
    assert (again.created, again.job.job_id) == (False, first.job.job_id)
    assert len(stores.jobs.find(TENANT, limit=9)) == 1


def test_submits_at_the_same_moment_get_one_document_and_one_job(stores: Stores, upload: Upload) -> None:
    """Twelve at once: one of them created the job, and all are told the same job id."""
    accepted = at_once(12, lambda _: send(stores, upload))
    assert len({submission.job.job_id for submission in accepted}) == 1
    assert sorted(submission.created for submission in accepted) == [False] * 11 + [True]
    assert len(stores.jobs.find(TENANT, limit=50)) == 1
    assert stores.objects.keys("sources/") == [ids.source_key(accepted[0].job.document_id)]


@pytest.mark.parametrize("collect", [True, False])
def test_a_published_document_is_not_ingested_again(stores: Stores, upload: Upload, *, collect: bool) -> None:
    """Same bytes, same pipeline: the job that published them answers, collected or not, and nothing new is stored."""
    send(stores, upload)
    done = finish(stores, collect=collect)
    keys = stores.objects.keys("sources/")
    again = send(stores, upload)
    assert (again.created, again.job.job_id, again.job.state) == (False, done.job_id, JobState.SUCCEEDED)
    assert stores.objects.keys("sources/") == keys


def test_another_pipeline_makes_a_new_revision(stores: Stores, upload: Upload) -> None:
    """Changed settings ingest the document again, as its next revision; the published one stays until then."""
    first = send(stores, upload)
    finish(stores)
    second = send(stores, upload, pipeline=OTHER)
    assert second.created
    assert (second.job.document_id, second.job.revision) == (first.job.document_id, 2)
    assert source(stores, second) == PDF_BYTES
    document = stores.catalog.document(TENANT, second.job.document_id)
    assert (document.latest_revision, document.published_revision) == (2, 1)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_after_a_job_that_did_not_publish_a_new_one_begins(stores: Stores, upload: Upload, state: JobState) -> None:
    """Sending again is the way to try again: a new job and revision, with the source in its place."""
    first = send(stores, upload)
    held = claim(stores.jobs)
    held.settle(state)
    collect_and_close(stores, held)
    stores.objects.delete(ids.source_key(first.job.document_id))
    second = send(stores, upload)
    assert second.created
    assert (second.job.revision, second.job.state) == (2, JobState.QUEUED)
    assert source(stores, second) == PDF_BYTES


def test_a_published_job_whose_document_was_overtaken_does_not_serve(stores: Stores, upload: Upload) -> None:
    """Back to an earlier pipeline: what is published now is another revision, so the document is ingested again."""
    for pipeline in (PIPELINE, OTHER):
        send(stores, upload, pipeline=pipeline)
        finish(stores)
    third = send(stores, upload)
    assert (third.created, third.job.revision) == (True, 3)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyFile),
        (b"hello", NotAPdf),
        (b"PK\x03\x04 a zip", NotAPdf),
        (b"\0" * 1024 + PDF_BYTES, NotAPdf),
        (b"%PD", NotAPdf),
    ],
)
def test_what_is_no_pdf_is_refused_and_nothing_is_stored(
    stores: Stores, tmp_path: Path, data: bytes, error: type[InputError]
) -> None:
    """Refused at the door: no source, no document, no job."""
    upload = an_upload(tmp_path, data)
    with pytest.raises(error):
        send(stores, upload)
    assert stores.objects.keys("sources/") == []
    assert stores.jobs.find(TENANT, limit=9) == []
    assert stores.catalog.documents(TENANT, [ids.document_id(TENANT, upload.sha256)]) == {}


def test_a_header_within_the_first_kilobyte_is_accepted(stores: Stores, tmp_path: Path) -> None:
    """Readers accept bytes before %PDF- (ISO 32000-1, implementation note 13): so does Fanfold."""
    assert send(stores, an_upload(tmp_path, b"\0" * 1000 + PDF_BYTES)).created


def test_two_tenants_share_nothing(stores: Stores, upload: Upload) -> None:
    """The same bytes of two tenants are two documents, two sources, two jobs."""
    first, second = send(stores, upload, tenant="a"), send(stores, upload, tenant="b")
    assert second.created
    assert first.job.document_id != second.job.document_id
    assert len(stores.objects.keys("sources/")) == 2


def test_a_source_that_a_collection_removed_meanwhile_is_put_again(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier job's collection ran between put and insert: the new job still finds its bytes."""
    send(stores, upload)
    held = claim(stores.jobs)
    job = held.job
    held.decide_publish()
    make_visible(stores, job.document_id, chunk_count=0)
    held.settle(JobState.SUCCEEDED)
    register = stores.catalog.register

    def collected_meanwhile(document: object) -> object:
        assert stores.objects.exists(ids.source_key(job.document_id))
        collect_and_close(stores, held)
        return register(document)  # type: ignore[arg-type]  # passed through as it came

    monkeypatch.setattr(stores.catalog, "register", collected_meanwhile)
    second = send(stores, upload, pipeline=OTHER)
    assert second.created
    assert source(stores, second) == PDF_BYTES


def test_a_submit_waits_for_a_collection_and_gives_up_politely(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a published job is being collected there can be no other: the client is told to come back, not refused."""
    monkeypatch.setattr("ingest.submission.COLLECTION_WAIT_S", 0.3)
    send(stores, upload)
    held = claim(stores.jobs)
    make_visible(stores, held.job.document_id, chunk_count=0)
    held.settle(JobState.SUCCEEDED)
    with pytest.raises(StoreUnavailable):
        send(stores, upload, pipeline=OTHER)
    collect_and_close(stores, held)
    assert send(stores, upload, pipeline=OTHER).created


def test_a_submit_that_died_after_the_insert_is_repaired_by_sending_again(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second put failed after the job was open: the client sends again, and the job's source is there."""
    first = send(stores, upload)
    held = claim(stores.jobs)
    held.settle(JobState.FAILED)
    collect_and_close(stores, held)
    insert = stores.jobs.insert

    def collected_just_before(**fields: object) -> object:
        stores.objects.delete(ids.source_key(first.job.document_id))
        return insert(**fields)  # type: ignore[arg-type]  # passed through as it came

    def down(key: str, path: Path) -> bool:
        raise StoreUnavailable("The object store does not answer.")

    with monkeypatch.context() as broken:
        broken.setattr(stores.jobs, "insert", collected_just_before)
        broken.setattr(stores.objects, "put_file", down)
        with pytest.raises(StoreUnavailable):
            send(stores, upload)
    assert source(stores, send(stores, upload)) == PDF_BYTES


def test_a_submit_that_comes_second_leaves_no_orphan(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another submit's job was published and collected meanwhile: it is opened again, to collect this one's source."""
    register = stores.catalog.register

    def overtaken(document: object) -> object:
        monkeypatch.setattr(stores.catalog, "register", register)
        stores.objects.delete(ids.source_key(ids.document_id(TENANT, upload.sha256)))
        send(stores, upload)
        finish(stores)
        stores.objects.put_file(ids.source_key(ids.document_id(TENANT, upload.sha256)), upload.path)  # its put was slow
        return register(document)  # type: ignore[arg-type]  # passed through as it came

    monkeypatch.setattr(stores.catalog, "register", overtaken)
    assert not send(stores, upload).created
    assert stores.jobs.reopen_due() == 1
    collect_and_close(stores, claim(stores.jobs))
    assert stores.objects.keys("sources/") == []


def test_metadata_stays_with_the_document_and_can_be_replaced(stores: Stores, upload: Upload) -> None:
    """Said at submit, kept with the document; sent again with other metadata it is replaced, without it is not."""

    def say(metadata: Metadata | None) -> Metadata:
        sent = send(stores, replace(upload, metadata=metadata))
        return stores.catalog.document(TENANT, sent.job.document_id).metadata

    assert say(None) == {}
    assert say({"author": {"name": "Ann"}, "year": 2024}) == {"author": {"name": "Ann"}, "year": 2024}
    assert say(None) == {"author": {"name": "Ann"}, "year": 2024}
    assert say({"year": 2025}) == {"year": 2025}


def test_a_deleted_document_keeps_no_metadata(stores: Stores, upload: Upload) -> None:
    """What was said about it goes with it, and does not come back when the same bytes are sent again."""
    job = send(stores, replace(upload, metadata={"secret": "yes"})).job
    stores.catalog.tombstone(TENANT, job.document_id, deleted_at=datetime.now(UTC))
    stores.catalog.describe(job.document_id, {"late": True})
    gone = stores.catalog.known(job.document_id)
    assert gone is not None
    assert gone.metadata == {}


def test_a_document_whose_points_are_of_an_earlier_version_is_taken_in_again(stores: Stores, upload: Upload) -> None:
    """Search does not look where they are: sending it again opens a job, and the job after that serves."""
    earlier, now = (PIPELINE.model_copy(update={"points": points}) for points in (1, POINTS_VERSION))
    send(stores, upload, pipeline=earlier)
    finish(stores)
    assert not send(stores, upload, pipeline=earlier).created
    assert send(stores, upload, pipeline=now).created
    finish(stores)
    assert not send(stores, upload, pipeline=now).created
