"""Whose turn it is: the fair order in which the jobs that wait are claimed.

First by tenant: the one with the fewest jobs at work, then the one whose last turn is longest ago. Within the tenant by
priority, then by how long a job has waited. So a tenant that queues 10,000 jobs takes turns with one that queues one.
What is known here is a hint, read from the queue every now and then: whether a job can be claimed the queue decides.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count

from ingest.errors import InputError


class BadPriority(InputError):
    """None of those that there are."""


class Priority(StrEnum):
    """Which of its tenant's jobs a job goes before. Between tenants it counts nothing."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 goes first."""
        return RANKS[self]


RANKS: dict[str, int] = {priority: rank for rank, priority in enumerate(Priority)}
NO_PRIORITY = f"The priority must be one of: {', '.join(Priority)}."


def parse_priority(text: str) -> Priority:
    """The priority of that name; an empty text is the normal one. Raises `BadPriority`."""
    try:
        return Priority(text.strip().lower() or Priority.NORMAL)
    except ValueError as error:
        raise BadPriority(NO_PRIORITY) from error


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A job that waits to be claimed, as far as its turn depends on it; the smallest of a tenant goes first."""

    rank: int
    available_at: datetime
    job_id: str
    tenant: str


class Turns:
    """The tickets of the jobs that wait. Choosing costs a look at every tenant, and nothing for every job."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}  # the truth; heaps may hold what is not in it any more
        self._ranks: dict[str, dict[int, list[Ticket]]] = {}  # tenant -> rank -> heap
        self._last_turn: dict[str, int] = {}  # of every tenant: who comes back must not go first for that alone
        self._turns = count(1)

    def __len__(self) -> int:
        return len(self._tickets)

    def replace(self, tickets: Iterable[Ticket]) -> None:
        """These are all that wait."""
        self._tickets.clear()
        self._ranks.clear()
        self.add(tickets)

    def add(self, tickets: Iterable[Ticket]) -> None:
        """These wait too; a ticket that is known of the same job is replaced."""
        for ticket in tickets:
            if self._tickets.get(ticket.job_id) != ticket:
                self._tickets[ticket.job_id] = ticket
                ranks = self._ranks.setdefault(ticket.tenant, {})
                heapq.heappush(ranks.setdefault(ticket.rank, []), ticket)

    def drop(self, ticket: Ticket) -> None:
        """It was claimed, or cannot be."""
        self._tickets.pop(ticket.job_id, None)
        self._last_turn[ticket.tenant] = next(self._turns)

    def next(self, now: datetime, at_work: Mapping[str, Collection[int]], *, guests_only: bool) -> Ticket | None:
        """The ticket whose turn it is, of those that may begin by `now`; None when none may.

        `at_work` are the ranks of the jobs at work, by tenant. With `guests_only`, only a job that goes before all
        of its tenant's that are at work, or whose tenant has none: no long job can keep it waiting.
        """
        best: tuple[tuple[int, int], Ticket] | None = None
        for tenant in list(self._ranks):
            working = at_work.get(tenant, ())
            key = len(working), self._last_turn.get(tenant, 0)
            if best is not None and best[0] <= key:
                continue
            first = self._first(tenant, now)
            if first is not None and not (guests_only and any(rank <= first.rank for rank in working)):
                best = key, first
        return None if best is None else best[1]

    def _first(self, tenant: str, now: datetime) -> Ticket | None:
        """The tenant's ticket that goes before its others, of those that may begin."""
        ranks = self._ranks[tenant]
        for rank in sorted(ranks):
            heap = ranks[rank]
            while heap and self._tickets.get(heap[0].job_id) is not heap[0]:
                heapq.heappop(heap)
            if not heap:
                del ranks[rank]
            elif heap[0].available_at <= now:
                return heap[0]
        if not ranks:
            del self._ranks[tenant]
        return None
