"""The vocabulary: documents, pages, chunks, jobs and what is known about each.

Everything here is a value: pydantic models are stored or shown, frozen dataclasses only move between stages.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ingest.errors import Category
from ingest.turns import Priority

DEFAULT_TENANT = "default"
RELEASED = "released"  # the outcome of an attempt whose supervisor was shut down


class JobState(StrEnum):
    """Where a job stands. Terminal states never change."""

    QUEUED = "queued"  # waits for a supervisor, or for `available_at` after a failed attempt
    RUNNING = "running"  # claimed: a holder has the lease
    CANCELLING = "cancelling"  # shown only, never stored: cancel was requested, rollback is not verified yet
    SUCCEEDED = "succeeded"  # published, every page read
    PARTIALLY_SUCCEEDED = "partially_succeeded"  # published, `failed_pages` lists what is missing
    FAILED = "failed"  # rolled back; `error` says why
    CANCELLED = "cancelled"  # rolled back on request

    @property
    def terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self not in {JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING}

    @property
    def published(self) -> bool:
        """Whether the job ended with its revision shown to readers."""
        return self in {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}


class Stage(StrEnum):
    """The four durable steps of a job, in order."""

    EXTRACT = "extract"  # inspect the PDF, read text layers, OCR the other pages
    EMBED = "embed"  # cut the text into chunks and embed them
    STORE = "store"  # upsert chunks and points under this revision, invisible
    PUBLISH = "publish"  # read back, then make the revision visible at once


class StageStatus(StrEnum):
    """How far one stage of one job is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # the job ended in the middle of it


class Route(StrEnum):
    """How the text of a page is won."""

    TEXT = "text"  # the text layer is good
    OCR = "ocr"  # no text layer, or one that cannot be trusted
    BLANK = "blank"  # nothing is drawn on it
    UNREADABLE = "unreadable"  # the page object itself is broken


class PageFailure(StrEnum):
    """Why a page is missing from a published document."""

    TIMEOUT = "timeout"
    CRASH = "crash"
    MEMORY = "memory"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Page:
    """One page as the inspection or OCR left it. `text` is normalised: paragraphs are parted by one empty line."""

    page_number: int  # from 1
    route: Route
    text: str
    reason: str = ""  # why this route, in words ("no text layer", "garbage text layer", ...)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of text that is embedded and found as one."""

    chunk_index: int  # from 0
    text: str
    first_page: int
    last_page: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the supervisor learns from the inspect task: counts and page numbers, never text."""

    page_count: int
    ocr_pages: tuple[int, ...]
    unreadable_pages: tuple[tuple[int, str], ...]  # page number, and why


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """What the supervisor learns from the chunk task: how many chunks each embedding batch holds."""

    batch_sizes: tuple[int, ...]

    @property
    def chunk_count(self) -> int:
        """Chunks in the whole document."""
        return sum(self.batch_sizes)


class Record(BaseModel):
    """Base of what is stored in MongoDB and shown through HTTP; fields that a newer version added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Failure(Record):
    """An error as users see it."""

    category: Category
    message: str
    retryable: bool
    stage: Stage | None = None
    page_number: int | None = None


class FailedPage(Record):
    """A page that is missing from a published document, and why."""

    page_number: int
    reason: PageFailure
    message: str


class Attempt(Record):
    """One claim of a job; counted when claimed, whatever comes of it."""

    number: int
    epoch: int
    holder: str
    started_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    outcome: str | None = None
    error: Failure | None = None
    units_at_start: int = 0  # pages + batches durable when it began: shows whether attempts bring progress
    worked_s: float = 0.0  # at work, as of its last write: see `ingest.worktime`


class Lease(Record):
    """The right to write to a job. Every write carries `holder` and `epoch`; the store refuses any other."""

    holder: str | None  # None before the first claim and after a release
    epoch: int  # raised by one with every claim, never lowered
    expires_at: AwareDatetime


class StageRecord(Record):
    """How one stage went; `checkpoint` is the key or prefix of its durable output."""

    status: StageStatus = StageStatus.PENDING
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    checkpoint: str | None = None


class Progress(Record):
    """Counted by the work itself; never moves backwards within a job."""

    pages_total: int = 0
    pages_done: int = 0
    chunks_total: int = 0
    chunks_embedded: int = 0
    chunks_stored: int = 0

    @property
    def units(self) -> int:
        """Everything durable so far: two attempts between which this stands still brought no progress."""
        return self.pages_done + self.chunks_embedded + self.chunks_stored


class Pace(Record):
    """Since when, and beyond how many, the running stage's units (pages or chunks) show how fast it is."""

    since: AwareDatetime
    done: int


class Keeping(Record):
    """What of a document stays in the object store once it is published: the PDF, the text of its pages."""

    source: bool = False
    pages: bool = False


class PipelineSpec(Record):
    """The fingerprints that one set of settings gives, a stage each, and the settings themselves for people to read.

    `extract` covers what pages depend on, `chunk` adds the chunker and tokenizer, `embed` adds the model: another
    embedding model changes `embed` and leaves every page where it is.
    """

    extract: str
    chunk: str
    embed: str
    points: int = 1  # `POINTS_VERSION` of the jobs that recorded none
    settings: dict[str, str | int | float] = Field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The whole pipeline's fingerprint: the last stage's, which covers the others, and how points are written."""
        return f"{self.embed}.{self.points}"


class Job(Record):
    """One request to ingest one document."""

    job_id: str = Field(alias="_id")
    document_id: str
    tenant: str
    filename: str = ""  # what the document was called when this was submitted
    priority: Priority = Priority.NORMAL
    revision: int
    state: JobState
    stages: dict[Stage, StageRecord]
    progress: Progress
    attempts: list[Attempt]
    lease: Lease
    cancel_requested_at: AwareDatetime | None
    error: Failure | None
    failed_pages: list[FailedPage]
    pipeline: PipelineSpec
    available_at: AwareDatetime
    deadline_at: AwareDatetime | None  # when its time is up, if it waits for no turn any more
    created_at: AwareDatetime
    updated_at: AwareDatetime
    pace: Pace | None = None
    open: bool = False  # holds its document: not yet settled, or settled and not yet collected
    notify_at: AwareDatetime | None = None  # when to tell the webhook that it ended; None for never, or told
    notices: int = 0  # how often that was tried
    sweep_at: AwareDatetime | None = None  # when to look again for what nobody needs any more
    keeping: Keeping | None = None  # what its collection was told to keep; None until it was collected

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def claimable(self, now: datetime) -> bool:
        """Whether it waits and may begin, or was claimed by a holder whose lease has run out."""
        free_at = self.available_at if self.state is JobState.QUEUED else self.lease.expires_at
        return self.open and free_at <= now

    @property
    def shown_state(self) -> JobState:
        """The state as users see it: `cancelling` from the request until rollback is verified."""
        if self.cancel_requested_at is not None and not self.state.terminal:
            return JobState.CANCELLING
        return self.state

    @property
    def percent(self) -> float:
        """0 to 100. Reading pages weighs 70, embedding 20, storing 10: about what they cost on a CPU."""
        if self.state.published:
            return 100.0
        done = self.progress
        pages = done.pages_done / done.pages_total if done.pages_total else 0.0
        embedded = done.chunks_embedded / done.chunks_total if done.chunks_total else 0.0
        stored = done.chunks_stored / done.chunks_total if done.chunks_total else 0.0
        return round(min(70 * pages + 20 * embedded + 10 * stored, 99.9), 1)

    @property
    def pages_per_second(self) -> float | None:
        """How fast pages are read; None while none are."""
        return self._rate(Stage.EXTRACT, self.progress.pages_done)

    @property
    def seconds_left(self) -> float | None:
        """An estimate of what is left of the running stage, from its own pace; None while there is none."""
        left = {
            self._rate(Stage.EXTRACT, self.progress.pages_done): self.progress.pages_total - self.progress.pages_done,
            self._rate(Stage.EMBED, self.progress.chunks_embedded): (
                self.progress.chunks_total - self.progress.chunks_embedded
            ),
        }
        return next((units / rate for rate, units in left.items() if rate), None)

    def _rate(self, stage: Stage, done: int) -> float | None:
        """Units a second of the stage, if it is the one that runs and its pace is known."""
        if self.pace is None or self.state.terminal or self.stages[stage].status is not StageStatus.RUNNING:
            return None
        seconds = (self.updated_at - self.pace.since).total_seconds()
        units = done - self.pace.done
        return units / seconds if seconds > 0 and units > 0 else None

    @property
    def stalled_attempts(self) -> int:
        """How many attempts in a row, up to now, brought nothing durable; those that were given back do not count."""
        return sum(
            attempt.units_at_start == self.progress.units and attempt.outcome != RELEASED for attempt in self.attempts
        )

    @property
    def retryable(self) -> bool:
        """Whether it has ended in a way after which the same bytes may do better."""
        if self.state is JobState.FAILED:
            return self.error is None or self.error.retryable
        return self.state in {JobState.CANCELLED, JobState.PARTIALLY_SUCCEEDED}

    @property
    def worked(self) -> timedelta:
        """How long its attempts were at work so far, without any waiting between them or for their turn."""
        return timedelta(seconds=sum(attempt.worked_s for attempt in self.attempts))

    @property
    def sweep_due(self) -> bool:
        """Whether it was reopened because what it had kept is not needed any more."""
        return self.sweep_at is not None and self.sweep_at <= self.updated_at

    @property
    def may_have_rows(self) -> bool:
        """Whether any attempt came so far as to write rows: that storing has begun is recorded before it begins."""
        return self.stages[Stage.STORE].started_at is not None

    @property
    def publish_decided(self) -> bool:
        """Whether the one compare-and-set that decides for publishing has happened: cancel comes too late."""
        return self.stages[Stage.PUBLISH].status is not StageStatus.PENDING


class Document(Record):
    """What is known about one document of one tenant."""

    document_id: str = Field(alias="_id")
    tenant: str
    sha256: str
    filename: str
    size_bytes: int
    page_count: int | None = None
    latest_revision: int = 0
    published_revision: int | None = None
    chunk_count: int = 0
    deleted_at: AwareDatetime | None = None
    created_at: AwareDatetime
    metadata: dict[str, Any] = Field(default_factory=dict)  # what its submitter says of it, see `ingest.metadata`

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Receipt(Record):
    """Which job a submit with an idempotency key was given."""

    receipt_id: str = Field(alias="_id")
    sha256: str  # of the bytes that came with the key
    job_id: str | None = None  # None while the submit is under way, or when it was refused
    created: bool = False
    created_at: AwareDatetime


class StoredChunk(Record):
    """A chunk as MongoDB holds it."""

    chunk_id: str = Field(alias="_id")
    document_id: str
    revision: int
    chunk_index: int
    tenant: str
    text: str
    first_page: int
    last_page: int
    token_count: int
    epoch: int = 0

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Revision:
    """One ingestion of one document: what the work needs to know of its job."""

    tenant: str
    document_id: str
    number: int
    pipeline: PipelineSpec
    missing_pages: tuple[int, ...] = ()  # given up: the revision is made without them
    epoch: int = 0  # of the attempt: rows carry it, so that a late rollback cannot remove a later attempt's
    priority: Priority = Priority.NORMAL
    job_id: str = ""  # this and the next are for logs
    attempt: int = 0
