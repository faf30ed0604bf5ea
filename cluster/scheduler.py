"""Fair page scheduling: many jobs share a bounded number of slots, by tenant, then by priority, then by job.

A slot goes to the waiting tenant that holds the fewest; among equals, to the one whose last turn is longest ago. Within
the tenant, priorities that wait share its turns 16 : 4 : 1, so that none stands still; within the priority the job that
holds the fewest is next, in the same way. So a 5,000-page book cannot starve a one-page letter, nor a tenant another,
and whoever is alone still gets every slot.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from ingest.turns import Priority
from ingest.worktime import waiting

WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}


class Owner(NamedTuple):
    """For whom a slot is held."""

    tenant: str
    priority: Priority
    job: str  # a name that no other job of the tenant has at the moment


@dataclass(slots=True)
class _Tenant:
    """One tenant's waiting pages, and how its priorities have shared its turns."""

    waiting: dict[Priority, dict[Owner, deque[asyncio.Future[None]]]] = field(default_factory=dict)
    had: dict[Priority, float] = field(default_factory=dict)  # turns by weight, counted on from where the others were
    at: float = 0.0  # of the turn given last

    def add(self, owner: Owner, turn: asyncio.Future[None]) -> None:
        """One more page waits."""
        if owner.priority not in self.waiting:  # what it did not ask for it cannot claim later
            self.had[owner.priority] = max(self.had.get(owner.priority, 0.0), self.at)
        self.waiting.setdefault(owner.priority, {}).setdefault(owner, deque()).append(turn)

    def remove(self, owner: Owner, turn: asyncio.Future[None]) -> None:
        """It does not wait any more."""
        pages = self.waiting[owner.priority][owner]
        pages.remove(turn)  # the first, unless it was cancelled
        if not pages:
            del self.waiting[owner.priority][owner]
            if not self.waiting[owner.priority]:
                del self.waiting[owner.priority]

    def next_owners(self) -> Iterable[Owner]:
        """The jobs of the priority whose turn it is."""
        return self.waiting[min(self.waiting, key=lambda priority: (self.had[priority], priority.rank))]

    def count(self, priority: Priority) -> None:
        """The priority has had a turn."""
        self.at = self.had[priority]
        self.had[priority] += 1 / WEIGHTS[priority]


class FairScheduler:
    """Slots shared by owners. All methods run on one event loop.

    Giving out a slot looks at every tenant that waits and at every waiting job of one priority of one, at no page.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = slots  # below zero after the number of slots was lowered, until enough are given back
        self._tenants: dict[str, _Tenant] = {}  # those that wait
        self._in_flight: Counter[str | Owner] = Counter()
        self._last_turn: dict[str | Owner, int] = {}  # of every tenant, and of the owners that wait or are in flight
        self._turns = count(1)

    def resize(self, slots: int) -> None:
        """Share this many slots from now on; those that are held beyond it are not taken away."""
        self._free += slots - self.slots
        self.slots = slots
        self._hand_out()

    @property
    def owners(self) -> int:
        """How many jobs wait for slots or hold some."""
        waiting = {owner for tenant in self._tenants.values() for jobs in tenant.waiting.values() for owner in jobs}
        return len(waiting | {owner for owner in self._in_flight if isinstance(owner, Owner)})

    @asynccontextmanager
    async def slot(self, owner: Owner) -> AsyncIterator[None]:
        """Hold one slot for `owner` during the block."""
        await self._acquire(owner)
        try:
            yield
        finally:
            self._release(owner)

    async def _acquire(self, owner: Owner) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tenants.setdefault(owner.tenant, _Tenant()).add(owner, turn)
        self._hand_out()
        try:
            with waiting():
                await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(owner, turn)
            else:  # the slot came in the same moment as the cancellation
                self._release(owner)
            raise

    def _release(self, owner: Owner) -> None:
        self._free += 1
        for holder in (owner, owner.tenant):
            self._in_flight[holder] -= 1
            if not self._in_flight[holder]:
                del self._in_flight[holder]
        self._forget(owner)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free > 0 and self._tenants:
            tenant = self._tenants[min(self._tenants, key=self._claim)]
            owner = min(tenant.next_owners(), key=self._claim)
            turn = tenant.waiting[owner.priority][owner][0]
            if not turn.done():
                self._give(owner, tenant)
            self._leave(owner, turn)
            if not turn.done():
                turn.set_result(None)

    def _give(self, owner: Owner, tenant: _Tenant) -> None:
        self._free -= 1
        tenant.count(owner.priority)
        for holder in (owner, owner.tenant):
            self._in_flight[holder] += 1
            self._last_turn[holder] = next(self._turns)

    def _claim(self, holder: str | Owner) -> tuple[int, int]:
        return self._in_flight[holder], self._last_turn.get(holder, 0)

    def _leave(self, owner: Owner, turn: asyncio.Future[None]) -> None:
        tenant = self._tenants.get(owner.tenant)
        if tenant is not None and turn in tenant.waiting.get(owner.priority, {}).get(owner, ()):
            tenant.remove(owner, turn)
            if not tenant.waiting:
                del self._tenants[owner.tenant]
        self._forget(owner)

    def _forget(self, owner: Owner) -> None:
        """Jobs do not come back: one that neither waits nor holds a slot needs no last turn."""
        tenant = self._tenants.get(owner.tenant)
        waits = tenant is not None and owner in tenant.waiting.get(owner.priority, {})
        if not waits and owner not in self._in_flight:
            self._last_turn.pop(owner, None)
