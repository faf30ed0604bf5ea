"""Fair page scheduling: many jobs share a bounded number of slots, one page each in turn.

A slot is given to the waiting job that has the fewest pages in flight; among equals, to the one whose last turn is
longest ago, which is never for a new one. So a 5,000-page book cannot starve a one-page letter, and alone it still gets
every slot.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count


class FairScheduler:
    """Slots shared by keys. All methods run on one event loop."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free = slots  # below zero after the number of slots was lowered, until enough are given back
        self._in_flight: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._last_turn: dict[str, int] = {}  # of the keys that wait or are in flight
        self._turns = count(1)

    def resize(self, slots: int) -> None:
        """Share this many slots from now on; those that are held beyond it are not taken away."""
        self._free += slots - self._slots
        self._slots = slots
        self._hand_out()

    @property
    def keys(self) -> int:
        """How many keys wait for slots or hold some."""
        return len(self._waiting.keys() | self._in_flight.keys())

    @asynccontextmanager
    async def slot(self, key: str) -> AsyncIterator[None]:
        """Hold one slot for `key` during the block."""
        await self._acquire(key)
        try:
            yield
        finally:
            self._release(key)

    async def _acquire(self, key: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(key, turn)
            else:  # the slot came in the same moment as the cancellation
                self._release(key)
            raise

    def _release(self, key: str) -> None:
        self._free += 1
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]
            if key not in self._waiting:
                self._last_turn.pop(key, None)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free > 0 and self._waiting:
            key = min(self._waiting, key=self._claim)
            turn = self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
            if not turn.done():
                self._free -= 1
                self._in_flight[key] += 1
                self._last_turn[key] = next(self._turns)
                turn.set_result(None)

    def _claim(self, key: str) -> tuple[int, int]:
        return self._in_flight[key], self._last_turn.get(key, 0)

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None and turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[key]
