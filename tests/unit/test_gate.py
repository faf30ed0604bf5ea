"""The gate lets nothing by while a page waits for a node to itself, and never stays shut."""

import asyncio
import time

import pytest

from cluster.gate import Gate

SOON_S = 0.05


async def passes(gate: Gate) -> bool:
    """Whether it is open, or opens in a moment."""
    passing = asyncio.create_task(gate.passed())  # of another page: each is a task of its own
    done, _ = await asyncio.wait({passing}, timeout=SOON_S)
    passing.cancel()
    return bool(done)


async def test_it_is_shut_until_the_work_begins() -> None:
    """Open before; shut while the work waits; open as soon as it runs."""
    gate, begun = Gate(), asyncio.Event()
    assert await passes(gate)
    async with gate.shut_until(begun, longest_s=60):
        assert not await passes(gate)
        begun.set()
        assert await passes(gate)


@pytest.mark.parametrize("ends", [asyncio.CancelledError, ValueError])
async def test_it_opens_when_the_work_ends_before_it_began(ends: type[BaseException]) -> None:
    """Cancelled, or refused."""
    gate = Gate()

    async def end() -> None:
        async with gate.shut_until(asyncio.Event(), longest_s=60):
            assert not await passes(gate)
            raise ends

    with pytest.raises(ends):
        await end()
    assert await passes(gate)


async def test_it_opens_in_time_when_no_node_is_left_idle() -> None:
    """What waits in vain must not hold up everything else."""
    gate = Gate()
    async with gate.shut_until(asyncio.Event(), longest_s=0.2):
        await asyncio.sleep(0)
        started_at = time.monotonic()
        await gate.passed()
    assert 0.1 < time.monotonic() - started_at < 5


async def test_two_that_want_a_node_shut_it_one_after_the_other() -> None:
    """It is open when both have begun, whichever was first."""
    gate, first, second = Gate(), asyncio.Event(), asyncio.Event()
    async with gate.shut_until(first, longest_s=60), gate.shut_until(second, longest_s=60):
        second.set()
        assert not await passes(gate)
        first.set()
        assert await passes(gate)
