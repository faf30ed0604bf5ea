"""The time that limits count: it stands while all that a job asked for waits for its turn, and runs otherwise."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest

from cluster.scheduler import FairScheduler, Owner
from ingest import worktime
from ingest.turns import Priority
from ingest.worktime import WorkTime, moved, waiting


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one by which work is timed."""
    clock = Clock()
    monkeypatch.setattr(worktime, "time", clock)
    return clock


def test_it_runs_where_nothing_waits(clock: Clock) -> None:
    """Between units of work, and while one is at work."""
    time = WorkTime()
    clock.now += 1
    with time.unit():
        clock.now += 2
    clock.now += 3
    assert time.seconds == 6


def test_it_stands_while_all_units_wait(clock: Clock) -> None:
    """And runs on from where it stood."""
    time = WorkTime()
    with time.unit():
        clock.now += 1
        with waiting():
            clock.now += 60
            assert time.seconds == 1
        clock.now += 2
    assert time.seconds == 3


async def test_it_runs_while_one_unit_is_at_work_and_others_wait(clock: Clock) -> None:
    """However many wait behind it: a page that never returns is stopped all the same."""
    time = WorkTime()
    at_work = asyncio.Event()

    async def waits() -> None:
        with time.unit(), waiting():
            await asyncio.sleep(60)

    async def works() -> None:
        with time.unit():
            await at_work.wait()

    queued = [asyncio.create_task(waits()) for _ in range(3)]
    working = asyncio.create_task(works())
    await asyncio.sleep(0)
    clock.now += 5
    at_work.set()
    await working
    clock.now += 50
    assert time.seconds == 5
    for task in queued:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    clock.now += 2
    assert time.seconds == 7


async def test_each_job_has_its_own(clock: Clock) -> None:
    """One waits while the other works."""
    first, second = WorkTime(), WorkTime()

    async def waits() -> None:
        with first.unit(), waiting():
            await asyncio.sleep(60)

    async def works() -> None:
        with second.unit():
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(waits()), asyncio.create_task(works())]
    await asyncio.sleep(0)
    clock.now += 10
    assert (first.seconds, second.seconds) == (0, 10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_what_is_no_unit_of_a_job_may_wait(clock: Clock) -> None:
    """Nobody's time is concerned."""
    time = WorkTime()
    with waiting():
        clock.now += 1
    assert time.seconds == 1


async def test_a_page_that_waits_for_a_slot_costs_its_job_no_time(clock: Clock) -> None:
    """The fair scheduler says so, from when the page asks until it has its slot."""
    scheduler = FairScheduler(slots=1)
    time = WorkTime()
    done = SimpleNamespace(seconds=None)

    async def page() -> None:
        with time.unit():
            async with scheduler.slot(Owner("a", Priority.NORMAL, "book")):
                clock.now += 3
            done.seconds = time.seconds

    async with scheduler.slot(Owner("b", Priority.NORMAL, "another")):
        reading = asyncio.create_task(page())
        await asyncio.sleep(0)
        clock.now += 1_000
    await reading
    assert done.seconds == 3


def test_it_stands_still_only_as_long_as_nothing_moves(clock: Clock) -> None:
    """Movement is counted in time at work: a wait for a turn is no standstill."""
    time = WorkTime()
    with time.unit():
        clock.now += 5
        moved()
        clock.now += 2
        with waiting():
            clock.now += 60
    assert (time.seconds, time.standstill_s) == (7, 2)
