"""How long a job has been at work: what its limits count, and never the waiting for a turn among other jobs' work.

A job asks for many units of work at once: pages, batches, calls of stores. While every one of them waits for its turn
the job itself only waits, and its time stands still; as soon as one has its turn, it runs on. So a book that shares two
CPUs with thirty others is not stopped for their work, and a page that never returns is, however many wait behind it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class WorkTime:
    """The time of one attempt, from when this is made. Units come and go on one event loop; any thread may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = self._waiting = 0  # units
        self._seconds = 0.0  # until `_runs_since`, or, while it stands still, until now
        self._runs_since: float | None = time.monotonic()
        self._moved_s = 0.0

    @property
    def seconds(self) -> float:
        """At work so far."""
        with self._lock:
            return self._until(time.monotonic())

    @property
    def standstill_s(self) -> float:
        """How long it has been at work since something moved."""
        return self.seconds - self._moved_s

    def move(self) -> None:
        """A unit has ended, or has come a step further."""
        self._moved_s = self.seconds

    @contextmanager
    def unit(self) -> Iterator[None]:
        """The block is a unit of this job's work, or waits for its turn to be: see `waiting`."""
        token = _current.set(self)
        self._count(asked=1)
        try:
            yield
        finally:
            self._count(asked=-1)
            _current.reset(token)

    @contextmanager
    def unit_waits(self) -> Iterator[None]:
        """Within the block one of its units waits for its turn."""
        self._count(waiting=1)
        try:
            yield
        finally:
            self._count(waiting=-1)

    def _count(self, *, asked: int = 0, waiting: int = 0) -> None:
        with self._lock:
            now = time.monotonic()
            self._seconds = self._until(now)
            self._asked += asked
            self._waiting += waiting
            stands = self._waiting > 0 and self._waiting == self._asked
            self._runs_since = None if stands else now

    def _until(self, now: float) -> float:
        return self._seconds if self._runs_since is None else self._seconds + now - self._runs_since


_current: ContextVar[WorkTime | None] = ContextVar("worktime", default=None)


@contextmanager
def waiting() -> Iterator[None]:
    """Within the block the unit of work that it is part of waits for its turn. Outside of any it means nothing."""
    worktime = _current.get()
    if worktime is None:
        yield
    else:
        with worktime.unit_waits():
            yield


def moved() -> None:
    """The unit of work that this is called in has come a step further. Outside of any it means nothing."""
    worktime = _current.get()
    if worktime is not None:
        worktime.move()
