"""What a page of a kept document looks like, and where on it a chunk's text lies."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from ingest.errors import NotFound
from serve import examples, schemas
from serve.access import Tenant
from serve.problems import documented
from serve.service import ServiceOf

PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The page.", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
PageNumber = Annotated[int, Path(ge=1, le=1_000_000, description="From 1.")]
router = APIRouter(
    prefix="/v1/documents/{document_id}/pages/{page_number}",
    tags=["documents"],
    responses=documented(400, 401, 403, 404, 421, 422, 503),
)


@router.get("/image", summary="A page's image", response_class=Response, responses=PNG)
async def get_image(document_id: str, page_number: PageNumber, service: ServiceOf, tenant: Tenant) -> Response:
    """The page as a PNG, where FANFOLD_KEEP_SOURCE keeps the PDF; otherwise 404, `urn:fanfold:source-not-kept`."""
    await run_in_threadpool(service.stores.catalog.document, tenant, document_id)
    image = await service.viewer.image(document_id, page_number)
    return Response(image, media_type="image/png")


@router.get("/marks", summary="A chunk's place on a page")
async def get_marks(
    document_id: str,
    page_number: PageNumber,
    service: ServiceOf,
    tenant: Tenant,
    chunk_id: Annotated[str, Query(description="The chunk, as a hit names it.", examples=[examples.CHUNK_ID])],
) -> schemas.MarkList:
    """A box for each line of the chunk's text on this page; none where it cannot be found there.

    A scanned page is read again for it, which takes seconds.
    """
    found = await run_in_threadpool(service.stores.catalog.chunks_by_id, tenant, [chunk_id])
    chunk = found.get(chunk_id)
    if chunk is None or chunk.document_id != document_id:
        raise NotFound(f"There is no chunk {chunk_id} in this document.")
    marks = await service.viewer.marks(document_id, page_number, chunk.text)
    return schemas.MarkList(marks=[schemas.MarkView.of(mark) for mark in marks])
