"""A cancel stops the work, rolls it back, and only then says so; against a publish at the same moment one wins."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids
from ingest.errors import CancelRequested, NotFound, WorkerCrashed
from ingest.model import JobState
from ingest.pipeline import Pipeline
from tests.builders import at_once
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, failing
from tests.integration.queue import claim_next, insert

DatabaseOf = Database[dict[str, Any]]


@pytest.mark.parametrize("call", ["inspect", "read_page", "cut", "embed", "store"])
async def test_a_cancel_in_any_stage_leaves_nothing(bench: Bench, call: str) -> None:
    """The work is stopped; no row, no checkpoint is left when `cancelled` appears; a retry has its source."""
    job = bench.submit()
    stopped = []

    async def cancel_then_hang(name: str, _number: int) -> None:
        if name == call:
            assert bench.stores.jobs.request_cancel(job.job_id).shown_state is JobState.CANCELLING
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                stopped.append(name)
                raise

    ended = await bench.run(bench.claim(), cancel_then_hang)
    assert set(stopped) == {call}
    assert (ended.state, ended.open) == (JobState.CANCELLED, False)
    bench.assert_no_rows(ended)
    assert bench.stores.objects.keys(ids.checkpoint_prefix(job.document_id)) == []
    assert bench.stores.objects.exists(ids.source_key(job.document_id))


async def test_a_hint_is_followed_at_once(bench: Bench) -> None:
    """The record is read when the hint comes, not when it would have been read anyway."""
    job = bench.submit()
    at_work = asyncio.Event()

    async def hang(name: str, _number: int) -> None:
        if name == "read_page":
            at_work.set()
            await asyncio.sleep(30)

    bench.engine.before = hang
    pipeline = Pipeline(bench.claim(), bench.stores, bench.engine, PIPELINE, bench.settings)
    running = asyncio.create_task(pipeline.run())
    await at_work.wait()
    bench.stores.jobs.request_cancel(job.job_id)
    asked_at = time.monotonic()
    pipeline.hint()
    await running
    assert time.monotonic() - asked_at < 0.4
    assert bench.stores.jobs.job("default", job.job_id).state is JobState.CANCELLED


async def test_a_hint_without_a_request_changes_nothing(bench: Bench) -> None:
    """The flag is only a hint: MongoDB decides."""
    bench.submit()
    pipeline = Pipeline(bench.claim(), bench.stores, bench.engine, PIPELINE, bench.settings)
    running = asyncio.create_task(pipeline.run())
    pipeline.hint()
    await running
    job = bench.stores.jobs.find("default", limit=1)[0]
    assert job.state is JobState.SUCCEEDED


async def test_a_queued_job_is_cancelled_by_whoever_claims_it_also_when_it_waits(bench: Bench) -> None:
    """A job that waits for another attempt becomes claimable the moment it is cancelled."""
    job = bench.submit()
    bench.settings = bench.settings.model_copy(update={"retry_delay_s": 1000.0})
    waiting = await bench.run(bench.claim(), failing("inspect", 0, WorkerCrashed("It died.")))
    assert waiting.state is JobState.QUEUED
    assert claim_next(bench.stores.jobs, "early") is None
    bench.stores.jobs.request_cancel(job.job_id)
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.CANCELLED


async def test_cancelled_jobs_are_claimed_beside_the_others(bench: Bench) -> None:
    """Cancelling does not wait for work: `claim_ending` passes over every other job, and takes many at a time."""
    job = bench.submit()
    assert bench.stores.jobs.claim_ending("busy", limit=9) == []
    others = [insert(bench.stores.jobs, f"other {number}") for number in range(4)]
    for asked in (job, *others[:3]):
        bench.stores.jobs.request_cancel(asked.job_id)
    first = bench.stores.jobs.claim_ending("busy", limit=3)
    second = bench.stores.jobs.claim_ending("busy", limit=3)
    assert [len(first), len(second)] == [3, 1]
    assert {held.job.job_id for held in first + second} == {job.job_id, *(other.job_id for other in others[:3])}


async def test_a_job_whose_supervisor_is_dead_is_cancelled_after_its_lease(bench: Bench, database: DatabaseOf) -> None:
    """Nobody holds it any more: the next claim rolls back what the dead one wrote."""
    job = bench.submit()
    bench.claim("dead")
    bench.stores.jobs.request_cancel(job.job_id)
    past = bench.stores.jobs.now() - timedelta(seconds=1)
    database["jobs"].update_one({"_id": job.job_id}, {"$set": {"lease.expires_at": past}})
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.CANCELLED
    bench.assert_no_rows(ended)


async def test_a_cancel_that_comes_before_publish_wins(bench: Bench) -> None:
    """Against a publish at the same moment exactly one wins: a cancel before the decision leaves nothing visible."""
    job = bench.submit()
    held = bench.claim()
    decide = held.decide_publish

    def decide_too_late() -> None:
        bench.stores.jobs.request_cancel(job.job_id)
        decide()

    held.decide_publish = decide_too_late  # type: ignore[method-assign]  # a cancel at the very last moment
    ended = await bench.run(held)
    assert ended.state is JobState.CANCELLED
    assert bench.stores.catalog.document("default", job.document_id).published_revision is None
    bench.assert_no_rows(ended)


async def test_a_cancel_that_comes_after_the_decision_is_refused(bench: Bench) -> None:
    """The record says so: no cancel request on it, and the job ends published."""
    job = bench.submit()
    held = bench.claim()
    decide = held.decide_publish
    answers = []

    def decide_first() -> None:
        decide()
        answers.append(bench.stores.jobs.request_cancel(job.job_id))

    held.decide_publish = decide_first  # type: ignore[method-assign]  # a cancel the moment after
    ended = await bench.run(held)
    assert [answer.cancel_requested_at for answer in answers] == [None]
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


@pytest.mark.parametrize("round_number", range(5))
def test_of_cancel_and_publish_at_the_same_moment_exactly_one_wins(bench: Bench, round_number: int) -> None:
    """Both ask the server at once: either the job shows the request and is undecided, or the other way round."""
    job = bench.submit()
    held = bench.claim(f"holder {round_number}")
    lost: list[int] = []

    def decide_or_cancel(number: int) -> None:
        try:
            bench.stores.jobs.request_cancel(job.job_id) if number else held.decide_publish()
        except CancelRequested:
            lost.append(number)

    at_once(2, decide_or_cancel)
    record = bench.stores.jobs.job("default", job.job_id)
    assert (record.cancel_requested_at is None) is record.publish_decided is (lost == [])


async def test_a_cancel_may_be_repeated_and_never_changes_an_end(bench: Bench) -> None:
    """Twice in a row keeps the first instant; after the end it changes nothing; an unknown job is `NotFound`."""
    job = bench.submit()
    first = bench.stores.jobs.request_cancel(job.job_id)
    assert bench.stores.jobs.request_cancel(job.job_id).cancel_requested_at == first.cancel_requested_at
    ended = await bench.run(bench.claim())
    assert bench.stores.jobs.request_cancel(job.job_id) == ended
    with pytest.raises(NotFound):
        bench.stores.jobs.request_cancel("unknown")


@pytest.mark.parametrize("tries", [1, 3])
async def test_a_cancel_is_obeyed_also_when_the_attempt_fails_meanwhile(bench: Bench, tries: int) -> None:
    """It is not put off until after the pause before the next attempt, and does not end as `failed`."""
    job = bench.submit()
    bench.settings = bench.settings.model_copy(update={"retry_delay_s": 1000.0, "max_attempts": tries})

    async def cancel_then_crash(_name: str, _number: int) -> None:
        bench.stores.jobs.request_cancel(job.job_id)
        raise WorkerCrashed("It died.")

    assert (await bench.run(bench.claim(), cancel_then_crash)).state is JobState.CANCELLED


@pytest.mark.parametrize(("ending", "tries"), [("requeue", 3), ("settle", 1)])
async def test_a_cancel_before_the_last_write_of_a_failed_attempt_is_obeyed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ending: str, tries: int
) -> None:
    """The holder that gives the job back, or fails it, has not seen the cancel: that very write does."""
    job = bench.submit()
    bench.settings = bench.settings.model_copy(update={"retry_delay_s": 1000.0, "max_attempts": tries})
    held = bench.claim()
    write = getattr(held, ending)

    def cancel_then_write(*args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        bench.stores.jobs.request_cancel(job.job_id)
        write(*args, **kwargs)

    monkeypatch.setattr(held, ending, cancel_then_write)
    ended = await bench.run(held, failing("inspect", 0, WorkerCrashed("It died.")))
    assert (ended.state, len(ended.attempts), ended.open) == (JobState.CANCELLED, 1, False)
