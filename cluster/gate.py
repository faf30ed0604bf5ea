"""The gate before Ray: shut while a page waits for a node to itself.

Ray reserves nothing for a task that wants many CPUs: a stream of small ones would keep it waiting for ever. So while
one waits nothing else that takes a CPU is submitted, until those at work have left a node. Each supervisor has a gate
of its own; where the others' pages leave no node idle in time the gate opens again, and the page waits on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ingest.endings import happens
from ingest.worktime import waiting


class Gate:
    """All methods run on one event loop."""

    def __init__(self) -> None:
        self._shut = asyncio.Lock()

    async def passed(self) -> None:
        """Return when it is open: until then another page's turn is waited for."""
        with waiting():
            async with self._shut:
                return

    @asynccontextmanager
    async def shut_until(self, begun: asyncio.Event, *, longest_s: float) -> AsyncIterator[None]:
        """Shut it until the work has begun, for `longest_s` seconds at the most, or until the block is left."""
        shutting = asyncio.create_task(self._keep_shut(begun, longest_s))
        try:
            yield
        finally:
            shutting.cancel()

    async def _keep_shut(self, begun: asyncio.Event, longest_s: float) -> None:
        async with self._shut:
            await happens(begun, longest_s)
