"""The pipeline against real stores: what each kind of trouble ends in."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from pymongo.database import Database

from ingest import ids
from ingest.errors import PageUnreadable, StoreUnavailable, TooManyFailedPages, WorkerCrashed
from ingest.model import JobState, PageFailure, Revision, Stage, StageStatus
from ingest.pipeline import Pipeline
from ingest.revisions import roll_back
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.stores.jobs import JobStore
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, Killed, failing
from tests.integration.queue import claim_next

DatabaseOf = Database[dict[str, Any]]


async def test_a_document_is_published_whole_and_its_working_copies_go(bench: Bench) -> None:
    """Text pages in bulk, one read a scanned page; then exact in both stores, objects collected, document free."""
    bench.submit()
    job = await bench.run(bench.claim())
    assert job.state is JobState.SUCCEEDED
    assert bench.engine.calls["read_page"] == 3
    assert {job.stages[stage].status for stage in Stage} == {"done"}
    bench.assert_published_exactly(job)
    assert bench.stores.objects.keys(f"checkpoints/{job.document_id}/") == []
    assert not bench.stores.objects.exists(ids.source_key(job.document_id))
    assert not job.open


async def test_a_page_that_fails_twice_is_listed_and_its_neighbours_are_published(bench: Bench) -> None:
    """`partially_succeeded` with the page and the reason; source and checkpoints stay for a retry of it."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 4, WorkerCrashed("It died."), times=2))
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert [(page.page_number, page.reason) for page in job.failed_pages] == [(4, PageFailure.CRASH)]
    assert bench.engine.calls["read_page"] == 4
    bench.assert_published_exactly(job)
    chunks = bench.stores.catalog.chunks(bench.stores.catalog.document("default", job.document_id), limit=500)
    assert "on page 2" in " ".join(chunk.text for chunk in chunks)
    assert "on page 4" not in " ".join(chunk.text for chunk in chunks)
    assert bench.stores.objects.exists(ids.source_key(job.document_id))


async def test_whatever_is_logged_names_its_stage(bench: Bench) -> None:
    """Bound to the context in which pages are read and batches embedded, not only to the attempt's last line."""
    bench.submit()
    stages: dict[str, object] = {}

    async def note(name: str, _number: int) -> None:
        stages[name] = structlog.contextvars.get_contextvars().get("stage")

    await bench.run(bench.claim(), note)
    assert stages == {
        "inspect": Stage.EXTRACT,
        "read_page": Stage.EXTRACT,
        "cut": Stage.EMBED,
        "embed": Stage.EMBED,
        "store": Stage.STORE,
    }


async def test_a_page_that_fails_once_is_read_again(bench: Bench) -> None:
    """A crash of one page's worker costs that page one more try, and nothing else."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 4, WorkerCrashed("It died.")))
    assert job.state is JobState.SUCCEEDED
    assert bench.engine.calls["read_page"] == 4


async def test_a_page_that_cannot_be_rendered_is_not_tried_twice(bench: Bench) -> None:
    """An error that a retry cannot help is not retried."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 4, PageUnreadable("Broken."), times=9))
    assert [(page.page_number, page.reason) for page in job.failed_pages] == [(4, PageFailure.UNREADABLE)]
    assert bench.engine.calls["read_page"] == 3


async def test_too_many_failed_pages_fail_the_document_and_leave_no_rows(bench: Bench) -> None:
    """More than FANFOLD_MAX_FAILED_PAGE_RATIO: `failed`, rolled back, at once, with what a retry needs kept."""
    bench.settings = bench.settings.model_copy(update={"max_failed_page_ratio": 0.1})
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 4, WorkerCrashed("It died."), times=2))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "1 of 6 pages" in job.error.message
    bench.assert_no_rows(job)
    assert bench.stores.objects.exists(ids.source_key(job.document_id))


async def test_a_document_that_has_failed_for_certain_reads_no_further_page(bench: Bench) -> None:
    """The first page too many ends it: thousands that hang cost their time limit once, not each."""
    bench.settings = bench.settings.model_copy(update={"max_failed_page_ratio": 0.1})
    bench.submit()
    begun: list[int] = []

    async def fail_first(name: str, number: int) -> None:
        if name == "read_page":
            begun.append(number)
            if number == 2:
                raise PageUnreadable("Broken.")
            await asyncio.sleep(60)

    async with asyncio.timeout(30):
        job = await bench.run(bench.claim(), fail_first)
    assert 2 in begun
    assert job.state is JobState.FAILED
    assert [page.page_number for page in job.failed_pages] == [2]


async def test_a_store_that_does_not_answer_for_a_while_costs_no_attempt(bench: Bench) -> None:
    """An outage is waited out in place, with the lease kept; the job ends as if nothing had been."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("store", 0, StoreUnavailable("Gone."), times=3))
    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]
    bench.assert_published_exactly(job)


async def test_an_outage_longer_than_the_limit_sends_the_job_back(bench: Bench) -> None:
    """FANFOLD_OUTAGE_TIMEOUT_S bounds the waiting; even then the job is queued, not failed."""
    bench.settings = bench.settings.model_copy(update={"outage_timeout_s": 0.5})
    bench.submit()
    job = await bench.run(bench.claim(), failing("store", 0, StoreUnavailable("Gone."), times=99))
    assert (job.state, job.attempts[0].outcome) == (JobState.QUEUED, "requeued")


async def test_an_attempt_that_fails_sends_the_job_back_and_nothing_done_is_done_again(bench: Bench) -> None:
    """Requeued with the error on record; the next attempt repeats neither a page nor a batch."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("store", 0, WorkerCrashed("It died.")))
    assert (job.state, job.attempts[0].outcome) == (JobState.QUEUED, "requeued")
    assert job.attempts[0].error is not None
    assert job.attempts[0].error.stage is Stage.STORE
    await asyncio.sleep(bench.settings.retry_delay_s * 4)
    job = await bench.run(bench.claim())
    assert job.state is JobState.SUCCEEDED
    assert bench.engine.calls["read_page"] == 0
    bench.assert_published_exactly(job)


async def test_attempts_without_progress_are_bounded(bench: Bench) -> None:
    """A job that never gets anywhere ends `failed` after FANFOLD_MAX_ATTEMPTS, with its history."""
    bench.submit()
    for _ in range(bench.settings.max_attempts):
        await asyncio.sleep(bench.settings.retry_delay_s * 8)
        job = await bench.run(bench.claim(), failing("inspect", 0, WorkerCrashed("It died.")))
    assert job.state is JobState.FAILED
    assert [attempt.outcome for attempt in job.attempts] == ["requeued", "requeued", "failed"]
    assert job.stages[Stage.EXTRACT].status is StageStatus.FAILED
    assert job.stages[Stage.EXTRACT].finished_at is not None
    assert claim_next(bench.stores.jobs, "another") is None
    bench.assert_no_rows(job)


@pytest.mark.parametrize("call", ["inspect", "read_page", "cut", "embed", "store"])
async def test_a_holder_killed_anywhere_is_followed_by_one_that_finishes(
    bench: Bench, database: DatabaseOf, call: str
) -> None:
    """After the lease has run out the next claim goes on from the checkpoints, and the end is exact."""
    bench.submit()
    numbers = {"read_page": 4}
    with pytest.raises(Killed):
        await bench.run(bench.claim(), failing(call, numbers.get(call, 0), Killed()))
    _expire_leases(database)
    job = await bench.run(bench.claim("next"))
    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "succeeded"]
    bench.assert_published_exactly(job)


async def test_the_loser_of_a_lease_stops_and_touches_nothing(bench: Bench, database: DatabaseOf) -> None:
    """When somebody else has claimed the job, the first holder neither writes to it nor cleans up."""
    bench.submit()
    stolen: list[HeldJob] = []

    async def steal_at_embed(name: str, _number: int) -> None:
        if name == "embed" and not stolen:
            _expire_leases(database)
            stolen.append(bench.claim("thief"))

    after = await bench.run(bench.claim(), steal_at_embed)
    assert after.state is JobState.RUNNING
    assert after.lease.holder == "thief"
    assert bench.stores.objects.exists(ids.source_key(after.document_id))
    finished = await bench.run(stolen[0])
    assert finished.state is JobState.SUCCEEDED
    bench.assert_published_exactly(finished)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_between_the_two_publish_writes_is_finished_by_the_next_claim(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Decided on the job, not (or just) shown on the document: recovery ends in the same, exact place."""
    job = bench.submit()
    publish = bench.stores.catalog.publish

    def killed(*args: Any, **kwargs: Any) -> bool:
        if moment == "after":
            publish(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(bench.stores.catalog, "publish", killed)
        with pytest.raises(Killed):
            await bench.run(bench.claim())
    shown = bench.stores.catalog.document("default", job.document_id).published_revision
    assert shown == (None if moment == "before" else 1)
    _expire_leases(database)
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


@pytest.mark.parametrize("write", ["decide_publish", "publish", "settle"])
async def test_a_publish_whose_reply_is_lost_is_never_rolled_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Applied but not heard of, with no attempt left: what may be visible stays whole, and the next claim finishes."""
    bench.settings = bench.settings.model_copy(update={"max_attempts": 1})
    job = bench.submit()
    bench.settings = bench.settings.model_copy(update={"outage_timeout_s": 0})
    held = bench.claim()
    target: object = bench.stores.catalog if write == "publish" else held
    applied = getattr(target, write)

    def reply_lost(*args: Any, **kwargs: Any) -> None:
        applied(*args, **kwargs)
        raise StoreUnavailable("The reply was lost.")

    with monkeypatch.context() as patch:
        patch.setattr(target, write, reply_lost)
        patch.setattr(Pipeline, "_may_try_again", lambda _self: False)
        await bench.run(held)
    shown = bench.stores.catalog.document("default", job.document_id).published_revision
    assert shown == (None if write == "decide_publish" else 1)
    await asyncio.sleep(bench.settings.retry_delay_s * 4)
    _expire_leases(bench.database)
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


async def test_a_decided_publish_is_finished_however_many_attempts_it_took(bench: Bench, database: DatabaseOf) -> None:
    """Attempts and deadline bound the way to the decision, not what follows it."""
    bench.settings = bench.settings.model_copy(update={"max_attempts": 1})
    job = bench.submit()
    for _ in range(3):
        held = bench.claim()
        held.decide_publish = _killed_after(held.decide_publish)  # type: ignore[method-assign]  # crash right there
        with pytest.raises(Killed):
            await bench.run(held)
        _expire_leases(database)
    past = bench.stores.jobs.now() - timedelta(seconds=1)
    asked = {"attempts.0.worked_s": bench.settings.job_timeout_s, "cancel_requested_at": past}
    database["jobs"].update_one({"_id": job.job_id}, {"$set": asked})
    ended = await bench.run(bench.claim("last"))
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


async def test_a_rollback_that_takes_longer_than_the_lease_keeps_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is renewed while rows are removed: nobody else can begin in the middle of it."""
    bench.settings = bench.settings.model_copy(update={"max_attempts": 1, "lease_ttl_s": 1.0})
    bench.stores = replace(bench.stores, jobs=JobStore(bench.database, lease_ttl_s=1.0, job_timeout_s=60))
    bench.submit()
    stolen: list[HeldJob | None] = []

    def slow(stores: Stores, revision: Revision) -> None:
        time.sleep(2.5)
        stolen.append(claim_next(stores.jobs, "thief"))
        roll_back(stores, revision)

    monkeypatch.setattr("ingest.revisions.roll_back", slow)
    ended = await bench.run(bench.claim(), failing("store", 1, TooManyFailedPages("Not today.")))
    assert stolen == [None]
    assert ended.state is JobState.FAILED


async def test_a_crash_before_collection_is_collected_by_the_next_claim(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`succeeded` is durable first; what was left to collect is collected later, and the state does not change."""
    bench.submit()

    def killed(*_args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("ingest.collection.collect_rows", killed)
        with pytest.raises(Killed):
            await bench.run(bench.claim())
    _expire_leases(database)
    ended = await bench.run(bench.claim("next"))
    assert (ended.state, len(ended.attempts), ended.open) == (JobState.SUCCEEDED, 1, False)
    assert not bench.stores.objects.exists(ids.source_key(ended.document_id))
    bench.assert_published_exactly(ended)


async def test_a_new_pipeline_replaces_the_old_version_only_when_it_is_published(bench: Bench) -> None:
    """Re-ingestion: the old revision is shown until the new one is whole, a failure leaves it, success removes it."""
    changed = PIPELINE.model_copy(update={"embed": "0" * 16})
    first = bench.submit()
    await bench.run(bench.claim())
    shown: list[int | None] = []

    async def look(_name: str, _number: int) -> None:
        shown.append(bench.stores.catalog.document("default", first.document_id).published_revision)

    second = bench.submit(changed)
    assert second.revision == 2
    ended = await bench.run(bench.claim(), look, changed)
    assert ended.state is JobState.SUCCEEDED
    assert set(shown) == {1}
    bench.assert_published_exactly(ended)


async def test_where_pages_are_kept_another_embedding_model_reads_none_again(bench: Bench) -> None:
    """FANFOLD_KEEP_PAGES: what the pages of a published document were read as stays, and nothing else."""
    changed = PIPELINE.model_copy(update={"embed": "0" * 16})
    bench.settings = bench.settings.model_copy(update={"keep_pages": True})
    bench.submit()
    first = await bench.run(bench.claim())
    assert bench.engine.calls["read_page"] == 3
    kept = bench.stores.objects.keys(ids.checkpoint_prefix(first.document_id))
    assert len(kept) == 1 + 3  # the inspection and each page that was read
    assert all(key.startswith(ids.extract_prefix(first.document_id, PIPELINE.extract)) for key in kept)
    bench.submit(changed)
    second = await bench.run(bench.claim(), pipeline=changed)
    assert (second.state, bench.engine.calls["read_page"]) == (JobState.SUCCEEDED, 0)
    bench.assert_published_exactly(second)
    assert bench.stores.objects.keys(ids.checkpoint_prefix(first.document_id)) == kept
    read_otherwise = PIPELINE.model_copy(update={"extract": "1" * 16, "chunk": "2" * 16, "embed": "3" * 16})
    bench.submit(read_otherwise)
    third = await bench.run(bench.claim(), pipeline=read_otherwise)
    assert (third.state, bench.engine.calls["read_page"]) == (JobState.SUCCEEDED, 3)
    replaced = bench.stores.objects.keys(ids.checkpoint_prefix(first.document_id))
    assert len(replaced) == len(kept)
    assert all(key.startswith(ids.extract_prefix(first.document_id, "1" * 16)) for key in replaced)


async def test_a_failed_re_ingestion_leaves_the_old_version_as_it_was(bench: Bench) -> None:
    """Rollback removes the new revision's rows only."""
    changed = PIPELINE.model_copy(update={"embed": "0" * 16})
    bench.submit()
    first = await bench.run(bench.claim())
    bench.settings = bench.settings.model_copy(update={"max_attempts": 1})
    bench.submit(changed)
    for _ in range(2):  # the first attempt got somewhere, so that only the second one counts
        await asyncio.sleep(bench.settings.retry_delay_s * 4)
        failed = await bench.run(bench.claim(), failing("store", 0, WorkerCrashed("It died.")), changed)
    assert failed.state is JobState.FAILED
    bench.assert_no_rows(failed)
    bench.assert_published_exactly(first)


async def test_a_pipeline_that_changes_between_two_attempts_ends_exact(bench: Bench, database: DatabaseOf) -> None:
    """The service was restarted with other settings: what the first attempt stored is replaced, nothing is mixed."""
    changed = PIPELINE.model_copy(update={"chunk": "1" * 16, "embed": "0" * 16})
    small, usual = {"chunk_tokens": 40, "chunk_overlap_tokens": 0}, bench.settings
    bench.settings = usual.model_copy(update=small)
    bench.submit()
    with pytest.raises(Killed):
        await bench.run(bench.claim(), failing("store", 6, Killed()))
    _expire_leases(database)
    bench.settings = usual
    ended = await bench.run(bench.claim("next"), pipeline=changed)
    assert ended.state is JobState.SUCCEEDED, ended.attempts
    assert ended.pipeline.fingerprint == changed.fingerprint
    assert bench.engine.calls["read_page"] == 0
    bench.assert_published_exactly(ended)


async def test_a_deleted_document_is_never_published(bench: Bench, database: DatabaseOf) -> None:
    """A tombstone that appears while the job runs wins over the publish; nothing is left."""
    job = bench.submit()

    async def delete_at_store(name: str, _number: int) -> None:
        if name == "store":
            database["documents"].update_one(
                {"_id": job.document_id}, {"$set": {"deleted_at": bench.stores.jobs.now()}}
            )

    ended = await bench.run(bench.claim(), delete_at_store)
    assert ended.state is JobState.FAILED
    bench.assert_no_rows(ended)


async def test_a_cancelled_coroutine_gives_the_job_back(bench: Bench) -> None:
    """A supervisor that shuts down releases its jobs: they are claimable at once, not after the lease."""
    bench.submit()
    started = asyncio.Event()

    async def hang(name: str, _number: int) -> None:
        if name == "cut":
            started.set()
            await asyncio.sleep(30)

    attempt = asyncio.create_task(bench.run(bench.claim(), hang))
    await started.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    ended = await bench.run(bench.claim("next"))
    assert [attempt.outcome for attempt in ended.attempts] == ["released", "succeeded"]


def _killed_after(write: Callable[[], None]) -> Callable[[], None]:
    def killed() -> None:
        write()
        raise Killed

    return killed


def _expire_leases(database: DatabaseOf) -> None:
    """What the passing of time would do."""
    past = database.client.admin.command("hello")["localTime"] - timedelta(seconds=1)
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": past}})
