"""What goes over the wire. Names and fields are the contract's; `client.py` parses with the same classes."""

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StrictStr

from ingest.model import (
    Attempt,
    Document,
    FailedPage,
    Failure,
    Job,
    JobState,
    PageFailure,
    Route,
    Stage,
    StageRecord,
    StoredChunk,
)
from ingest.pages import PageState, PageStatus
from ingest.stages.marks import Mark
from ingest.turns import Priority
from serve import examples

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_CANCELS = 100  # in one call, which takes a second or two
MAX_WAIT_S = 60.0
MAX_CURSOR_CHARACTERS = 200
MAX_KEY_CHARACTERS = 255
METADATA_HEADER = "Fanfold-Metadata"
PRIORITY_HEADER = "Fanfold-Priority"


def _unicode(text: str) -> str:
    """The text, unless half of a surrogate pair is in it, which JSON can write and no store can hold."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text holds a character that is not Unicode")
    return text


Text: TypeAlias = Annotated[StrictStr, AfterValidator(_unicode)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Most items in one answer.")]
Cursor = Annotated[
    str | None, Field(max_length=MAX_CURSOR_CHARACTERS, description="`next_cursor` of the answer before.")
]


class Schema(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Schema):
    """An error, as RFC 9457 (Problem Details for HTTP APIs) shapes it."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.PROBLEM))

    type: str = Field(description="Which kind of problem; stable, for programs.", examples=["urn:fanfold:not-a-pdf"])
    title: str = Field(description="The kind in words.", examples=["Not a PDF"])
    status: int = Field(description="The HTTP status.", examples=[400])
    detail: str = Field(description="What happened and what to do.", examples=["The file is empty."])
    retryable: bool = Field(False, description="Whether the same request may succeed later.")


class SubmitView(Schema):
    """The answer to a submit."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.SUBMITTED))

    job_id: str = Field(examples=[examples.JOB_ID])
    document_id: str = Field(examples=[examples.DOCUMENT_ID])
    state: JobState
    created: bool = Field(description="False when an existing job does, or did, the same.")


class FileAnswer(Schema):
    """What became of one of several files: the answer it would have got alone."""

    filename: str
    status: int = Field(description="The HTTP status that it would have got alone.", examples=[202])
    submission: SubmitView | None = None
    problem: Problem | None = None


class FileAnswers(Schema):
    """The answer to several files, in their order."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.FILE_ANSWERS))

    files: list[FileAnswer]


class ReferenceRequest(Schema):
    """Where a document is."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        max_length=2_048,
        pattern="^s3://",
        description="An object below one of FANFOLD_SOURCE_URLS.",
        examples=["s3://inbox/2026/letter.pdf"],
    )
    metadata: dict[str, Any] | None = Field(None, description="Free JSON, see the field of the form.")
    priority: Priority = Field(Priority.NORMAL, description="See the field of the form.")


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

    model_config = ConfigDict(json_schema_extra=examples.of(examples.JOB))

    job_id: str
    document_id: str
    tenant: str = Field(description="Whose job it is.")
    filename: str
    priority: Priority = Priority.NORMAL
    revision: int
    state: JobState
    stages: dict[Stage, StageRecord]
    progress: ProgressView
    attempts: list[Attempt]
    error: Failure | None
    failed_pages: list[FailedPage]
    pipeline: str = Field(
        description="Fingerprint of models and settings; a document made by another one is not current."
    )
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """The job as its tenant sees it."""
        fields = {
            name: getattr(job, name) for name in cls.model_fields if name not in {"state", "progress", "pipeline"}
        }
        pages_per_minute = None if job.pages_per_second is None else round(60 * job.pages_per_second, 1)
        seconds_left = None if job.seconds_left is None else round(job.seconds_left, 1)
        progress = ProgressView(
            **job.progress.model_dump(),
            percent=job.percent,
            pages_per_minute=pages_per_minute,
            seconds_left=seconds_left,
        )
        return cls(state=job.shown_state, progress=progress, pipeline=job.pipeline.fingerprint, **fields)


class JobPage(Schema):
    """Jobs, newest first."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.JOBS))

    jobs: list[JobView]
    deleted_documents: list[str] = Field([], description="Which of these jobs' documents have been deleted since.")
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class CancelRequest(Schema):
    """Jobs that shall stop."""

    job_ids: list[Text] = Field(min_length=1, max_length=MAX_CANCELS, examples=[[examples.JOB_ID]])


class CancelAnswer(Schema):
    """What became of one of several jobs: the answer it would have got alone."""

    job_id: str
    status: int = Field(description="The HTTP status that it would have got alone.", examples=[200])
    job: JobView | None = None
    problem: Problem | None = None


class CancelAnswers(Schema):
    """The answer to several cancels, in their order."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.CANCELLED))

    jobs: list[CancelAnswer]


class PageView(Schema):
    """One page of a job."""

    page_number: int
    state: PageState
    route: Route | None = Field(description="How its text is won; null once the job is collected.")
    reason: str = Field(description="Why this route; empty for a good text layer.", examples=["no text layer"])
    failure: PageFailure | None = Field(None, description="Why it is missing, in one word.")
    message: str | None = Field(None, description="Why it is missing, in words.")

    @classmethod
    def of(cls, page: PageStatus) -> "PageView":
        """The page as its tenant sees it."""
        failed = page.failure
        return cls(
            page_number=page.page_number,
            state=page.state,
            route=page.route,
            reason=page.reason,
            failure=None if failed is None else failed.reason,
            message=None if failed is None else failed.message,
        )


class PageList(Schema):
    """A job's pages in order; none before they were counted."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.PAGES))

    pages: list[PageView]
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class MarkView(Schema):
    """A box on the image of a page, as shares of its width and height; the origin is the top left corner."""

    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)
    width: float = Field(ge=0, le=1)
    height: float = Field(ge=0, le=1)

    @classmethod
    def of(cls, mark: Mark) -> "MarkView":
        """The mark on the wire."""
        return cls(x=mark.x, y=mark.y, width=mark.width, height=mark.height)


class MarkList(Schema):
    """Where a chunk's text lies on a page, a box a line."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.MARKS))

    marks: list[MarkView]


class ServiceView(Schema):
    """What a client has to know of the service."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.SERVICE))

    version: str
    tenant: str = Field(description="Whose documents the caller sees.")
    max_upload_bytes: int
    max_pages: int
    pipeline: str = Field(description="Fingerprint of models and settings that documents are ingested with.")
    keep_source: bool = Field(description="Whether PDFs stay after their ingestion, so that pages can be shown.")


class DocumentView(Schema):
    """A document."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.DOCUMENT))

    document_id: str
    filename: str
    sha256: str
    size_bytes: int
    page_count: int | None
    latest_revision: int
    published_revision: int | None = Field(description="Null until the first ingestion has succeeded.")
    chunk_count: int
    metadata: dict[str, Any] = Field(default_factory=dict, description="What its submitter said about it.")
    created_at: AwareDatetime

    @classmethod
    def of(cls, document: Document) -> "DocumentView":
        """The document as its tenant sees it."""
        return cls(**{name: getattr(document, name) for name in cls.model_fields})


class DocumentPage(Schema):
    """Documents, newest first."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.DOCUMENTS))

    documents: list[DocumentView]
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class DeletionView(Schema):
    """The answer to a delete."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.DELETED))

    document_id: str
    deleted_at: AwareDatetime


EVENT_SCHEMA = {  # of each server-sent event of a stream
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "Sent back as `Last-Event-ID`, the stream goes on after it."},
        "event": {"enum": ["state", "progress"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobView"},
        },
    },
}


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

    model_config = ConfigDict(json_schema_extra=examples.of(examples.CHUNKS))

    chunks: list[ChunkView]
    next_cursor: str | None = Field(description="Pass as `cursor` for what follows; null at the end.")


class Readiness(Schema):
    """Whether everything that a job needs answers."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.NOT_READY))

    ready: bool
    down: dict[str, str] = Field(description="What does not answer, and why.")
