"""Waiting: for tasks to end, whatever is cancelled meanwhile; for an event, but not for ever."""

import asyncio
from collections.abc import Collection
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
