"""Limits of a job: the time that it, one of its stages, or nothing at all may take; and what a late thread may do."""

import asyncio
from typing import Any

import pytest
from pymongo.database import Database

from ingest.errors import Category, LeaseLost, StoreUnavailable
from ingest.model import Failure, JobState, Stage, StageStatus
from ingest.revisions import roll_back
from ingest.stores import Stores
from ingest.tenure import Tenure
from ingest.worktime import moved, waiting
from tests.builders import a_revision, axis_vectors, some_chunks
from tests.integration.bench import Bench
from tests.integration.engines import Hook

DatabaseOf = Database[dict[str, Any]]
A_FAILURE = Failure(category=Category.STORE, message="A store did not answer.", retryable=True)


def hang_in(call: str) -> Hook:
    """Never come back from calls of this kind."""

    async def hang(name: str, _number: int) -> None:
        if name == call:
            await asyncio.sleep(60)

    return hang


@pytest.mark.parametrize("earlier_s", [0.0, 3600.0])
async def test_a_job_over_its_time_fails_and_is_not_tried_again(
    bench: Bench, database: DatabaseOf, earlier_s: float
) -> None:
    """The job's limit counts the work of all its attempts; when it is used up no other attempt begins."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"job_timeout_s": earlier_s + 1.0})
    first = bench.claim()
    first.requeue(A_FAILURE, delay_s=0)
    database["jobs"].update_one({"_id": first.job.job_id}, {"$set": {"attempts.0.worked_s": earlier_s}})
    ended = await bench.run(bench.claim("next"), hang_in("cut"))
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert "FANFOLD_JOB_TIMEOUT_S" in ended.error.message
    assert earlier_s + 1 <= ended.worked.total_seconds() < earlier_s + 5


@pytest.mark.parametrize("limit", ["job_timeout_s", "stage_timeout_s", "stall_timeout_s"])
async def test_the_waiting_for_a_turn_counts_for_no_limit(bench: Bench, limit: str) -> None:
    """A job whose pages wait longer for other jobs than its limit is long goes on, under the lease of its attempt."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={limit: 4.0})

    async def waits_long(name: str, _number: int) -> None:
        if name == "read_page":
            with waiting():
                await asyncio.sleep(6.0)

    ended = await bench.run(bench.claim(), waits_long)
    assert ended.state is JobState.SUCCEEDED
    assert len(ended.attempts) == 1
    assert ended.worked.total_seconds() < 4.0


async def test_a_decided_publish_that_gets_on_too_slowly_is_tried_again(bench: Bench, database: DatabaseOf) -> None:
    """The limit of a stage is all that ends an attempt after the decision: the next one goes on, and publishes."""
    job = bench.submit()
    decided = {"stages.publish.status": StageStatus.RUNNING, "stages.publish.started_at": bench.stores.jobs.now()}
    database["jobs"].update_one({"_id": job.job_id}, {"$set": decided})
    patient = bench.settings
    bench.settings = patient.model_copy(update={"stage_timeout_s": 1.0, "job_timeout_s": 0.1})
    slow = await bench.run(bench.claim(), hang_in("store"))
    assert slow.state is JobState.QUEUED
    assert slow.attempts[0].error is not None
    assert "FANFOLD_STAGE_TIMEOUT_S" in slow.attempts[0].error.message
    bench.settings = patient
    await asyncio.sleep(patient.retry_delay_s * 4)
    assert (await bench.run(bench.claim("next"))).state is JobState.SUCCEEDED


async def test_a_page_that_never_returns_counts_although_others_wait_behind_it(bench: Bench) -> None:
    """The job is at work while any of its pages is."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"stage_timeout_s": 1.0})
    first = asyncio.Event()

    async def hangs_or_waits(name: str, _number: int) -> None:
        if name == "read_page" and not first.is_set():
            first.set()
            await asyncio.sleep(60)
        elif name == "read_page":
            with waiting():
                await asyncio.sleep(60)

    ended = await bench.run(bench.claim(), hangs_or_waits)
    assert ended.attempts[0].error is not None
    assert "FANFOLD_STAGE_TIMEOUT_S" in ended.attempts[0].error.message


@pytest.mark.parametrize(
    ("call", "stage"), [("read_page", Stage.EXTRACT), ("embed", Stage.EMBED), ("store", Stage.STORE)]
)
async def test_a_stage_over_its_time_ends_the_attempt(bench: Bench, call: str, stage: Stage) -> None:
    """The message names the stage and the setting; what is committed stays for the next attempt."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"stage_timeout_s": 1.0})
    ended = await bench.run(bench.claim(), hang_in(call))
    assert ended.state is JobState.QUEUED
    error = ended.attempts[0].error
    assert error is not None
    assert (error.stage, error.category) == (stage, "timeout")
    assert f"Stage {stage} took longer than FANFOLD_STAGE_TIMEOUT_S" in error.message


async def test_a_stuck_job_is_not_kept_alive_by_its_heartbeat(bench: Bench) -> None:
    """Renewals go on only while work gets on: an attempt in which nothing moves is given up, and it counts."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"stall_timeout_s": 1.0, "max_attempts": 2})
    first = await bench.run(bench.claim(), hang_in("inspect"))
    assert first.state is JobState.QUEUED
    await asyncio.sleep(bench.settings.retry_delay_s * 4)
    second = await bench.run(bench.claim("next"), hang_in("inspect"))
    assert second.state is JobState.FAILED
    assert [attempt.error and attempt.error.category for attempt in second.attempts] == ["timeout", "timeout"]
    assert second.error is not None
    assert "FANFOLD_STALL_TIMEOUT_S" in second.error.message


async def test_slow_work_that_gets_on_is_not_stuck(bench: Bench) -> None:
    """Many steps, together far longer than the limit, each shorter: nothing is given up."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"stall_timeout_s": 0.8})

    async def slow(_name: str, _number: int) -> None:
        await asyncio.sleep(0.4)

    ended = await bench.run(bench.claim(), slow)
    assert ended.state is JobState.SUCCEEDED
    assert len(ended.attempts) == 1


def test_a_thread_that_wakes_after_the_lease_is_told_so(bench: Bench) -> None:
    """By the monotonic clock, before the lease can have ended for anybody else."""
    bench.submit()
    tenure = Tenure(bench.claim(), bench.settings)
    tenure.check_held()
    tenure.held.renewed_at -= bench.settings.lease_ttl_s
    with pytest.raises(LeaseLost):
        tenure.check_held()


def test_a_rollback_that_wakes_after_its_lease_removes_no_row_of_the_next_attempt(stores: Stores) -> None:
    """Rows carry the epoch that wrote them: a late rollback sees those of a later attempt, and removes none."""
    late, current = a_revision("d", epoch=1), a_revision("d", epoch=2)
    for revision in (late, current):
        stores.catalog.upsert_chunks(revision, some_chunks(3))
        stores.vectors.upsert(revision, some_chunks(3), axis_vectors(3))
    with pytest.raises(Exception, match="MongoDB holds 3 chunks and Qdrant 3 points instead of 0"):
        roll_back(stores, late)
    assert len(stores.catalog.chunk_ids("d", 1)) == len(stores.vectors.point_ids("d", 1)) == 3
    roll_back(stores, current)
    assert stores.catalog.chunk_ids("d", 1) == stores.vectors.point_ids("d", 1) == set()


async def test_a_hint_in_the_last_moment_keeps_no_lease(bench: Bench) -> None:
    """It comes just as the work ends: the heartbeat ends all the same, and renews nothing that nobody works on."""
    bench.submit()
    tenure = Tenure(bench.claim(), bench.settings)

    async def work() -> None:
        await asyncio.sleep(0.1)  # the heartbeat waits for its next beat, or a hint
        tenure.hint()

    holding = asyncio.create_task(tenure.while_held(work()))
    done, _ = await asyncio.wait({holding}, timeout=10)
    assert done


async def test_one_long_inspection_that_comes_from_page_to_page_is_not_stuck(bench: Bench) -> None:
    """It is one unit of work, far longer than the limit: each page that it comes to is movement."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"stall_timeout_s": 0.8})

    async def page_by_page(name: str, _number: int) -> None:
        if name == "inspect":
            for _ in range(5):
                await asyncio.sleep(0.4)
                moved()

    ended = await bench.run(bench.claim(), page_by_page)
    assert (ended.state, len(ended.attempts)) == (JobState.SUCCEEDED, 1)


async def test_the_wait_for_a_turn_uses_up_no_patience_with_a_store(bench: Bench) -> None:
    """A page that waited longer than FANFOLD_OUTAGE_TIMEOUT_S for its turn, then met a store that was away, is read."""
    bench.submit()
    bench.settings = bench.settings.model_copy(update={"outage_timeout_s": 1.0})
    failures = [StoreUnavailable("S3 is busy.")]

    async def waits_then_fails(name: str, _number: int) -> None:
        if name == "read_page" and failures:
            failure = failures.pop()
            with waiting():
                await asyncio.sleep(1.5)
            raise failure

    ended = await bench.run(bench.claim(), waits_then_fails)
    assert (ended.state, len(ended.attempts)) == (JobState.SUCCEEDED, 1)
