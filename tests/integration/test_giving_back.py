"""A job is given back in order: when the work under it has ended, and whenever it is that somebody stops it."""

import asyncio
import time
from typing import Any

import pytest

from cluster import accounting
from cluster.composition import Blueprint
from cluster.duty import Duty
from cluster.supervisor import Supervisor
from cluster.survey import Survey
from ingest.errors import Category
from ingest.model import Failure, Job, JobState
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.jobs import JobStore
from ingest.stores.roster import Order
from tests.conftest import PIPELINE
from tests.integration.bench import Bench
from tests.integration.queue import claim, claim_next, insert

STOPS_IN_S = 0.3
BROKEN = Failure(category=Category.INPUT, message="It is broken.", retryable=False)


async def for_ever(*_: Any) -> None:
    """Nothing happens."""
    await asyncio.Event().wait()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_job_is_given_back_only_when_its_work_has_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Its user cancels it; while its work is being stopped the supervisor stops too, once or twice: first the work."""
    job = bench.submit()
    happened: list[str] = []
    stopping = asyncio.Event()

    async def stop_slowly(name: str, _number: int) -> None:
        if name == "read_page":
            bench.stores.jobs.request_cancel(job.job_id)
            try:
                await for_ever()
            finally:
                stopping.set()
                await asyncio.sleep(STOPS_IN_S)
                happened.append("the work ended")

    held = bench.claim()
    monkeypatch.setattr(held, "release", lambda: happened.append("given back"))
    attempt = asyncio.create_task(bench.run(held, stop_slowly))
    await stopping.wait()
    for _ in range(times):
        attempt.cancel()
        await asyncio.sleep(STOPS_IN_S / 10)
    await asyncio.wait({attempt})
    assert attempt.cancelled()
    assert happened[-1] == "given back"
    assert happened.count("given back") == 1
    assert "the work ended" in happened


async def test_a_job_whose_end_is_interrupted_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that stops while it rolls back: the next one goes on at once, not when the lease has run out."""
    job = bench.submit()
    ending = asyncio.Event()

    async def hang(_pipeline: Pipeline, _error: Exception) -> None:
        ending.set()
        await for_ever()

    async def fail(_name: str, _number: int) -> None:
        raise ValueError

    monkeypatch.setattr(Pipeline, "_end", hang)
    attempt = asyncio.create_task(bench.run(bench.claim(), fail))
    await ending.wait()
    attempt.cancel()
    await asyncio.wait({attempt})
    assert bench.stores.jobs.job("default", job.job_id).state is JobState.QUEUED
    assert claim_next(bench.stores.jobs, "next") is not None


def a_supervisor(stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Production's loop, alone: nobody to listen to, and no Ray."""
    blueprint = Blueprint(settings=settings, pipeline=PIPELINE, dimension=384)
    for owner, name in ((Supervisor, "_listen"), (Supervisor, "_sweep"), (Survey, "run"), (Duty, "run")):
        monkeypatch.setattr(owner, name, for_ever)
    monkeypatch.setattr(Duty, "leave", _at_once)
    monkeypatch.setattr(Duty, "look", _work)
    monkeypatch.setattr(accounting, "attempt_ended", lambda *_, **__: None)
    return Supervisor(blueprint, stores)


async def _at_once(_duty: Any) -> None:
    return


async def _work(_duty: Any) -> Order:
    return Order.WORK


async def test_what_was_claimed_in_the_moment_of_the_stop_is_given_back(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes while a claim is on its way: the job does not wait for its lease to run out."""
    supervisor = a_supervisor(stores, settings, monkeypatch)
    waiting = insert(stores.jobs)
    claimed: list[Job] = []
    claim_one = supervisor._queue.claim_next

    def stopped_meanwhile(*running: Any) -> Any:
        held = claim_one(*running)
        if held is not None:
            claimed.append(held.job)
            loop.call_soon_threadsafe(supervisor.stop)
            time.sleep(STOPS_IN_S)
        return held

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(supervisor._queue, "claim_next", stopped_meanwhile)
    async with asyncio.timeout(10):
        await supervisor.run()
    assert [job.job_id for job in claimed] == [waiting.job_id]
    assert stores.jobs.job(waiting.tenant, waiting.job_id).state is JobState.QUEUED


async def test_a_supervisor_does_not_go_on_without_a_part_of_itself(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody expected in a helper ends the supervisor, and another is started: it is not half of one for ever."""
    supervisor = a_supervisor(stores, settings, monkeypatch)

    async def broken(_supervisor: Supervisor) -> None:
        raise RuntimeError("unheard of")

    monkeypatch.setattr(Supervisor, "_sweep", broken)
    with pytest.raises(RuntimeError, match="unheard of"):
        async with asyncio.timeout(10):
            await supervisor.run()


def test_a_late_thread_does_not_bring_back_an_older_record(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller was cancelled; the next write has been made since: what is known of the job stays the newest."""
    insert(jobs)
    held = claim(jobs)
    older = held.look()
    time.sleep(0.01)
    held.settle(JobState.FAILED, BROKEN)
    monkeypatch.setattr(jobs, "read_held", lambda *_: older)
    assert held.look() is older
    assert held.job.state is JobState.FAILED
