"""What goes over the wire. Names and fields are the contract's; `client.py` parses with the same classes."""

import base64
import binascii
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ingest.errors import FanfoldError
from ingest.model import Attempt, Document, FailedPage, Failure, Job, JobState, Stage, StageRecord, StoredChunk

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_WAIT_S = 60.0

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Most items in one answer.")]


class BadCursor(FanfoldError):
    """The cursor was not one that an earlier answer gave."""


class Schema(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Schema):
    """An error, as RFC 9457 (Problem Details for HTTP APIs) shapes it."""

    type: str = Field(description="Which kind of problem; stable, for programs.", examples=["urn:fanfold:not-a-pdf"])
    title: str = Field(description="The kind in words.", examples=["Not a PDF"])
    status: int = Field(description="The HTTP status.", examples=[400])
    detail: str = Field(description="What happened and what to do.", examples=["The file is empty."])
    retryable: bool = Field(False, description="Whether the same request may succeed later.")


class SubmitView(Schema):
    """The answer to a submit."""

    job_id: str
    document_id: str
    state: JobState
    created: bool = Field(description="False when an existing job does, or did, the same.")


class ProgressView(Schema):
    """How far a job is; no number ever falls."""

    pages_total: int
    pages_done: int
    chunks_total: int
    chunks_embedded: int
    chunks_stored: int
    percent: float = Field(ge=0, le=100)
    pages_per_minute: float | None = Field(None, description="How fast pages are read; null while none are.")
    seconds_left: float | None = Field(None, description="Estimate for the running stage; null where there is none.")


class JobView(Schema):
    """A job."""

    job_id: str
    document_id: str
    filename: str
    revision: int
    state: JobState
    stages: dict[Stage, StageRecord]
    progress: ProgressView
    attempts: list[Attempt]
    error: Failure | None
    failed_pages: list[FailedPage]
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """The job as its tenant sees it."""
        fields = {name: getattr(job, name) for name in cls.model_fields if name not in {"state", "progress"}}
        pages_per_minute = None if job.pages_per_second is None else round(60 * job.pages_per_second, 1)
        seconds_left = None if job.seconds_left is None else round(job.seconds_left, 1)
        progress = ProgressView(
            **job.progress.model_dump(),
            percent=job.percent,
            pages_per_minute=pages_per_minute,
            seconds_left=seconds_left,
        )
        return cls(state=job.shown_state, progress=progress, **fields)


class JobPage(Schema):
    """Jobs, newest first."""

    jobs: list[JobView]
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class DocumentView(Schema):
    """A document."""

    document_id: str
    filename: str
    sha256: str
    size_bytes: int
    page_count: int | None
    latest_revision: int
    published_revision: int | None = Field(description="Null until the first ingestion has succeeded.")
    chunk_count: int
    created_at: AwareDatetime

    @classmethod
    def of(cls, document: Document) -> "DocumentView":
        """The document as its tenant sees it."""
        return cls(**{name: getattr(document, name) for name in cls.model_fields})


class DeletionView(Schema):
    """The answer to a delete."""

    document_id: str
    deleted_at: AwareDatetime


class ChunkView(Schema):
    """A chunk of a published document."""

    chunk_id: str
    document_id: str
    revision: int
    chunk_index: int
    text: str
    first_page: int
    last_page: int
    token_count: int

    @classmethod
    def of(cls, chunk: StoredChunk) -> "ChunkView":
        """The chunk as its tenant sees it."""
        return cls(**{name: getattr(chunk, name) for name in cls.model_fields})


class ChunkPage(Schema):
    """Chunks in the document's order."""

    chunks: list[ChunkView]
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class Readiness(Schema):
    """Whether everything that a job needs answers."""

    ready: bool
    down: dict[str, str] = Field(description="What does not answer, and why.")


def encode_job_cursor(job: JobView) -> str:
    """The position behind this job."""
    return base64.urlsafe_b64encode(f"{job.created_at.isoformat()} {job.job_id}".encode()).decode()


def decode_job_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    """The position in the list that the cursor names. Raises `BadCursor`."""
    if cursor is None:
        return None
    try:
        created_at, job_id = base64.urlsafe_b64decode(cursor.encode()).decode().split(" ")
        return datetime.fromisoformat(created_at), job_id
    except (binascii.Error, ValueError) as error:
        raise BadCursor("The cursor is not one that this service gave.") from error
