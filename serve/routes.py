"""The routes of the HTTP interface. Each does one thing, in the words of the stores."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse

from ingest.deletion import delete
from ingest.errors import Conflict, StoreError
from ingest.model import DEFAULT_TENANT, JobState, PipelineSpec
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.submission import Submission, retry, submit
from serve import problems, schemas
from serve.events import event_id, job_changes
from serve.search import search
from serve.search_schemas import SearchMode, SearchRequest, SearchResponse
from serve.uploads import received

WAIT_POLL_S = 0.25
PROBE_TIMEOUT_S = 5.0
PDF_BODY = {"type": "string", "format": "binary"}
FORM_BODY = {"type": "object", "properties": {"file": PDF_BODY}, "required": ["file"]}
SUBMIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FORM_BODY},
            "application/pdf": {"schema": PDF_BODY},
        },
    }
}

EXISTING_JOB: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.SubmitView, "description": "These bytes are active or published already."}
}
CANCELLED: dict[int | str, dict[str, Any]] = {200: {"model": schemas.JobView, "description": "It is cancelled."}}
RETRIED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.SubmitView, "description": "Another job of the document is at work already."}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The job has ended, and its last event was seen."},
}


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes work with; the composition root fills it in."""

    stores: Stores
    pipeline: PipelineSpec
    settings: Settings
    embed_query: Callable[[str], Awaitable[list[float]]]
    hint_cancel: Callable[[str], None]  # tells supervisors that a job shall stop; nothing depends on it but speed
    probes: Mapping[str, Callable[[], None]]  # each raises `StoreError` when its part does not answer


def service_of(request: Request) -> Service:
    """The service that the app was made with."""
    service: Service = request.app.state.service
    return service


def tenant_of() -> str:
    """Whose documents the caller may see. Without API keys there is one tenant."""
    return DEFAULT_TENANT


ServiceOf = Annotated[Service, Depends(service_of)]
Tenant = Annotated[str, Depends(tenant_of)]


def problem_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented problem bodies of a route."""
    content = {problems.MEDIA_TYPE: {"schema": schemas.Problem.model_json_schema()}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


documents = APIRouter(prefix="/v1/documents", tags=["documents"])
jobs = APIRouter(prefix="/v1/jobs", tags=["jobs"])
searching = APIRouter(prefix="/v1/search", tags=["search"])
health = APIRouter(tags=["health"])


@documents.post(
    "",
    status_code=202,
    summary="Submit a PDF",
    openapi_extra=SUBMIT_BODY,
    responses=EXISTING_JOB | problem_answers(400, 413, 415, 503),
)
async def submit_document(
    request: Request, response: Response, service: ServiceOf, tenant: Tenant
) -> schemas.SubmitView:
    """Accept a PDF. When this answers 202, the file and its job are durable."""
    async with received(request, max_bytes=service.settings.max_upload_bytes) as upload:
        submission = await run_in_threadpool(submit, service.stores, upload, tenant=tenant, pipeline=service.pipeline)
    return _accepted(response, submission)


@documents.get("/{document_id}", summary="A document", responses=problem_answers(404, 503))
def get_document(document_id: str, service: ServiceOf, tenant: Tenant) -> schemas.DocumentView:
    """One document."""
    return schemas.DocumentView.of(service.stores.catalog.document(tenant, document_id))


@documents.get("/{document_id}/chunks", summary="A document's chunks", responses=problem_answers(404, 503))
def get_chunks(
    document_id: str,
    service: ServiceOf,
    tenant: Tenant,
    limit: schemas.Limit = schemas.DEFAULT_LIMIT,
    cursor: Annotated[int, Query(ge=0, description="`next_cursor` of the answer before.")] = 0,
) -> schemas.ChunkPage:
    """The published chunks in order; none before the first ingestion has succeeded."""
    document = service.stores.catalog.document(tenant, document_id)
    found = service.stores.catalog.chunks(document, limit=limit, after=cursor - 1)
    following = str(found[-1].chunk_index + 1) if len(found) == limit else None
    return schemas.ChunkPage(chunks=[schemas.ChunkView.of(chunk) for chunk in found], next_cursor=following)


@documents.delete("/{document_id}", status_code=202, summary="Delete a document", responses=problem_answers(404, 503))
def delete_document(document_id: str, service: ServiceOf, tenant: Tenant) -> schemas.DeletionView:
    """Hide the document at once and stop its job; its chunks, points and objects are removed within seconds."""
    document = delete(service.stores, tenant, document_id)
    latest = service.stores.jobs.latest(document_id)
    if latest is not None:
        service.hint_cancel(latest.job_id)
    assert document.deleted_at is not None
    return schemas.DeletionView(document_id=document_id, deleted_at=document.deleted_at)


@jobs.get("", summary="Jobs", responses=problem_answers(400, 503))
def list_jobs(  # noqa: PLR0913  # one parameter a query parameter
    service: ServiceOf,
    tenant: Tenant,
    state: JobState | None = None,
    document_id: str | None = None,
    limit: schemas.Limit = schemas.DEFAULT_LIMIT,
    cursor: str | None = None,
) -> schemas.JobPage:
    """Jobs, newest first."""
    before = schemas.decode_job_cursor(cursor)
    found = service.stores.jobs.find(tenant, state=state, document_id=document_id, limit=limit, before=before)
    views = [schemas.JobView.of(job) for job in found]
    return schemas.JobPage(
        jobs=views, next_cursor=schemas.encode_job_cursor(views[-1]) if len(views) == limit else None
    )


@jobs.get("/{job_id}", summary="A job", responses=problem_answers(404, 503))
async def get_job(
    job_id: str,
    service: ServiceOf,
    tenant: Tenant,
    wait: Annotated[float, Query(ge=0, le=schemas.MAX_WAIT_S, description="Seconds to wait for its end.")] = 0,
) -> schemas.JobView:
    """One job; with `wait`, as soon as it has ended, or when the seconds are over."""
    give_up_at = time.monotonic() + wait
    while True:
        job = await run_in_threadpool(service.stores.jobs.job, tenant, job_id)
        if job.state.terminal or time.monotonic() >= give_up_at:
            return schemas.JobView.of(job)
        await asyncio.sleep(WAIT_POLL_S)


@jobs.post(
    "/{job_id}/cancel", status_code=202, summary="Cancel a job", responses=CANCELLED | problem_answers(404, 409, 503)
)
def cancel_job(job_id: str, response: Response, service: ServiceOf, tenant: Tenant) -> schemas.JobView:
    """Stop the job and undo what it did: 202 while that is going on, 200 once it is done, 409 when it is too late."""
    service.stores.jobs.job(tenant, job_id)
    job = service.stores.jobs.request_cancel(job_id)
    if job.shown_state is JobState.CANCELLING:
        service.hint_cancel(job_id)
    elif job.state is JobState.CANCELLED:
        response.status_code = 200
    else:
        doing = f"has ended: {job.state}" if job.state.terminal else "is being published"
        raise Conflict(f"Too late to cancel: the job {doing}. To remove what it published, delete the document.")
    return schemas.JobView.of(job)


@jobs.post(
    "/{job_id}/retry", status_code=202, summary="Retry a job", responses=RETRIED | problem_answers(404, 409, 503)
)
def retry_job(job_id: str, response: Response, service: ServiceOf, tenant: Tenant) -> schemas.SubmitView:
    """A new job that goes on where this one ended; 200 with the one that somebody else has made of it already."""
    job = service.stores.jobs.job(tenant, job_id)
    return _accepted(response, retry(service.stores, job, pipeline=service.pipeline))


@jobs.get(
    "/{job_id}/events",
    summary="A job's events",
    response_class=EventSourceResponse,
    responses=EVENTS | problem_answers(404, 503),
)
async def job_events(
    job_id: str,
    service: ServiceOf,
    tenant: Tenant,
    last_event_id: Annotated[str | None, Header(description="The last event that was seen.")] = None,
) -> Response:
    """Server-sent events: the job now, then every change of its state and progress; the stream ends with the job.

    `event` is `state` or `progress`, `data` the job as `GET` shows it. Who comes back with the last event of a job
    that has ended gets 204, which tells a browser's EventSource to stop.
    """
    read = partial(run_in_threadpool, service.stores.jobs.job, tenant, job_id)
    job = await read()
    if job.state.terminal and event_id(schemas.JobView.of(job)) == last_event_id:
        return Response(status_code=204)
    return EventSourceResponse(job_changes(read, last_event_id))


@searching.post("", summary="Search", responses=problem_answers(503))
async def search_chunks(wanted: SearchRequest, service: ServiceOf, tenant: Tenant) -> SearchResponse:
    """The chunks that fit the query best, by meaning, by words or by both, from published documents only."""
    vector = None if wanted.mode is SearchMode.LEXICAL else await service.embed_query(wanted.query)
    return await run_in_threadpool(search, service.stores, tenant, wanted, vector)


@health.get("/healthz", summary="Liveness")
async def healthz() -> dict[str, str]:
    """This replica runs."""
    return {"status": "ok"}


@health.get("/readyz", summary="Readiness", responses={503: {"model": schemas.Readiness}})
async def readyz(service: ServiceOf, response: Response) -> schemas.Readiness:
    """Every store, the supervisor and the query embedder answer; 503 names the ones that do not."""
    probes: dict[str, Awaitable[object]] = {name: run_in_threadpool(probe) for name, probe in service.probes.items()}
    probes["query_embedder"] = service.embed_query("ready?")
    answers = await asyncio.gather(*(_why_down(probe) for probe in probes.values()))
    down = {name: answer for name, answer in zip(probes, answers, strict=True) if answer is not None}
    response.status_code = 503 if down else 200
    return schemas.Readiness(ready=not down, down=down)


def create_app(service: Service) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="Fanfold", description="PDFs in, searchable text out, and the truth about it.")
    app.state.service = service
    problems.install(app)
    for router in (documents, jobs, searching, health):
        app.include_router(router)
    return app


def _accepted(response: Response, submission: Submission) -> schemas.SubmitView:
    """202 for a new job, 200 for one that there was."""
    job = submission.job
    response.status_code = 202 if submission.created else 200
    response.headers["Location"] = f"/v1/jobs/{job.job_id}"
    return schemas.SubmitView(
        job_id=job.job_id, document_id=job.document_id, state=job.shown_state, created=submission.created
    )


async def _why_down(probe: Awaitable[object]) -> str | None:
    """What a probe finds wrong, if anything."""
    try:
        await asyncio.wait_for(probe, PROBE_TIMEOUT_S)
    except StoreError as error:
        return error.message
    except TimeoutError:
        return f"No answer within {PROBE_TIMEOUT_S:g} seconds."
    return None
