"""What Ray's errors say of the work: its own fault, or its node's; and what a cancellation of it does."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayError,
    TaskCancelledError,
    WorkerCrashedError,
)

from cluster import work
from cluster.engine import _at_page
from cluster.work import Started, Work, meaning_of
from ingest.errors import NodeLost, NodeOutOfMemory, WorkerCrashed, WorkError, WorkTimeout
from ingest.model import Inspection

GONE = NodeDiedError("gone")  # type: ignore[no-untyped-call]  # Ray ships it untyped
FULL = OutOfMemoryError("full")  # type: ignore[no-untyped-call]
LOST = ObjectLostError("00", None, "")


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (GONE, NodeLost),
        (LOST, NodeLost),
        (OwnerDiedError("00", None, ""), NodeLost),
        (WorkerCrashedError(), WorkerCrashed),
        (TaskCancelledError(), WorkerCrashed),
        (ActorDiedError(), WorkerCrashed),
        (FULL, NodeOutOfMemory),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RayError) else value.__name__,
)
def test_a_node_that_died_is_not_a_process_that_died(error: RayError, meaning: type[WorkError]) -> None:
    """Each of Ray's errors has one meaning."""
    assert type(meaning_of(error, overtime=False)) is meaning


def test_a_lost_node_is_lost_also_after_the_limit() -> None:
    """Who does not answer in time because the machine is gone has not been too slow."""
    assert type(meaning_of(GONE, overtime=True)) is NodeLost
    assert type(meaning_of(WorkerCrashedError(), overtime=True)) is WorkTimeout


@pytest.mark.parametrize("error", [WorkerCrashed("It died."), WorkTimeout("Too long.")])
@pytest.mark.parametrize("alive", [True, False])
async def test_what_looks_like_the_works_fault_is_its_nodes_when_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, error: WorkError, *, alive: bool
) -> None:
    """The node is asked for where the work ran; of work that never began nothing is known."""
    monkeypatch.setattr(work, "is_alive", lambda node_id: alive or node_id != "a")
    never_began, began = Work(None, limit_s=1), Work(None, limit_s=1)
    began._started = Started(node_id="a", pid=1, born=1)
    assert await never_began._judged(error) is error
    assert type(await began._judged(error)) is (type(error) if alive else NodeLost)


async def test_a_cancellation_in_the_moment_of_a_sign_of_life_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work says that it goes on just as it is cancelled: it is stopped, and its caller is cancelled."""
    stopped: list[Work] = []
    yielded: asyncio.Future[Started] = asyncio.get_running_loop().create_future()

    async def stop(one: Work) -> None:
        stopped.append(one)

    async def values() -> AsyncIterator[asyncio.Future[Started]]:
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        started.set_result(Started(node_id="a", pid=1, born=1))
        yield started
        await yielded
        yield yielded
        await asyncio.sleep(60)

    monkeypatch.setattr(Work, "_stop", stop)
    one = Work(values(), limit_s=60)
    result = asyncio.create_task(one.result())
    await one.begun.wait()
    await asyncio.sleep(0)  # it waits for the next value
    yielded.set_result(Started(node_id="a", pid=1, born=1))
    await asyncio.sleep(0)
    result.cancel()
    done, _ = await asyncio.wait({result}, timeout=1)
    assert done
    assert result.cancelled()
    assert stopped == [one]


async def test_every_step_of_the_work_is_movement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long inspection comes from page to page; that a process has begun is no step."""

    def told(value: object) -> asyncio.Future[object]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(value)
        return future

    async def values() -> AsyncIterator[asyncio.Future[object]]:
        for value in (Started(node_id="a", pid=1, born=1), 1, 2):
            yield told(value)

    moves: list[None] = []
    monkeypatch.setattr(work, "moved", lambda: moves.append(None))
    assert await Work(values(), limit_s=60).result() == 2
    assert len(moves) == 2


@pytest.mark.parametrize(("last", "page_number"), [(7, 7), (None, None), (Inspection(1, (), ()), None)])
def test_a_broken_inspection_names_the_page_it_had_come_to(
    last: int | Inspection | None, page_number: int | None
) -> None:
    """And none when it died before the first, or with its result in hand."""
    assert _at_page(WorkerCrashed("It died."), last).page_number == page_number
