"""Waiting for tasks to end, whatever is cancelled meanwhile."""

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
