"""Cancel flags are heard by every listener, also by one that knew an actor which has died since."""

import asyncio

import pytest

from cluster import flags
from cluster.flags import Flags


async def test_a_flag_is_heard_at_once_by_whoever_listens() -> None:
    """Each listener hears each flag once, and those that came while it did not listen."""
    raised = Flags()
    listening = asyncio.create_task(raised.listen(0))
    await asyncio.sleep(0)
    await raised.raise_flag("a")
    assert await listening == (1, ["a"])
    await raised.raise_flag("b")
    await raised.raise_flag("c")
    assert await raised.listen(1) == (3, ["b", "c"])
    assert await raised.listen(0) == (3, ["a", "b", "c"])


async def test_a_listener_of_an_actor_that_died_starts_over() -> None:
    """It has heard more than the new one knows: it gets everything, and the new one's numbers."""
    raised = Flags()
    assert await raised.listen(7) == (0, [])
    await raised.raise_flag("a")
    assert await raised.listen(7) == (1, ["a"])


async def test_too_many_flags_drop_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are dropped are found in MongoDB."""
    monkeypatch.setattr(flags, "MAX_FLAGS", 2)
    raised = Flags()
    for name in "abc":
        await raised.raise_flag(name)
    assert await raised.listen(0) == (3, ["b", "c"])


async def test_a_listener_is_let_go_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one which is gone does not wait for ever."""
    monkeypatch.setattr(flags, "LISTEN_S", 0.05)
    assert await Flags().listen(0) == (0, [])


async def test_a_flag_that_is_raised_as_the_wait_ends_is_heard_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not counted as heard by a listener to whom it was not told."""
    raised = Flags()

    async def raised_too_late(_holds: object) -> None:
        raised._newest.append("a")
        raised._count += 1
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(raised._raised, "wait_for", raised_too_late)
        assert await raised.listen(0) == (0, [])
    assert await raised.listen(0) == (1, ["a"])
