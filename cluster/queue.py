"""The queue as one supervisor sees it: which job it claims next, and how many it works on at a time."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ingest.errors import StoreRefused
from ingest.model import Job
from ingest.settings import Settings
from ingest.stores.held import HeldJob
from ingest.stores.jobs import JobStore
from ingest.turns import Ticket, Turns

GUEST_PLACES = 16  # for jobs that none of their tenant's at work goes before, beside FANFOLD_MAX_RUNNING_JOBS
OVERLAP = timedelta(seconds=3)  # a job can be read so long after its `available_at`, at the latest
READ_ALL_S = 60.0  # what is missed nevertheless is found so much later
READ_ABANDONED_S = 2.0
MARGIN = 2  # tickets for each of FANFOLD_MAX_QUEUED_JOBS: what is claimed again waits beside what was submitted
LONGEST_SEARCH_S = 1.0  # among tickets that others have used: then whoever claims sees to everything else first
LOAD = 0.2  # the share of the time in which reading may keep the database busy


class Queue:
    """Reads who waits, takes turns. For one thread at a time.

    Once a minute it reads every ticket, a few hundred bytes each, and never a job; in between only those that are new.
    So a claim costs the same however many jobs wait, also on a database that sorts all of them to find the first.
    """

    def __init__(self, jobs: JobStore, settings: Settings, holder: str) -> None:
        self._jobs = jobs
        self._limit = MARGIN * settings.max_queued_jobs
        self._places = settings.max_running_jobs
        self._poll_s = settings.poll_interval_s
        self._holder = holder
        self._turns = Turns()
        self._more = False  # more jobs wait than tickets are kept
        self._all_due = self._new_due = self._abandoned_due = 0.0  # by the monotonic clock
        self._read_at = datetime.min.replace(tzinfo=UTC)  # by the database's clock

    def claim_next(self, running: Sequence[Job]) -> HeldJob | None:
        """Claim the job whose turn it is beside those that run; None when none may begin, or none was found in time.

        One that only has to be rolled back or collected has no turn: see `JobStore.claim_ending`.
        Raises `StoreError`.
        """
        free = self._places - len(running)
        if free + GUEST_PLACES <= 0:
            return None
        at_work: dict[str, list[int]] = defaultdict(list)
        for job in running:
            at_work[job.tenant].append(job.priority.rank)
        self._read()
        give_up_at = time.monotonic() + LONGEST_SEARCH_S
        while (ticket := self._turns.next(self._jobs.now(), at_work, guests_only=free <= 0)) is not None:
            try:
                held = self._jobs.claim(self._holder, ticket.job_id, for_work=True)
            except StoreRefused:
                self._turns.drop(ticket)  # others go first, until it is read again
                raise
            self._turns.drop(ticket)
            if held is not None or time.monotonic() >= give_up_at:
                return held
        return None

    def _read(self) -> None:
        """Learn who waits, as far as it is time to."""
        started_at = time.monotonic()
        if started_at >= self._all_due or (self._more and 2 * len(self._turns) < self._limit):
            self._turns.replace(self._waiting(None))
            self._more = len(self._turns) >= self._limit
            self._all_due, self._new_due, self._abandoned_due = _later(started_at, READ_ALL_S), 0.0, 0.0
        elif started_at >= self._new_due:
            self._turns.add(self._waiting(self._read_at - OVERLAP))
            self._new_due = _later(started_at, self._poll_s)
        if started_at >= self._abandoned_due:
            self._turns.add(self._jobs.abandoned())
            self._abandoned_due = _later(started_at, READ_ABANDONED_S)

    def _waiting(self, since: datetime | None) -> list[Ticket]:
        read_at = self._jobs.now()
        tickets = self._jobs.waiting(limit=self._limit, since=since)
        self._read_at = read_at
        return tickets


def _later(started_at: float, pause_s: float) -> float:
    """When to read again what was read since `started_at`."""
    return started_at + max(pause_s, (time.monotonic() - started_at) / LOAD)
