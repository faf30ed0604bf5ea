"""Search: rank by meaning, by words or by both, keep only what is published, each once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ingest.model import Document, StoredChunk
from ingest.points import Match, Scope
from ingest.stages.lexical import query_weights
from ingest.stores import Stores
from serve.search_schemas import DocumentHits, Hit, Scores, SearchMode, SearchRequest, SearchResponse
from serve.snippets import snippet, terms_of

MAX_CANDIDATES = 10_000
MAX_LOOKS = 3
MAX_DOCUMENT_FILTER = 10_000  # ids that are sent to Qdrant; beyond that the documents themselves are asked
FUSION_DEPTH = 200  # of each ranking, at least, where rankings or hits of a document are put together
FUSION_WEIGHTS = {SearchMode.DENSE: 0.75, SearchMode.LEXICAL: 0.25}

Ranking = Mapping[SearchMode, list[Match]]


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A chunk on its way to be a hit: the score by which it is ordered, and those of the sides that found it."""

    match: Match
    score: float
    scores: Mapping[SearchMode, float]


def search(stores: Stores, tenant: str, wanted: SearchRequest, vector: Sequence[float] | None) -> SearchResponse:
    """The best published chunks of the tenant.

    Qdrant may hold points of revisions that are being written, rolled back or collected; MongoDB says which revision
    of a document is published, and nothing else is shown or takes a place. Which one that is, is read once more after
    all rankings, so that an answer never mixes two revisions; a version that is replaced while this looks is looked for
    again. `vector` is the query's embedding; a lexical search needs none.
    """
    look = _Look(stores, tenant, wanted, vector)
    for _ in range(MAX_LOOKS):
        ranked = look.ranked()
        documents = look.documents(one.match for one in ranked)
        chunks = stores.catalog.chunks_by_id(tenant, [one.match.chunk_id for one in ranked])
        shown = [one for one in ranked if _is_published(one.match, documents) and one.match.chunk_id in chunks]
        if len(shown) == len(ranked):
            break
    terms = terms_of(wanted.query)
    hits = [_hit(one, documents[one.match.document_id], chunks[one.match.chunk_id], terms) for one in shown]
    return _grouped(hits) if wanted.group_by_document else SearchResponse(hits=hits)


@dataclass
class _Look:
    """One request's way to its ranking."""

    stores: Stores
    tenant: str
    wanted: SearchRequest
    vector: Sequence[float] | None
    scope: Scope = field(init=False)

    def ranked(self) -> list[_Ranked]:
        """What is to be shown, best first, as it stood when each side was asked."""
        self.scope = self._scope()
        if self.scope.document_ids is not None and not self.scope.document_ids:
            return []
        sides: dict[SearchMode, list[Match]] = {}
        if self.wanted.mode is not SearchMode.LEXICAL:
            sides[SearchMode.DENSE] = self._published(list(self.vector or ()))
        if self.wanted.mode is not SearchMode.DENSE and (weights := query_weights(self.wanted.query)):
            sides[SearchMode.LEXICAL] = self._published(weights)
        ranked = _fused(sides) if self.wanted.mode is SearchMode.HYBRID else _plain(sides)
        if self.wanted.group_by_document:
            return _best_by_document(ranked, self.wanted.limit, self.wanted.hits_per_document)
        return ranked[: self.wanted.limit]

    def documents(self, matches: Iterable[Match]) -> dict[str, Document]:
        """Those of the matches' documents that there are and that have the metadata."""
        document_ids = {match.document_id for match in matches}
        return self.stores.catalog.documents(self.tenant, document_ids, self.wanted.conditions)

    def _scope(self) -> Scope:
        pages, document_ids = self.wanted.pages, self.wanted.document_ids
        if self.wanted.conditions:
            found = self.stores.catalog.documents_with(
                self.tenant, self.wanted.conditions, limit=MAX_DOCUMENT_FILTER + 1, document_ids=document_ids
            )
            document_ids = found if len(found) <= MAX_DOCUMENT_FILTER else document_ids
        return Scope(document_ids, None if pages is None else pages.first, None if pages is None else pages.last)

    def _published(self, query: Sequence[float] | Mapping[int, float]) -> list[Match]:
        """One side's best published points, equal ones by chunk id; where others crowd them out, more are fetched."""
        depth, enough = self._depth()
        fetched = depth
        while True:
            matches = self.stores.vectors.search(self.tenant, query, limit=fetched, scope=self.scope)
            documents = self.documents(matches)
            published = [match for match in matches if _is_published(match, documents)]
            if enough(published) or len(matches) < fetched or fetched >= MAX_CANDIDATES:
                return sorted(published, key=lambda match: (-match.score, match.chunk_id))
            fetched = min(fetched * 4, MAX_CANDIDATES)

    def _depth(self) -> tuple[int, Callable[[Sequence[Match]], bool]]:
        """How many points to begin with, and whether those that are published suffice."""
        limit, named = self.wanted.limit, self.scope.document_ids
        deep = self.wanted.mode is SearchMode.HYBRID or self.wanted.group_by_document  # a document's second hit is deep
        least = FUSION_DEPTH if deep else 1
        if not self.wanted.group_by_document:
            depth = max(limit, least)
            return depth, lambda published: len(published) >= depth
        depth = max(limit * self.wanted.hits_per_document, least)
        most = limit if named is None else min(limit, len(named))
        return depth, lambda published: len({match.document_id for match in published}) >= most


def _is_published(match: Match, documents: Mapping[str, Document]) -> bool:
    document = documents.get(match.document_id)
    return document is not None and document.published_revision == match.revision


def _plain(sides: Ranking) -> list[_Ranked]:
    """One side's ranking as it is."""
    return [_Ranked(match, match.score, {mode: match.score}) for mode, side in sides.items() for match in side]


def _fused(sides: Ranking) -> list[_Ranked]:
    """A convex combination: the weighted sum of each side's score, as a share of the best score of that side.

    Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS 2023: better than fusing
    ranks, because a side that has found nothing good does not speak as loudly as one that has. Weights and figures are
    in docs/adr/0007. Ties are broken by chunk id, so that equal searches give equal answers.
    """
    fused: dict[str, float] = {}
    scores: dict[str, dict[SearchMode, float]] = {}
    matches: dict[str, Match] = {}
    for mode, side in sides.items():
        best = max((match.score for match in side), default=0.0)
        for match in side:
            share = max(match.score, 0.0) / best if best > 0 else 0.0
            matches[match.chunk_id] = match
            fused[match.chunk_id] = fused.get(match.chunk_id, 0.0) + FUSION_WEIGHTS[mode] * share
            scores.setdefault(match.chunk_id, {})[mode] = match.score
    order = sorted(fused, key=lambda chunk_id: (-fused[chunk_id], chunk_id))
    return [_Ranked(matches[chunk_id], fused[chunk_id], scores[chunk_id]) for chunk_id in order]


def _best_by_document(ranked: Sequence[_Ranked], limit: int, hits_per_document: int) -> list[_Ranked]:
    """The first `limit` documents of the ranking, each with its first hits; documents in the order of their best."""
    groups: dict[str, list[_Ranked]] = {}
    for one in ranked:
        if one.match.document_id in groups or len(groups) < limit:
            group = groups.setdefault(one.match.document_id, [])
            if len(group) < hits_per_document:
                group.append(one)
    return [one for group in groups.values() for one in group]


def _hit(ranked: _Ranked, document: Document, chunk: StoredChunk, terms: frozenset[str]) -> Hit:
    return Hit(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        filename=document.filename,
        chunk_index=chunk.chunk_index,
        first_page=chunk.first_page,
        last_page=chunk.last_page,
        score=ranked.score,
        scores=Scores(
            dense=ranked.scores.get(SearchMode.DENSE),
            lexical=ranked.scores.get(SearchMode.LEXICAL),
        ),
        snippet=snippet(chunk.text, terms),
        text=chunk.text,
    )


def _grouped(hits: Sequence[Hit]) -> SearchResponse:
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.document_id, []).append(hit)
    grouped = [
        DocumentHits(document_id=name, filename=found[0].filename, score=found[0].score, hits=found)
        for name, found in groups.items()
    ]
    return SearchResponse(hits=[hit for group in grouped for hit in group.hits], groups=grouped)
