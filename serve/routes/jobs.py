"""Jobs: list, show, follow, cancel, retry."""

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse

from ingest.cancellation import cancel
from ingest.errors import Conflict, NotFound
from ingest.model import Job, JobState
from ingest.pages import page_statuses
from ingest.submission import retry
from serve import cursors, schemas
from serve.access import Tenant
from serve.events import event_id, job_changes
from serve.problems import documented, problem_of
from serve.routes.documents import accepted
from serve.service import Service, ServiceOf

WAIT_POLL_S = 0.25
CANCELLED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.JobView, "description": "It is cancelled: it was before, or nobody had begun with it."}
}
RETRIED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.SubmitView, "description": "Another job of the document is at work already."}
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": schemas.EVENT_SCHEMA}}},
    204: {"description": "The job has ended, and its last event was seen."},
}
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=documented(401, 403, 421, 422, 503))


@router.get("", summary="Jobs", responses=documented(400))
def list_jobs(  # noqa: PLR0913  # one parameter a query parameter
    service: ServiceOf,
    tenant: Tenant,
    state: JobState | None = None,
    document_id: str | None = None,
    limit: schemas.Limit = schemas.DEFAULT_LIMIT,
    cursor: schemas.Cursor = None,
) -> schemas.JobPage:
    """Jobs, newest first."""
    before = cursors.decode_cursor(cursor)
    matching = service.stores.jobs.find(tenant, state=state, document_id=document_id, limit=limit + 1, before=before)
    found, last = cursors.one_page(matching, limit)
    document_ids = {job.document_id for job in found}
    return schemas.JobPage(
        jobs=[schemas.JobView.of(job) for job in found],
        deleted_documents=sorted(document_ids - service.stores.catalog.documents(tenant, document_ids).keys()),
        next_cursor=None if last is None else cursors.encode_cursor(last.created_at, last.job_id),
    )


@router.get("/{job_id}", summary="A job", responses=documented(404))
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


@router.get("/{job_id}/pages", summary="A job's pages", responses=documented(400, 404))
def get_pages(
    job_id: str,
    service: ServiceOf,
    tenant: Tenant,
    limit: schemas.Limit = schemas.MAX_LIMIT,
    cursor: schemas.Cursor = None,
) -> schemas.PageList:
    """How far each page is, and why the failed ones are missing; none before the pages were counted."""
    statuses = page_statuses(service.stores, service.stores.jobs.job(tenant, job_id))
    first = cursors.decode_number(cursor)
    end = first + limit
    return schemas.PageList(
        pages=[schemas.PageView.of(page) for page in statuses[first:end]],
        next_cursor=str(end) if end < len(statuses) else None,
    )


@router.post("/cancel", status_code=207, summary="Cancel jobs", response_model=schemas.CancelAnswers)
def cancel_jobs(request: schemas.CancelRequest, service: ServiceOf, tenant: Tenant) -> schemas.CancelAnswers:
    """Cancel each of the jobs as it would be cancelled alone, in one call. May be repeated."""
    return schemas.CancelAnswers(jobs=[_cancel_answer(service, tenant, job_id) for job_id in request.job_ids])


@router.post("/{job_id}/cancel", status_code=202, summary="Cancel a job", responses=CANCELLED | documented(404, 409))
def cancel_job(job_id: str, response: Response, service: ServiceOf, tenant: Tenant) -> schemas.JobView:
    """Stop the job and undo what it did: 202 while that is going on, 200 once it is done, 409 when it is too late.

    A job that nobody has begun with has nothing to undo: it is cancelled at once.
    """
    job = _cancel(service, tenant, job_id)
    response.status_code = _cancel_status(job)
    return schemas.JobView.of(job)


@router.post("/{job_id}/retry", status_code=202, summary="Retry a job", responses=RETRIED | documented(404, 409))
def retry_job(job_id: str, response: Response, service: ServiceOf, tenant: Tenant) -> schemas.SubmitView:
    """A new job that goes on where this one ended; 200 with the one that somebody else has made of it already."""
    job = service.stores.jobs.job(tenant, job_id)
    return accepted(response, retry(service.stores, job, pipeline=service.pipeline))


@router.get(
    "/{job_id}/events",
    summary="A job's events",
    response_class=EventSourceResponse,
    responses=EVENTS | documented(404),
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


def _cancel(service: Service, tenant: str, job_id: str) -> Job:
    """The job's record after it was asked to stop. Raises `NotFound`, or `Conflict` when it is too late."""
    cancellation = cancel(service.stores, service.settings, service.stores.jobs.job(tenant, job_id))
    job = cancellation.job
    if cancellation.ended:
        service.report_end(job)
    if job.shown_state is JobState.CANCELLING:
        service.hint_cancel(job_id)
    elif job.state is not JobState.CANCELLED:
        doing = f"has ended: {job.state}" if job.state.terminal else "is being published"
        raise Conflict(f"Too late to cancel: the job {doing}. To remove what it published, delete the document.")
    return job


def _cancel_answer(service: Service, tenant: str, job_id: str) -> schemas.CancelAnswer:
    """One of several: that one is refused is its own, that a store does not answer is everybody's."""
    try:
        job = _cancel(service, tenant, job_id)
    except (NotFound, Conflict) as error:
        problem = problem_of(error)
        return schemas.CancelAnswer(job_id=job_id, status=problem.status, problem=problem)
    return schemas.CancelAnswer(job_id=job_id, status=_cancel_status(job), job=schemas.JobView.of(job))


def _cancel_status(job: Job) -> HTTPStatus:
    return HTTPStatus.OK if job.state is JobState.CANCELLED else HTTPStatus.ACCEPTED
