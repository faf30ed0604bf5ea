"""One run over many documents: a bounded number in flight, each followed to its end.

One thread, the caller's, decides; a few others make the calls, and nothing else. So documents in flight cost a call a
second, not a thread each, and a stop waits for no answer.
"""

import hashlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cluster.outcome import Outcome, Tally, failure_of
from cluster.sources import Found, Missing, Source
from ingest import ids
from ingest.errors import Category, FileTooLarge
from ingest.metadata import Metadata
from ingest.model import Failure, JobState, Stage, StageStatus
from ingest.turns import Priority
from serve.client import Client, ServiceError
from serve.schemas import DocumentView, JobView, ServiceView

IN_FLIGHT = 16
CALLERS = 32
FIRST_LOOK_S = 0.25
LOOK_EVERY_S = 1.0
LOOKS_PER_S = 50  # at most, however many are in flight
SERVICE_FULL = "urn:fanfold:service-full"
COME_BACK_S = 5.0
PATIENCE_S = 900.0  # with a service that does not answer, or with a document that it cannot take for now
BROKEN_CALLS = 5  # for one document, while the service answers others
LONGEST_PAUSE_S = 30.0
LEARN_SHARE = 0.5  # of the time of a stop, for answers to the submits under way; cancels have what is left
CATEGORIES = {
    400: Category.INPUT,
    403: Category.CONFIGURATION,
    404: Category.NOT_FOUND,
    409: Category.CONFLICT,
    413: Category.INPUT,
    415: Category.INPUT,
    422: Category.INPUT,
    503: Category.STORE,
}

OnChange = Callable[[Source, JobView], None]
Step = Callable[[], Outcome | None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes."""

    in_flight: int = IN_FLIGHT
    follow: bool = True  # an outcome is the job's end, not its submit
    metadata: Metadata | None = None
    priority: Priority = Priority.NORMAL
    retry_failed: bool = False  # also what the same pipeline has found to be at fault itself
    cancel_on_stop: bool = False
    stop_within_s: float = 2.0


@dataclass(slots=True, eq=False)
class _Flight:
    """A document between its turn and its outcome."""

    source: Source
    began_at: float
    job_id: str | None = None  # once it is submitted
    created: bool = False  # the job, by this run
    job: JobView | None = None  # as last seen
    pause_s: float = field(default_factory=lambda: FIRST_LOOK_S)
    asked: bool = False  # a call about it is under way
    breaks: int = 0  # calls in a row that were not answered
    refused_at: float | None = None  # since when the service has been telling it to come back


class Ingestion:
    """Submits documents and yields each one's outcome as it is known.

    **Again is cheap and honest.** A local file is hashed, and sent only if its document is neither published by the
    service's own pipeline nor on its way; with metadata it is always sent, since metadata replace. A document that
    failed for good (its last job says that a retry cannot help) under the same pipeline is not tried again: its
    outcome is that failure, `already_there`, unless `retry_failed`. Of an object by reference nobody knows the bytes
    before the service has fetched them: it is submitted each time, which finds what is published or on its way, and
    gives what failed for good another job that fails the same way.

    **A service that is full or away is waited for.** Full: as long as it takes. Away, or unable to take one document:
    `PATIENCE_S`. `ServiceError` is raised when it does not answer at the start, and by `run` when it does not for that
    long.
    """

    def __init__(self, client: Client, options: Options | None = None) -> None:
        self.tally = Tally()
        self._client = client
        self._service: ServiceView = client.service()
        self._options = options or Options()
        self._stopping = threading.Event()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Future[Any]], Outcome | None]] | None]
        self._calls = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._flights: set[_Flight] = set()
        self._due: list[tuple[float, int, _Flight]] = []
        self._order = itertools.count()
        self._looking = False  # for the next document
        self._heard_at = time.monotonic()
        self._silent_since: float | None = None  # the first call since then that nobody answered

    def stop(self) -> None:
        """Submit nothing more; `run` ends soon. May be called from a signal handler."""
        self._stopping.set()
        self._answers.put(lambda: None)

    @property
    def stopped(self) -> bool:
        """Whether somebody has asked for it."""
        return self._stopping.is_set()

    def run(self, found: Iterable[Found], *, on_change: OnChange = lambda _source, _job: None) -> Iterator[Outcome]:
        """Submit what is found, one for each that ends, and yield every outcome; `on_change` hears of each look."""
        self._on_change = on_change
        self._found = iter(found)
        callers = min(self._options.in_flight, CALLERS) + 1  # one may be waiting for the next document
        for _ in range(callers):
            threading.Thread(target=self._call, daemon=True, name="ingest").start()
        try:
            self._look()
            while (self._flights or not self.tally.found_all) and not self.stopped:
                outcome = self._next_step()()
                self._look()
                if outcome is not None:
                    yield outcome
            yield from self._wind_down()
        except Exception:
            yield from self._ground()
            raise
        finally:
            for _ in range(callers):
                self._calls.put(None)

    def _call(self) -> None:
        for call, then in iter(self._calls.get, None):
            answer: Future[Any] = Future()
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001  # raised again by the thread that decides
                answer.set_exception(error)
            self._answers.put(partial(then, answer))

    def _next_step(self) -> Step:
        """The next answer; what is due meanwhile is asked."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                self._ask(heapq.heappop(self._due)[2])
            try:
                return self._answers.get(timeout=self._due[0][0] - now if self._due else None)
            except queue.Empty:
                continue

    def _look(self) -> None:
        """Ask for the next document, if there is room for it."""
        if not self._looking and not self.tally.found_all and len(self._flights) < self._options.in_flight:
            self._looking = True
            self._calls.put((partial(next, self._found, None), self._begin))

    def _begin(self, answer: Future[Found | None]) -> Outcome | None:
        self._looking = False
        found = answer.result()
        if found is None:
            self.tally.found_all = True
            return None
        if self.stopped:
            return None
        if isinstance(found, Missing):
            outcome = Outcome(found.source, None, _failure(Category.NOT_FOUND, found.reason))
            self.tally.landed(outcome)
            return outcome
        flight = _Flight(found, time.monotonic())
        self._flights.add(flight)
        self.tally.in_flight += 1
        self._come_back(flight, 0)
        return None

    def _come_back(self, flight: _Flight, pause_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + pause_s, next(self._order), flight))

    def _ask(self, flight: _Flight) -> None:
        flight.asked = True
        self._calls.put((partial(self._advance, flight), partial(self._answered, flight)))

    def _advance(self, flight: _Flight) -> JobView:
        """In a caller's thread: the document's job; the first time, it is submitted."""
        if self.stopped:
            raise _TooLate
        if flight.breaks:
            self._client.service()
            self._hear()
        if flight.job_id is None:
            flight.job_id, flight.created = self._submit(flight.source)
        return self._client.job(flight.job_id)

    def _submit(self, source: Source) -> tuple[str, bool]:
        """The document's job, and whether this run has made it."""
        metadata, priority = self._options.metadata, self._options.priority
        if source.by_reference:
            submitted = self._client.submit_reference(source.name, metadata=metadata, priority=priority)
            return submitted.job_id, submitted.created
        path, most = Path(source.name), self._service.max_upload_bytes
        if path.stat().st_size > most:
            raise FileTooLarge(f"The file is larger than the {most} bytes that the service accepts.")
        known = self._job_that_serves(path) if metadata is None else None
        if known is not None:
            return known.job_id, False
        submitted = self._client.submit(path, metadata=metadata, priority=priority)
        return submitted.job_id, submitted.created

    def _job_that_serves(self, path: Path) -> JobView | None:
        """The job for the file's bytes that makes sending them pointless, judged as the service would judge it."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        document_id = ids.document_id(self._service.tenant, sha256)
        job = next(self._client.jobs(document_id=document_id, limit=1), None)
        if job is None or (job.state.terminal and job.pipeline != self._service.pipeline):
            return None
        document = self._document(document_id)
        if document is None:
            return None
        if not job.state.terminal:
            on_its_way = job.state is not JobState.CANCELLING
            return job if on_its_way and job.stages[Stage.PUBLISH].status is StageStatus.PENDING else None
        if job.state is JobState.FAILED:
            for_good = job.error is not None and not job.error.retryable
            return job if for_good and not self._options.retry_failed else None
        return job if job.state.published and document.published_revision == job.revision else None

    def _document(self, document_id: str) -> DocumentView | None:
        try:
            return self._client.document(document_id)
        except ServiceError as error:
            if error.problem is None or error.problem.status != HTTPStatus.NOT_FOUND:
                raise
            return None  # deleted

    def _answered(self, flight: _Flight, answer: Future[JobView]) -> Outcome | None:
        """What a document's call came to: its outcome, or when to ask again."""
        flight.asked = False
        try:
            job = answer.result()
        except _TooLate:
            return None
        except ServiceError as error:
            return self._unanswered(flight, error) if error.problem is None else self._refused(flight, error)
        except (FileTooLarge, OSError, ValueError) as error:
            return self._land(flight, _own_failure(error))
        self._hear()
        self.tally.waiting = None
        flight.job, flight.breaks, flight.refused_at = job, 0, None
        self.tally.moved(flight.source, job, created=flight.created)
        self._on_change(flight.source, job)
        if job.state.terminal or not self._options.follow:
            return self._land(flight, failure_of(job))
        self._come_back(flight, flight.pause_s)
        flight.pause_s = min(2 * flight.pause_s, max(LOOK_EVERY_S, len(self._flights) / LOOKS_PER_S))
        return None

    def _refused(self, flight: _Flight, error: ServiceError) -> Outcome | None:
        """The service has said no, or not yet."""
        assert error.problem is not None
        now = self._hear()
        flight.breaks = 0
        flight.refused_at = now if flight.refused_at is None else flight.refused_at
        full = error.problem.type == SERVICE_FULL
        if error.retryable and (full or now - flight.refused_at < PATIENCE_S):
            self.tally.waiting = str(error)
            self._come_back(flight, error.retry_after_s or COME_BACK_S)
            return None
        return self._land(flight, _failure(CATEGORIES.get(error.problem.status, Category.INTERNAL), str(error)))

    def _unanswered(self, flight: _Flight, error: ServiceError) -> Outcome | None:
        """Nobody has answered: the service is away, or it breaks over this document alone."""
        flight.breaks += 1
        now = time.monotonic()
        if flight.breaks >= BROKEN_CALLS and now - self._heard_at < LONGEST_PAUSE_S:
            return self._land(flight, _failure(Category.INTERNAL, str(error)))
        since = self._silent_since  # read once: a caller's thread may hear the service meanwhile
        if since is None:
            since = self._silent_since = now
        if now - since > PATIENCE_S:
            raise error
        self.tally.waiting = str(error)
        self._come_back(flight, min(2.0**flight.breaks, LONGEST_PAUSE_S))
        return None

    def _hear(self) -> float:
        """The service has answered, whatever it was; when."""
        self._silent_since = None
        self._heard_at = time.monotonic()
        return self._heard_at

    def _land(self, flight: _Flight, failure: Failure | None, *, stopped: bool = False) -> Outcome:
        self._flights.remove(flight)
        self.tally.in_flight -= 1
        seconds = time.monotonic() - flight.began_at
        already_there = flight.job_id is not None and not flight.created
        outcome = Outcome(flight.source, flight.job, failure, already_there, seconds, stopped)
        self.tally.landed(outcome)
        return outcome

    def _wind_down(self) -> Iterator[Outcome]:
        """After a stop: learn what the submits under way have become, cancel what this run made, if it shall."""
        now = time.monotonic()
        self._due.clear()
        learn_until = now + LEARN_SHARE * self._options.stop_within_s
        yield from self._settle(learn_until, lambda flight: flight.asked and flight.job is None)
        if self._options.cancel_on_stop:
            made = {flight for flight in self._flights if flight.created and flight.job_id is not None}
            for flight in made:
                assert flight.job_id is not None
                self._calls.put((partial(self._client.cancel, flight.job_id), partial(self._cancelled, made, flight)))
            yield from self._settle(now + self._options.stop_within_s, made.__contains__)
        yield from self._ground()

    def _settle(self, until: float, open_: Callable[[_Flight], bool]) -> Iterator[Outcome]:
        """Take answers until no flight is open in this sense, or the time is up."""
        while any(map(open_, self._flights)) and (left := until - time.monotonic()) > 0:
            try:
                outcome = self._answers.get(timeout=left)()
            except queue.Empty:
                return
            if outcome is not None:
                yield outcome

    def _cancelled(self, made: set[_Flight], flight: _Flight, answer: Future[JobView]) -> None:
        made.discard(flight)
        if answer.exception() is None:  # otherwise it goes on, and its outcome says so
            flight.job = answer.result()

    def _ground(self) -> Iterator[Outcome]:
        """The documents in flight as they were last seen: their jobs go on. What was not submitted has no outcome."""
        for flight in tuple(self._flights):
            if flight.job_id is not None or flight.asked or flight.breaks:
                yield self._land(flight, None, stopped=True)


class _TooLate(Exception):
    """The run was stopped before the call."""


def _own_failure(error: FileTooLarge | OSError | ValueError) -> Failure:
    """Why a document was not even sent."""
    match error:
        case FileTooLarge():
            return _failure(error.category, error.message)
        case FileNotFoundError():
            return _failure(Category.NOT_FOUND, "There is no such file.")
        case OSError():
            return _failure(Category.UNREADABLE, f"The file cannot be read: {error.strerror}.")
        case _:  # longer than an address may be, or not UTF-8
            return _failure(Category.INPUT, "That is no address of an object.")


def _failure(category: Category, message: str) -> Failure:
    return Failure(category=category, message=message, retryable=False)
