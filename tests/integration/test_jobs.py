"""The queue against a real server: one claim at a time, fenced writes, and nothing that changes after the end."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.database import Database

from ingest import worktime
from ingest.errors import Category, LeaseLost, StoreError, StoreRefused, StoreUnavailable
from ingest.model import FailedPage, Failure, JobState, PageFailure, Stage, StageStatus
from ingest.stores.held import HeldJob
from ingest.stores.jobrecords import MOST_ATTEMPTS
from ingest.stores.jobs import JobStore
from ingest.worktime import waiting
from tests.builders import KEEP_NOTHING, NOON, TENANT, at_once, pipeline_named
from tests.integration.queue import claim, claim_next, insert

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAILURE = Failure(category=Category.STORE, message="Qdrant does not answer.", retryable=True, stage=Stage.STORE)
LOST_PAGE = FailedPage(page_number=3, reason=PageFailure.TIMEOUT, message="too slow")
PUBLISHED = (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED)
UNPUBLISHED = (JobState.FAILED, JobState.CANCELLED)
WRITES: dict[str, Callable[[HeldJob], object]] = {  # every public method of `HeldJob`
    "renew": lambda held: held.renew(),
    "repin": lambda held: held.repin(pipeline_named("other")),
    "start_stage": lambda held: held.start_stage(Stage.EMBED),
    "finish_stage": lambda held: held.finish_stage(Stage.EXTRACT, "key"),
    "report": lambda held: held.report({"pages_done": 99}),
    "set_pace": lambda held: held.set_pace({"pages_done": 99}, 98),
    "record_failed_pages": lambda held: held.record_failed_pages([LOST_PAGE]),
    "decide_publish": lambda held: held.decide_publish(),
    "settle": lambda held: held.settle(JobState.FAILED, FAILURE),
    "requeue": lambda held: held.requeue(FAILURE, delay_s=0),
    "release": lambda held: held.release(),
    "look": lambda held: held.look(),
    "close": lambda held: held.close(keeping=KEEP_NOTHING, sweep_at=None),
}


def change(database: Database[dict[str, Any]], job_id: str, **fields: Any) -> None:
    """Set fields behind the queue's back (`__` stands for a dot)."""
    named = {name.replace("__", "."): value for name, value in fields.items()}
    assert database["jobs"].update_one({"_id": job_id}, {"$set": named}).matched_count == 1


def expire(database: Database[dict[str, Any]], job_id: str) -> None:
    """The lease runs out."""
    change(database, job_id, lease__expires_at=LONG_AGO)


def raw(database: Database[dict[str, Any]], job_id: str) -> Any:
    """The record as it lies in the database."""
    return database["jobs"].find_one({"_id": job_id})


def test_of_submits_at_the_same_moment_one_inserts(jobs: JobStore) -> None:
    """Sixteen at once: at most one open job a document, whatever revision each one thinks is next."""
    inserted = at_once(
        16, lambda n: jobs.insert(tenant=TENANT, document_id="d", revision=1 + n % 4, pipeline=pipeline_named("p"))
    )
    created = [job for job in inserted if job is not None]
    assert len(created) == 1
    assert jobs.find(TENANT, limit=50) == created


def test_an_inserted_job_is_what_is_read_back(jobs: JobStore) -> None:
    """`insert` returns when the job is durable: queued, epoch 0, no attempt, every stage pending."""
    job = insert(jobs)
    assert jobs.job(TENANT, job.job_id) == jobs.latest("d") == job
    assert (job.state, job.lease.epoch, job.lease.holder, job.attempts) == (JobState.QUEUED, 0, None, [])
    assert {stage: record.status for stage, record in job.stages.items()} == dict.fromkeys(Stage, StageStatus.PENDING)
    assert all(instant.tzinfo is not None for instant in (job.created_at, job.available_at, jobs.now()))


def settle_and_close(jobs: JobStore, state: JobState) -> HeldJob:
    """A claim that ends in this state, with nothing left to collect."""
    held = claim(jobs)
    held.settle(state, FAILURE)
    assert held.close(keeping=KEEP_NOTHING, sweep_at=None)
    return held


def test_a_revision_belongs_to_one_job_for_ever(jobs: JobStore) -> None:
    """A settled and closed job keeps its revision: the next job of the document needs another one."""
    insert(jobs)
    settle_and_close(jobs, JobState.FAILED)
    assert jobs.insert(tenant=TENANT, document_id="d", revision=1, pipeline=pipeline_named("p")) is None
    second = insert(jobs, revision=2)
    assert jobs.latest("d") == second


def test_preparing_again_and_at_the_same_moment_changes_nothing(jobs: JobStore) -> None:
    """Any number of processes may start together."""
    insert(jobs)
    assert at_once(4, lambda _: jobs.prepare()) == [None] * 4


@pytest.mark.parametrize("round_number", range(3))
def test_of_claimers_at_the_same_moment_exactly_one_gets_the_job(jobs: JobStore, round_number: int) -> None:
    """Eight claimers, one job: one holder, one attempt, epoch one higher."""
    job = insert(jobs, f"d{round_number}")
    claims = at_once(8, lambda number: claim_next(jobs, f"holder {number}"))
    holders = [number for number, held in enumerate(claims) if held is not None]
    assert len(holders) == 1
    claimed = jobs.job(TENANT, job.job_id)
    assert (claimed.state, claimed.lease.holder, claimed.lease.epoch) == (JobState.RUNNING, f"holder {holders[0]}", 1)
    assert len(claimed.attempts) == 1


def test_many_claimers_share_the_queue_without_overlap(jobs: JobStore) -> None:
    """Twelve jobs, six claimers until nothing is left: every job claimed exactly once."""
    wanted = {insert(jobs, f"d{number}").job_id for number in range(12)}

    def drain(number: int) -> list[str]:
        mine = []
        while (held := claim_next(jobs, f"holder {number}")) is not None:
            mine.append(held.job.job_id)
        return mine

    claimed = [job_id for mine in at_once(6, drain) for job_id in mine]
    assert sorted(claimed) == sorted(wanted)
    assert {job.lease.epoch for job in jobs.find(TENANT, limit=50)} == {1}


def test_every_claim_raises_the_epoch_and_is_counted(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """Epochs rise by one with each claim; each attempt is recorded with its number, holder and what was durable."""
    job = insert(jobs)
    for number in (1, 2, 3):
        held = claim(jobs, f"holder {number}")
        held.report({"pages_done": number})
        expire(database, job.job_id)
    attempts = jobs.job(TENANT, job.job_id).attempts
    assert [(attempt.number, attempt.epoch, attempt.holder) for attempt in attempts] == [
        (number, number, f"holder {number}") for number in (1, 2, 3)
    ]
    assert [attempt.units_at_start for attempt in attempts] == [0, 1, 2]
    assert [attempt.outcome for attempt in attempts] == ["lost", "lost", None]
    assert [attempt.ended_at is None for attempt in attempts] == [False, False, True]


def test_the_job_that_waited_longest_is_claimed_first(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """First in, first out, by `available_at`; a job is not claimed before it."""
    order = [insert(jobs, f"d{number}").job_id for number in range(4)]
    for seconds, job_id in enumerate(order):
        change(database, job_id, available_at=LONG_AGO - timedelta(seconds=seconds))
    later = insert(jobs, "later")
    change(database, later.job_id, available_at=jobs.now() + timedelta(hours=1))
    claimed = [claim(jobs).job.job_id for _ in order]
    assert claimed == order[::-1]
    assert claim_next(jobs, "a") is None


def test_the_walk_below_covers_every_method() -> None:
    """A new method of `HeldJob` must be added to `WRITES`, and so be shown to be fenced."""
    public = {name for name, member in vars(HeldJob).items() if callable(member) and not name.startswith("_")}
    assert set(WRITES) == public


@pytest.mark.parametrize("next_holder", ["b", "a"], ids=["another holder", "the same holder again"])
@pytest.mark.parametrize("write", WRITES)
def test_after_a_second_claim_the_first_holder_writes_nothing(
    jobs: JobStore, database: Database[dict[str, Any]], write: str, next_holder: str
) -> None:
    """Every write carries epoch and holder: a holder that was overtaken gets `LeaseLost`, and has changed nothing."""
    insert(jobs)
    overtaken = claim(jobs, "a")
    expire(database, overtaken.job.job_id)
    current = claim(jobs, next_holder)
    before = raw(database, current.job.job_id)
    with pytest.raises(LeaseLost):
        WRITES[write](overtaken)
    assert raw(database, current.job.job_id) == before
    current.renew()


@pytest.mark.parametrize("give_up", ["release", "requeue"])
@pytest.mark.parametrize("write", WRITES)
def test_who_gave_the_job_back_writes_nothing(
    jobs: JobStore, database: Database[dict[str, Any]], write: str, give_up: str
) -> None:
    """After a release or requeue nobody holds the job, although the epoch has not risen yet."""
    insert(jobs)
    held = claim(jobs)
    WRITES[give_up](held)
    before = raw(database, held.job.job_id)
    with pytest.raises(LeaseLost):
        WRITES[write](held)
    assert raw(database, held.job.job_id) == before


@pytest.mark.parametrize("write", sorted(set(WRITES) - {"requeue", "release", "settle", "close"}))
def test_a_holder_can_write_what_an_overtaken_one_cannot(jobs: JobStore, write: str) -> None:
    """The walk proves something: under its own lease each of these writes goes through and touches `updated_at`."""
    insert(jobs)
    held = claim(jobs)
    WRITES[write](held)
    assert held.job == jobs.job(TENANT, held.job.job_id)
    assert held.job.lease.epoch == 1


def test_a_lease_is_judged_by_time_alone(database: Database[dict[str, Any]]) -> None:
    """Not claimable while the lease runs or is renewed, claimable once it has run out; then the attempt is lost."""
    jobs = JobStore(database, lease_ttl_s=0.3, job_timeout_s=600)
    jobs.prepare()
    job = insert(jobs)
    held = claim(jobs, "a")
    assert claim_next(jobs, "b") is None
    for _ in range(3):
        time.sleep(0.15)
        held.renew()
        assert claim_next(jobs, "b") is None
    time.sleep(0.4)
    assert claim(jobs, "b").job.job_id == job.job_id
    lost = jobs.job(TENANT, job.job_id).attempts[0]
    assert (lost.holder, lost.outcome, lost.ended_at is not None) == ("a", "lost", True)


def test_a_claim_does_not_take_a_lease_that_was_just_renewed(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """The holder renews between a claimer's look and its compare-and-set: the lease runs, so the claim fails."""
    insert(jobs)
    held = claim(jobs, "a")
    expire(database, held.job.job_id)
    seen = jobs.job(TENANT, held.job.job_id)
    held.renew()
    assert jobs._claim_one(seen, "b", jobs.now()) is None


def test_a_claim_does_not_take_a_job_that_was_just_closed(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """Collected and closed between a claimer's look and its compare-and-set: the document may have a new job by now."""
    insert(jobs)
    held = claim(jobs, "a")
    held.settle(JobState.SUCCEEDED)
    expire(database, held.job.job_id)
    seen = jobs.job(TENANT, held.job.job_id)
    held.close(keeping=KEEP_NOTHING, sweep_at=None)
    assert jobs._claim_one(seen, "b", jobs.now()) is None


def test_the_deadline_counts_work_and_no_waiting(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """What earlier attempts worked is gone from a job's time; what it waited between them, however long, is not."""
    job = insert(jobs)
    assert job.deadline_at is None
    first = claim(jobs).job
    assert first.deadline_at == first.attempts[0].started_at + timedelta(seconds=600)
    worked, waited = timedelta(seconds=30), timedelta(days=1)
    started_at = first.attempts[0].started_at - waited
    lost = {"attempts.0.started_at": started_at, "attempts.0.worked_s": worked.total_seconds(), "updated_at": NOON}
    expire(database, job.job_id)
    database["jobs"].update_one({"_id": job.job_id}, {"$set": lost})
    second = claim(jobs, "b").job
    assert second.attempts[0].ended_at == NOON
    assert second.deadline_at == second.attempts[1].started_at + timedelta(seconds=600) - worked


def test_every_write_records_how_long_the_attempt_was_at_work(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that dies leaves what it had worked; a renewal says how much time is left, an ended job has no more."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(worktime, "time", SimpleNamespace(monotonic=lambda: clock.now))
    insert(jobs)
    held = claim(jobs)
    clock.now += 5
    with held.worktime.unit(), waiting():
        clock.now += 60
        renewed = held.renew()
    assert renewed.attempts[0].worked_s == 5
    assert renewed.deadline_at is not None
    left = renewed.deadline_at - renewed.lease.expires_at + jobs.lease_ttl
    assert left == timedelta(seconds=600 - 5)
    clock.now += 3
    held.report({"pages_done": 1})
    assert held.job.attempts[0].worked_s == 8
    held.settle(JobState.SUCCEEDED)
    clock.now += 100
    assert held.renew().deadline_at == renewed.deadline_at


def test_progress_never_falls(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """A counter keeps its highest value, whatever a repeated attempt reports."""
    insert(jobs)
    held = claim(jobs)
    held.report({"pages_total": 10, "pages_done": 7})
    held.report({"pages_done": 3, "chunks_total": 5})
    expire(database, held.job.job_id)
    again = claim(jobs, "b")
    again.report({"pages_done": 1})
    progress = again.job.progress
    assert (progress.pages_total, progress.pages_done, progress.chunks_total) == (10, 7, 5)


def test_a_stage_keeps_its_first_start_and_names_its_checkpoint(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """A stage that goes on after a crash began when it first began."""
    insert(jobs)
    held = claim(jobs)
    held.start_stage(Stage.EXTRACT)
    started_at = held.job.stages[Stage.EXTRACT].started_at
    expire(database, held.job.job_id)
    again = claim(jobs, "b")
    time.sleep(0.01)
    again.start_stage(Stage.EXTRACT)
    again.finish_stage(Stage.EXTRACT, "the/key")
    stage = again.job.stages[Stage.EXTRACT]
    assert (stage.status, stage.started_at, stage.checkpoint) == (StageStatus.DONE, started_at, "the/key")
    assert stage.finished_at is not None
    assert stage.finished_at > again.job.attempts[0].started_at


@pytest.mark.parametrize("state", PUBLISHED + UNPUBLISHED)
def test_a_terminal_state_never_changes(jobs: JobStore, database: Database[dict[str, Any]], state: JobState) -> None:
    """Settled is settled, also for its own holder: no other end, no way back to the queue, no late publish."""
    insert(jobs)
    held = claim(jobs)
    held.settle(state, FAILURE if state is JobState.FAILED else None)
    before = raw(database, held.job.job_id)
    for end in PUBLISHED + UNPUBLISHED:
        with pytest.raises(LeaseLost):
            held.settle(end)
    for name in ("requeue", "release"):
        with pytest.raises(LeaseLost):
            WRITES[name](held)
    assert raw(database, held.job.job_id) == before
    with pytest.raises(LeaseLost):
        held.decide_publish()
    settled = jobs.job(TENANT, held.job.job_id)
    assert (settled.state, settled.attempts[-1].outcome) == (state, state.value)
    assert settled.stages[Stage.PUBLISH].status is StageStatus.PENDING


@pytest.mark.parametrize("state", PUBLISHED)
def test_a_published_job_is_claimed_again_for_collection_only(
    jobs: JobStore, database: Database[dict[str, Any]], state: JobState
) -> None:
    """Until it is closed it holds its document; it may be claimed when its lease runs out, and keeps its state."""
    insert(jobs)
    settled = claim(jobs)
    settled.settle(state)
    assert settled.job.open
    assert jobs.insert(tenant=TENANT, document_id="d", revision=2, pipeline=pipeline_named("p")) is None
    assert claim_next(jobs, "b") is None
    expire(database, settled.job.job_id)
    collector = claim(jobs, "b")
    assert (collector.job.state, collector.job.attempts) == (state, settled.job.attempts)
    assert collector.job.lease.epoch == 2
    with pytest.raises(LeaseLost):
        settled.close(keeping=KEEP_NOTHING, sweep_at=None)
    collector.close(keeping=KEEP_NOTHING, sweep_at=None)
    expire(database, settled.job.job_id)
    assert claim_next(jobs, "c") is None
    assert insert(jobs, revision=2).revision == 2


@pytest.mark.parametrize("state", UNPUBLISHED)
def test_a_closed_job_is_nobodys(jobs: JobStore, database: Database[dict[str, Any]], state: JobState) -> None:
    """Nothing is left to claim it for, and the document may have another job."""
    insert(jobs)
    held = settle_and_close(jobs, state)
    expire(database, held.job.job_id)
    assert claim_next(jobs, "b") is None
    assert jobs.job(TENANT, held.job.job_id).error == FAILURE
    assert insert(jobs, revision=2).state is JobState.QUEUED


def test_a_requeued_job_waits(jobs: JobStore) -> None:
    """It is queued, its attempt has the error; it is not claimable before the delay has passed, and then attempt 2."""
    insert(jobs)
    held = claim(jobs)
    held.requeue(FAILURE, delay_s=0.3)
    waiting = jobs.job(TENANT, held.job.job_id)
    assert (waiting.state, waiting.error, waiting.lease.holder) == (JobState.QUEUED, None, None)
    assert (waiting.attempts[0].outcome, waiting.attempts[0].error) == ("requeued", FAILURE)
    assert claim_next(jobs, "b") is None
    time.sleep(0.35)
    again = claim(jobs, "b").job
    assert [attempt.outcome for attempt in again.attempts] == ["requeued", None]
    assert again.lease.epoch == 2


def test_a_released_job_is_claimable_at_once(jobs: JobStore) -> None:
    """A supervisor that shuts down gives its jobs to the next one without waiting for the lease."""
    insert(jobs)
    held = claim(jobs, "a")
    held.release()
    assert held.job.state is JobState.QUEUED
    again = claim(jobs, "b").job
    assert [(attempt.holder, attempt.outcome) for attempt in again.attempts] == [("a", "released"), ("b", None)]
    assert again.error is None


def test_the_last_write_is_the_newest_whoever_has_which_clock(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """Each process has an estimate of the server's clock: a cancel by one that is ahead hides no end."""
    insert(jobs, "d")
    held = claim(jobs, "h")
    ahead = jobs.now() + timedelta(seconds=5)
    change(database, held.job.job_id, cancel_requested_at=ahead, updated_at=ahead)
    assert held.look().cancel_requested_at is not None
    held.settle(JobState.CANCELLED)
    assert held.job.state is JobState.CANCELLED
    assert raw(database, held.job.job_id)["updated_at"] >= ahead - timedelta(milliseconds=1)


@pytest.mark.parametrize("error", [StoreUnavailable("MongoDB does not answer."), StoreRefused("MongoDB refuses.")])
def test_what_was_claimed_before_the_store_fell_silent_is_worked_on(
    jobs: JobStore, database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    """A waiting job and an abandoned one shall be cancelled: the second claim fails, and the first is not forgotten."""
    insert(jobs, "abandoned")
    abandoned = claim(jobs, "dead").job.job_id
    expire(database, abandoned)
    waiting = insert(jobs, "waiting").job_id
    for job_id in (abandoned, waiting):
        jobs.request_cancel(job_id)
    claim_one, claimed = jobs._claim_one, list[Any]()

    def silent(*arguments: Any) -> Any:
        if claimed:
            raise error
        claimed.append(claim_one(*arguments))
        return claimed[0]

    monkeypatch.setattr(jobs, "_claim_one", silent)
    assert [held.job.job_id for held in jobs.claim_ending("h", limit=9)] == [waiting]
    with pytest.raises(type(error)):
        jobs.claim_ending("h", limit=9)


def test_a_job_that_can_never_be_ended_does_not_grow_for_ever(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """A store that refuses its rollback for weeks: a hundred attempts are kept, and it stays exhausted."""
    job_id = insert(jobs).job_id
    for _ in range(MOST_ATTEMPTS + 3):
        claim(jobs)
        expire(database, job_id)
    job = claim(jobs, "last").job
    assert len(job.attempts) == job.stalled_attempts == MOST_ATTEMPTS
    assert (job.attempts[-1].holder, job.attempts[-1].epoch) == ("last", MOST_ATTEMPTS + 4)
    assert [attempt.number for attempt in job.attempts] == list(range(1, MOST_ATTEMPTS + 1))
    assert [attempt.outcome for attempt in job.attempts] == ["lost"] * (MOST_ATTEMPTS - 1) + [None]


def test_attempts_that_were_given_back_exhaust_no_job_and_hide_no_other(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """However often a supervisor was stopped, each attempt that was lost afterwards counts."""
    job_id = insert(jobs).job_id
    for _ in range(MOST_ATTEMPTS + 1):
        claim(jobs).release()
    for _ in range(3):
        claim(jobs)
        expire(database, job_id)
    assert claim(jobs).job.stalled_attempts == 4


def test_what_only_has_to_be_collected_is_no_abandoned_job(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """Nor what is to be cancelled: `claim` leaves both to `claim_ending`, and thousands of them would stand in line."""
    for name in ("working", "ended", "cancelled"):
        insert(jobs, name)
        held = claim(jobs, "dead")
        if name == "ended":
            held.settle(JobState.SUCCEEDED)
        if name == "cancelled":
            jobs.request_cancel(held.job.job_id)
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": jobs.now()}})
    working = database["jobs"].find_one({"document_id": "working"})
    assert working is not None
    assert [ticket.job_id for ticket in jobs.abandoned()] == [working["_id"]]
