"""Search."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from serve import schemas
from serve.access import Tenant
from serve.problems import documented
from serve.search import search
from serve.service import ServiceOf

router = APIRouter(prefix="/v1/search", tags=["search"], responses=documented(401, 403, 421, 422, 503))


@router.post("", summary="Search")
async def search_chunks(wanted: schemas.SearchRequest, service: ServiceOf, tenant: Tenant) -> schemas.SearchResponse:
    """The chunks whose meaning is nearest to the query, from published documents only."""
    vector = await service.embed_query(wanted.query)
    hits = await run_in_threadpool(
        search, service.stores, tenant, vector, limit=wanted.limit, document_ids=wanted.document_ids
    )
    return schemas.SearchResponse(hits=hits)
