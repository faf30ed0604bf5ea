"""Search."""

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from serve.access import Tenant
from serve.problems import documented
from serve.search import search
from serve.search_schemas import SearchMode, SearchRequest, SearchResponse
from serve.service import ServiceOf

router = APIRouter(prefix="/v1/search", tags=["search"], responses=documented(401, 403, 421, 422, 503))


@router.post("", summary="Search")
async def search_chunks(wanted: SearchRequest, service: ServiceOf, tenant: Tenant) -> SearchResponse:
    """The chunks that fit the query best, by meaning, by words or by both, from published documents only."""
    vector = None if wanted.mode is SearchMode.LEXICAL else await service.embed_query(wanted.query)
    return await run_in_threadpool(search, service.stores, tenant, wanted, vector)
