"""Search: nearest points first, then only what is published, each once."""

from collections.abc import Sequence

from ingest.model import Document, Match
from ingest.stores import Stores
from serve.schemas import Hit

MAX_CANDIDATES = 10_000
MAX_LOOKS = 3


def search(
    stores: Stores, tenant: str, vector: Sequence[float], *, limit: int, document_ids: Sequence[str] | None
) -> list[Hit]:
    """The best published chunks of the tenant.

    Qdrant may hold points of revisions that are being written, rolled back or collected; MongoDB says which revision
    of a document is published, and nothing else is shown. A version that is replaced while this looks is looked for
    again.
    """
    for _ in range(MAX_LOOKS):
        matches, documents = _published_matches(stores, tenant, vector, limit=limit, document_ids=document_ids)
        hits = _hits(stores, tenant, matches, documents)
        if len(hits) == len(matches):
            break
    return hits


def _published_matches(
    stores: Stores, tenant: str, vector: Sequence[float], *, limit: int, document_ids: Sequence[str] | None
) -> tuple[list[Match], dict[str, Document]]:
    """The nearest published points; where unpublished ones crowd them out, more are fetched."""
    wanted = limit
    while True:
        matches = stores.vectors.search(tenant, vector, limit=wanted, document_ids=document_ids)
        documents = stores.catalog.documents(tenant, {match.document_id for match in matches})
        published = [match for match in matches if _is_published(match, documents)][:limit]
        if len(published) == limit or len(matches) < wanted or wanted >= MAX_CANDIDATES:
            return published, documents
        wanted = min(wanted * 4, MAX_CANDIDATES)


def _is_published(match: Match, documents: dict[str, Document]) -> bool:
    document = documents.get(match.document_id)
    return document is not None and document.published_revision == match.revision


def _hits(stores: Stores, tenant: str, matches: Sequence[Match], documents: dict[str, Document]) -> list[Hit]:
    chunks = stores.catalog.chunks_by_id(tenant, [match.chunk_id for match in matches])
    return [
        Hit(
            chunk_id=match.chunk_id,
            document_id=match.document_id,
            filename=documents[match.document_id].filename,
            chunk_index=chunk.chunk_index,
            first_page=chunk.first_page,
            last_page=chunk.last_page,
            score=match.score,
            text=chunk.text,
        )
        for match in matches
        if (chunk := chunks.get(match.chunk_id)) is not None
    ]
