"""What became of each document of a run, and of all together."""

import time
from collections import deque
from dataclasses import dataclass, field

from cluster.sources import Source
from ingest.errors import Category
from ingest.model import Failure, JobState
from serve.schemas import JobView

REFUSED = "refused"  # no job: the service did not take it, or it could not be read
UNKNOWN = "unknown"  # the run was stopped before the service had answered
RATE_OVER_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document."""

    source: Source
    job: JobView | None  # as it was last seen; None where there is none
    failure: Failure | None = None
    already_there: bool = False  # these bytes had this job before they were submitted
    seconds: float = 0.0  # from its turn to its end, as this run saw it
    stopped: bool = False  # the run ended before the document did

    @property
    def failed(self) -> bool:
        """Whether the document is not searchable, and not on its way."""
        return self.failure is not None

    @property
    def state(self) -> str:
        """The job's, or what stands for it where there is none."""
        if self.job is not None:
            return str(self.job.state)
        return UNKNOWN if self.stopped else REFUSED


def failure_of(job: JobView) -> Failure | None:
    """Why the job's document is not searchable, once that is so."""
    if job.state not in {JobState.FAILED, JobState.CANCELLED}:
        return None
    ended = Failure(category=Category.JOB, message=f"The job ended {job.state}.", retryable=True)
    return job.error or ended


@dataclass(slots=True)
class Tally:
    """Counts of a run, kept by the thread that runs it; others may read them."""

    in_flight: int = 0
    ended: int = 0
    failed: int = 0
    already_there: int = 0
    going_on: int = 0  # when the run was stopped
    cancelled: int = 0  # because the run was stopped
    found_all: bool = False  # nothing more will come
    waiting: str | None = None  # why nothing is taken, in the service's words
    _pages: dict[Source, int] = field(default_factory=dict)  # of each in flight, as last seen
    _done: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many pages
    _began_at: float = field(default_factory=time.monotonic)

    def moved(self, source: Source, job: JobView, *, created: bool) -> None:
        """Count the pages that were done since the job was last seen; those done before this run do not count."""
        pages, now = job.progress.pages_done, time.monotonic()
        before = self._pages.setdefault(source, 0 if created else pages)
        self._pages[source] = pages
        self._done.append((now, pages - before))
        while self._done[0][0] < now - RATE_OVER_S:
            self._done.popleft()

    def landed(self, outcome: Outcome) -> None:
        """Count a document's outcome."""
        self._pages.pop(outcome.source, None)
        self.ended += not outcome.stopped
        undone = outcome.job is not None and outcome.job.state in {JobState.CANCELLING, JobState.CANCELLED}
        self.cancelled += outcome.stopped and undone
        self.going_on += outcome.stopped and not undone
        self.failed += outcome.failed
        self.already_there += outcome.already_there

    @property
    def pages_per_second(self) -> float:
        """Over the last half minute."""
        now = time.monotonic()
        pages = sum(pages for at, pages in tuple(self._done) if at >= now - RATE_OVER_S)
        return pages / max(min(RATE_OVER_S, now - self._began_at), 1.0)
