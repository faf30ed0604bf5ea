"""Documents: submit, list, show, delete."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from ingest.deletion import delete
from ingest.errors import FanfoldError
from ingest.model import StoredChunk
from ingest.stores.catalog import Catalog
from ingest.submission import Submission, Upload, submit, submit_once
from ingest.turns import Priority
from serve import cursors, schemas
from serve.access import Tenant
from serve.problems import documented, problem_of
from serve.refusals import BadIdempotencyKey, StaleCursor
from serve.service import Service, ServiceOf
from serve.uploads import received

PDF_BODY = {"type": "string", "format": "binary"}
METADATA = {
    "type": "string",
    "description": "A JSON object about the document (in a raw upload: the header `Fanfold-Metadata`), at most 16 KiB, "
    "kept with it and usable as a filter in searches. Sent again, it replaces the old one.",
    "examples": ['{"author": "Ann", "year": 2026}'],
}
PRIORITY = {
    "type": "string",
    "enum": list(Priority),
    "default": Priority.NORMAL,
    "description": "Which of your jobs go first (in a raw upload: the header `Fanfold-Priority`). Between tenants it "
    "counts nothing. A job that there is already keeps its own.",
}
FORM_BODY = {
    "type": "object",
    "properties": {
        "file": {"type": "array", "items": PDF_BODY, "minItems": 1, "description": "One PDF, or several."},
        "metadata": METADATA,
        "priority": PRIORITY,
    },
    "required": ["file"],
}
REFERENCE = schemas.ReferenceRequest.model_json_schema(ref_template="#/components/schemas/{model}")
REFERENCE.pop("$defs")  # they are among the components
SUBMIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FORM_BODY},
            "application/pdf": {"schema": PDF_BODY},
            "application/json": {"schema": REFERENCE},
        },
    }
}
REPLACED = (
    "That cursor is of a revision that is not published any more: the document was published anew, or taken back. "
    "Start again, without a cursor."
)
LOCATION = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}
SUBMITTED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.SubmitView, "description": "These bytes are active or published already."},
    202: {"description": "Accepted: the file and its job are durable.", "headers": LOCATION},
    207: {"model": schemas.FileAnswers, "description": "Several files were sent: one answer each."},
}
router = APIRouter(prefix="/v1/documents", tags=["documents"], responses=documented(401, 403, 421, 422, 503))


@router.post(
    "",
    status_code=202,
    summary="Submit PDFs",
    response_model=schemas.SubmitView,
    openapi_extra=SUBMIT_BODY,
    responses=SUBMITTED | documented(400, 404, 413, 415),
)
async def submit_documents(
    request: Request,
    response: Response,
    service: ServiceOf,
    tenant: Tenant,
    idempotency_key: Annotated[
        str | None,
        Header(max_length=schemas.MAX_KEY_CHARACTERS, description="Repeating a submit repeats its answer, for a day."),
    ] = None,
) -> Any:
    """Accept PDFs. When a file is answered with 202, it and its job are durable.

    The same bytes are one document and one job, with or without an `Idempotency-Key`; with one, also a job that has
    failed meanwhile is answered with instead of a new one.
    """
    await service.admission.check(tenant)
    limit = service.settings.max_upload_bytes
    async with received(request, service.references, tenant=tenant, max_bytes=limit) as uploads:
        if len(uploads) == 1:
            submission = await run_in_threadpool(_submit, service, tenant, uploads[0], idempotency_key)
            return accepted(response, submission)
        if idempotency_key is not None:
            raise BadIdempotencyKey("An Idempotency-Key goes with one file. Send several without: it is safe.")
        answers = [await run_in_threadpool(_answer, service, tenant, upload) for upload in uploads]
    return JSONResponse(schemas.FileAnswers(files=answers).model_dump(mode="json"), HTTPStatus.MULTI_STATUS)


@router.get("", summary="Documents", responses=documented(400))
def list_documents(
    service: ServiceOf,
    tenant: Tenant,
    published: Annotated[
        bool | None, Query(description="Only those that a search can find, or only the others.")
    ] = None,
    limit: schemas.Limit = schemas.DEFAULT_LIMIT,
    cursor: schemas.Cursor = None,
) -> schemas.DocumentPage:
    """Documents, newest first."""
    before = cursors.decode_cursor(cursor)
    matching = service.stores.catalog.find(tenant, published=published, limit=limit + 1, before=before)
    found, last = cursors.one_page(matching, limit)
    return schemas.DocumentPage(
        documents=[schemas.DocumentView.of(document) for document in found],
        next_cursor=None if last is None else cursors.encode_cursor(last.created_at, last.document_id),
    )


@router.get("/{document_id}", summary="A document", responses=documented(404))
def get_document(document_id: str, service: ServiceOf, tenant: Tenant) -> schemas.DocumentView:
    """One document."""
    return schemas.DocumentView.of(service.stores.catalog.document(tenant, document_id))


@router.get("/{document_id}/chunks", summary="A document's chunks", responses=documented(400, 404, 409))
def get_chunks(
    document_id: str,
    service: ServiceOf,
    tenant: Tenant,
    limit: schemas.Limit = schemas.DEFAULT_LIMIT,
    cursor: schemas.Cursor = None,
) -> schemas.ChunkPage:
    """The published chunks in order; none before the first ingestion has succeeded.

    All pages show one revision: 409, `urn:fanfold:stale-cursor`, when another one has been published since the first.
    """
    following = _published_chunks(service.stores.catalog, tenant, document_id, cursor, limit=limit + 1)
    found, last = cursors.one_page(following, limit)
    return schemas.ChunkPage(
        chunks=[schemas.ChunkView.of(chunk) for chunk in found],
        next_cursor=None if last is None else cursors.encode_chunk_cursor(last.revision, last.chunk_index + 1),
    )


@router.delete("/{document_id}", status_code=202, summary="Delete a document", responses=documented(404))
def delete_document(document_id: str, service: ServiceOf, tenant: Tenant) -> schemas.DeletionView:
    """Hide the document at once and stop its job; its chunks, points and objects are removed within seconds."""
    document = delete(service.stores, tenant, document_id)
    latest = service.stores.jobs.latest(document_id)
    if latest is not None:
        service.hint_cancel(latest.job_id)
    assert document.deleted_at is not None
    return schemas.DeletionView(document_id=document_id, deleted_at=document.deleted_at)


def accepted(response: Response, submission: Submission) -> schemas.SubmitView:
    """202 for a new job, 200 for one that there was."""
    response.status_code = _status(submission)
    response.headers["Location"] = f"/v1/jobs/{submission.job.job_id}"
    return _view(submission)


def _published_chunks(
    catalog: Catalog, tenant: str, document_id: str, cursor: str | None, *, limit: int
) -> list[StoredChunk]:
    """Chunks from the cursor's on, of the revision that is published both before and after they are read.

    One that is replaced meanwhile may be half removed, and is left for its successor. Raises `StaleCursor`.
    """
    revision, first = cursors.decode_chunk_cursor(cursor)
    while True:
        document = catalog.document(tenant, document_id)
        if revision not in {None, document.published_revision}:
            raise StaleCursor(REPLACED)
        found = catalog.chunks(document, limit=limit, after=first - 1)
        if catalog.document(tenant, document_id).published_revision == document.published_revision:
            return found


def _submit(service: Service, tenant: str, upload: Upload, key: str | None) -> Submission:
    if key is None:
        return submit(service.stores, upload, tenant=tenant, pipeline=service.pipeline)
    return submit_once(service.stores, upload, tenant=tenant, pipeline=service.pipeline, key=key)


def _answer(service: Service, tenant: str, upload: Upload) -> schemas.FileAnswer:
    """One of several files: what goes wrong with it is its own."""
    try:
        submission = _submit(service, tenant, upload, None)
    except FanfoldError as error:
        problem = problem_of(error)
        return schemas.FileAnswer(filename=upload.filename, status=problem.status, problem=problem)
    return schemas.FileAnswer(filename=upload.filename, status=_status(submission), submission=_view(submission))


def _status(submission: Submission) -> HTTPStatus:
    return HTTPStatus.ACCEPTED if submission.created else HTTPStatus.OK


def _view(submission: Submission) -> schemas.SubmitView:
    job = submission.job
    return schemas.SubmitView(
        job_id=job.job_id, document_id=job.document_id, state=job.shown_state, created=submission.created
    )
