"""A deleted document is hidden at once, its work stops, and whatever is left of it goes: also what comes late."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids
from ingest.collection import SWEEP_AGAIN
from ingest.deletion import delete
from ingest.errors import NotFound, StoreUnavailable, TooManyFailedPages
from ingest.model import Job, JobState
from ingest.submission import Upload
from serve.search import search
from serve.search_schemas import Hit, SearchRequest
from tests.builders import TENANT, a_revision, an_upload, axis_vectors, some_chunks
from tests.checks import assert_nothing_left
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, failing
from tests.pdfs import SCAN, pdf_of

DatabaseOf = Database[dict[str, Any]]
TEXT = "The lamp of the lighthouse is wound up by hand, every four hours, all through the night. "
EVERYTHING = [float(value) for value in axis_vectors(1)[0]]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """One page with text, one to OCR."""
    return an_upload(tmp_path, pdf_of([TEXT * 8, SCAN]))


def found(bench: Bench) -> list[Hit]:
    """What a user finds who asks for everything."""
    return search(bench.stores, TENANT, SearchRequest(query="anything"), EVERYTHING).hits


async def sweep(bench: Bench) -> Job:
    """What a supervisor does about it."""
    assert bench.stores.jobs.reopen_due() == 1
    return await bench.run(bench.claim("sweeper"))


def let_pass(database: DatabaseOf, time: timedelta) -> None:
    """Move every instant of documents and jobs into the past."""
    for record in database["jobs"].find({"sweep_at": {"$ne": None}}):
        database["jobs"].update_one({"_id": record["_id"]}, {"$set": {"sweep_at": record["sweep_at"] - time}})
    for record in database["documents"].find({"deleted_at": {"$ne": None}}):
        moved = {"deleted_at": record["deleted_at"] - time}
        database["documents"].update_one({"_id": record["_id"]}, {"$set": moved})


async def test_a_deleted_document_is_hidden_at_once_and_then_gone(bench: Bench) -> None:
    """Before any sweep no reader finds it; afterwards no store holds a row or an object of it."""
    bench.submit()
    job = await bench.run(bench.claim())
    assert found(bench)
    delete(bench.stores, TENANT, job.document_id)
    assert found(bench) == []
    with pytest.raises(NotFound):
        bench.stores.catalog.document(TENANT, job.document_id)
    swept = await sweep(bench)
    assert_nothing_left(bench.stores, job.document_id, job.revision)
    assert (swept.state, swept.open) == (JobState.SUCCEEDED, False)


async def test_what_a_zombie_writes_after_the_first_sweep_goes_with_the_second(
    bench: Bench, database: DatabaseOf
) -> None:
    """A worker that slept through the delete still upserts: the sweep comes again, and then no more."""
    bench.submit()
    job = await bench.run(bench.claim())
    delete(bench.stores, TENANT, job.document_id)
    swept = await sweep(bench)
    assert swept.sweep_at is not None
    assert bench.stores.jobs.reopen_due() == 0
    bench.stores.catalog.upsert_chunks(a_revision(job.document_id, 1), some_chunks(2))
    bench.stores.vectors.upsert(a_revision(job.document_id, 1), some_chunks(2), axis_vectors(2))
    bench.stores.objects.put(f"{ids.checkpoint_prefix(job.document_id)}x/pages/000002.parquet", b"late")
    let_pass(database, SWEEP_AGAIN)
    ended = await sweep(bench)
    assert_nothing_left(bench.stores, job.document_id, job.revision)
    assert ended.sweep_at is None


async def test_a_delete_stops_the_job_that_is_at_work(bench: Bench) -> None:
    """In the middle of storing: the job ends `cancelled`, and the same attempt sweeps everything, source included."""
    job = bench.submit()

    async def delete_while_storing(call: str, _number: int) -> None:
        if call == "store":
            delete(bench.stores, TENANT, job.document_id)

    ended = await bench.run(bench.claim(), delete_while_storing)
    assert (ended.state, ended.open) == (JobState.CANCELLED, False)
    assert_nothing_left(bench.stores, job.document_id, job.revision)


@pytest.mark.parametrize("when", ["before publishing", "before closing"])
async def test_a_delete_that_is_too_late_to_cancel_still_deletes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Between the decision to publish and the end of the job: the job ends as it must, the document stays hidden."""
    job = bench.submit()
    held = bench.claim()
    catalog, close = bench.stores.catalog, held.close
    publish = catalog.publish

    def publish_after_delete(*args: Any, **kwargs: Any) -> bool:
        delete(bench.stores, TENANT, job.document_id)
        return publish(*args, **kwargs)

    def close_after_delete(**kwargs: Any) -> bool:
        monkeypatch.undo()
        delete(bench.stores, TENANT, job.document_id)
        return close(**kwargs)

    if when == "before publishing":
        monkeypatch.setattr(catalog, "publish", publish_after_delete)
    else:
        monkeypatch.setattr(held, "close", close_after_delete)
    ended = await bench.run(held)
    assert ended.state is (JobState.FAILED if when == "before publishing" else JobState.SUCCEEDED)
    assert_nothing_left(bench.stores, job.document_id, job.revision)
    assert found(bench) == []


async def test_a_deleted_document_that_is_sent_again_comes_back(bench: Bench, database: DatabaseOf) -> None:
    """As a new revision; sweeps of the old one that are still due do not touch it."""
    bench.submit()
    first = await bench.run(bench.claim())
    delete(bench.stores, TENANT, first.document_id)
    again = bench.submit()
    assert again.revision == 2
    assert bench.stores.jobs.reopen_due() == 0
    ended = await bench.run(bench.claim())
    let_pass(database, SWEEP_AGAIN)
    assert bench.stores.jobs.reopen_due() == 0
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


async def test_a_submit_after_a_delete_is_not_given_the_deleted_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had published and not yet ended when its document was deleted: the new submit waits for a job of its own."""
    bench.submit()
    held = bench.claim()
    settle = held.settle
    refused = []

    def settle_after_delete(*args: Any, **kwargs: Any) -> None:
        delete(bench.stores, TENANT, held.job.document_id)
        with pytest.raises(StoreUnavailable) as refusal:
            bench.submit()
        refused.append(refusal)
        settle(*args, **kwargs)

    monkeypatch.setattr("ingest.submission.COLLECTION_WAIT_S", 0.2)
    monkeypatch.setattr(held, "settle", settle_after_delete)
    first = await bench.run(held)
    assert len(refused) == 1
    again = bench.submit()
    assert (again.job_id != first.job_id, again.revision) == (True, 2)
    bench.assert_published_exactly(await bench.run(bench.claim()))


async def test_a_submit_during_the_sweep_waits_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep holds the document: a new job begins after it, and its source is not swept away."""
    bench.submit()
    first = await bench.run(bench.claim())
    delete(bench.stores, TENANT, first.document_id)
    bench.stores.jobs.reopen_due()
    sweeper = bench.claim("sweeper")
    monkeypatch.setattr("ingest.submission.COLLECTION_WAIT_S", 0.2)
    with pytest.raises(Exception, match="still being cleaned up"):
        bench.submit()
    await bench.run(sweeper)
    again = bench.submit()
    assert bench.stores.objects.exists(ids.source_key(again.document_id))
    ended = await bench.run(bench.claim())
    bench.assert_published_exactly(ended)


async def test_a_delete_may_be_repeated_and_is_the_tenants_own(bench: Bench) -> None:
    """A client whose answer was lost asks again; another tenant has no such document."""
    job = bench.submit()
    with pytest.raises(NotFound):
        delete(bench.stores, "another", job.document_id)
    first = delete(bench.stores, TENANT, job.document_id)
    assert delete(bench.stores, TENANT, job.document_id) == first
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.CANCELLED


async def test_what_a_failed_job_kept_goes_when_the_time_for_a_retry_is_over(
    bench: Bench, database: DatabaseOf
) -> None:
    """Source and checkpoints stay for FANFOLD_RETRY_WINDOW_S; then the job is opened once more, and they go."""
    job = bench.submit()
    failed = await bench.run(bench.claim(), failing("embed", 0, TooManyFailedPages("Half of it.")))
    assert failed.state is JobState.FAILED
    assert bench.stores.objects.exists(ids.source_key(job.document_id))
    assert bench.stores.objects.keys(ids.checkpoint_prefix(job.document_id))
    assert bench.stores.jobs.reopen_due() == 0
    let_pass(database, timedelta(seconds=bench.settings.retry_window_s))
    swept = await sweep(bench)
    assert (swept.state, swept.sweep_at) == (JobState.FAILED, None)
    assert_nothing_left(bench.stores, job.document_id, job.revision)


async def test_the_rows_of_a_deleted_version_go_also_when_the_next_job_fails(bench: Bench) -> None:
    """Deleted, sent again before the sweep, and failed: the newer job's collection removes what nobody sees."""
    bench.submit(PIPELINE)
    first = await bench.run(bench.claim())
    delete(bench.stores, TENANT, first.document_id)
    bench.submit(PIPELINE)
    failed = await bench.run(bench.claim(), failing("embed", 0, TooManyFailedPages("Half of it.")))
    assert (failed.state, failed.revision) == (JobState.FAILED, 2)
    bench.assert_no_rows(first)


async def test_a_submit_after_a_delete_brings_the_document_back_for_a_job_that_missed_it(bench: Bench) -> None:
    """Who sends the bytes after the delete is not given a job that can never publish."""
    document_id = bench.submit().document_id
    delete(bench.stores, TENANT, document_id)
    await bench.run(bench.claim())
    opened = bench.stores.jobs.insert(tenant=TENANT, document_id=document_id, revision=2, pipeline=PIPELINE)
    assert opened is not None
    again = bench.submit()
    assert again.job_id == opened.job_id
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)
