"""Waiting: for tasks to end, whatever is cancelled meanwhile; for many, a few at a time; for an event, so long."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any


async def ended(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Wait until all of them have ended, well or not. A cancellation that comes before is passed on then, not before.

    Whoever gives a job back, or a slot, must not do so while the work under it still runs.
    """
    cancelled: asyncio.CancelledError | None = None
    while left := {task for task in tasks if not task.done()}:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is set within so many seconds: returns as soon as it is, or when they have passed."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def all_done(work: Iterable[Coroutine[Any, Any, None]], at_hand: Callable[[], int]) -> None:
    """Do it all, drawing so many at a time; the first that fails cancels the others, and its error is raised."""
    one_ended = asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    def end(task: asyncio.Task[None]) -> None:
        running.discard(task)
        one_ended.set()

    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                task = group.create_task(one)
                running.add(task)
                task.add_done_callback(end)
                while len(running) >= at_hand():
                    one_ended.clear()
                    await one_ended.wait()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
