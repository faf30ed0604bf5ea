"""The vector store: one point a chunk, in Qdrant.

One collection a model, dimension and version of what points hold; point id = chunk id. A point has two vectors:
`meaning`, the embedding, and `words`, the sparse one of lexical search. The client is a real Qdrant's, or the embedded
one's with the same methods; this file does not know which.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray
from qdrant_client import models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from ingest import ids
from ingest.errors import ConfigurationError, StoreError, StoreRefused, StoreUnavailable
from ingest.faults import fault_point
from ingest.model import Chunk, Revision
from ingest.points import EVERYWHERE, POINTS_VERSION, Match, Point, Scope, TermWeights
from ingest.stages.lexical import chunk_weights
from ingest.telemetry import get_logger

SCROLL_PAGE = 2_000
COLLECTION_PREFIX = "fanfold-"
OLDEST_SERVER = (1, 16)  # `update_filter`: https://qdrant.tech/documentation/concepts/points/#conditional-updates
MEANING, WORDS = "meaning", "words"  # the names of a point's vectors
INDEXED_PAYLOAD = {
    "tenant": models.PayloadSchemaType.KEYWORD,
    "document_id": models.PayloadSchemaType.KEYWORD,
    "revision": models.PayloadSchemaType.INTEGER,
    "epoch": models.PayloadSchemaType.INTEGER,
    "first_page": models.PayloadSchemaType.INTEGER,
    "last_page": models.PayloadSchemaType.INTEGER,
}


class QdrantApi(Protocol):
    """The few methods of `qdrant_client.QdrantClient` that Fanfold uses."""

    @property
    def collection_exists(self) -> Callable[..., bool]: ...  # noqa: D102  # Qdrant documents its own methods
    @property
    def create_collection(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def create_payload_index(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def get_collections(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def info(self) -> Callable[..., models.VersionInfo]: ...  # noqa: D102
    @property
    def upsert(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def delete(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def count(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def scroll(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def query_points(self) -> Callable[..., Any]: ...  # noqa: D102


def collection_name(model: str, dimension: int) -> str:
    """The collection of one model and dimension: `fanfold-all-minilm-l6-v2-384-v2`.

    It ends with the version of what points hold: points of an earlier one are left alone until their document is sent
    again, and are removed then like those of any earlier revision.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    return f"{COLLECTION_PREFIX}{slug}-{dimension}-v{POINTS_VERSION}"


log = get_logger()
QDRANT_METHODS = frozenset(name for name, member in vars(QdrantApi).items() if isinstance(member, property))


class VectorStore:
    """Points of every tenant and document; written and searched in one collection, removed from every one.

    Points left in another model's collection would never be searched again, and never be missed: so removal looks at
    every collection of ours.
    """

    def __init__(self, client: QdrantApi, collection: str) -> None:
        self._client = client
        self._collection = collection

    def prepare(self, dimension: int) -> None:
        """Create the collection and its payload indexes where they are missing; safe to repeat and to race."""
        with _qdrant_errors():
            if not self._client.collection_exists(self._collection):
                try:
                    self._client.create_collection(
                        self._collection,
                        vectors_config={MEANING: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                        sparse_vectors_config={WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                    )
                except (ApiException, ValueError):  # somebody else created it between the question and the call
                    if not self._client.collection_exists(self._collection):
                        raise
        self._index(self._collection)
        for collection in self._collections():  # removals look at all of them, in strict mode by index only
            if collection != self._collection:
                try:
                    self._index(collection)
                except StoreError as error:
                    log.warning("an older collection has no index", collection=collection, error=error.message)

    def _index(self, collection: str) -> None:
        with _qdrant_errors():
            for field, schema in INDEXED_PAYLOAD.items():
                self._client.create_payload_index(collection, field_name=field, field_schema=schema)

    @fault_point("vectors.upsert")
    def upsert(self, revision: Revision, chunks: Sequence[Chunk], vectors: NDArray[np.float32]) -> None:
        """Write one point a chunk under this revision and wait until it is applied; repeating changes nothing.

        Fenced by the revision's epoch: no point of a later attempt is replaced (Qdrant 1.16 and later). `vectors` has
        the shape (len(chunks), dimension); the chunks' words are weighed here.
        """
        points = [_point(revision, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]
        fence = models.Filter(must=[_at_most("epoch", revision.epoch)])
        with _qdrant_errors():
            self._client.upsert(self._collection, points=points, wait=True, update_filter=fence)

    @fault_point("vectors.point_ids")
    def point_ids(self, document_id: str, revision: int) -> set[str]:
        """The ids of every point of this revision, read back from the store."""
        return {str(record.id) for record in self._scroll(self._collection, _of_revision(document_id, revision))}

    @fault_point("vectors.has_later")
    def has_later(self, revision: Revision) -> bool:
        """Whether a point of this revision is a later attempt's, which an upsert has left as it was."""
        later = models.FieldCondition(key="epoch", range=models.Range(gt=revision.epoch))
        condition = _of_revision(revision.document_id, revision.number, later)
        with _qdrant_errors():
            return bool(self._client.count(self._collection, count_filter=condition).count)

    def points(self) -> Iterator[Point]:
        """Every point of every collection of ours, a page at a time."""
        for collection in self._collections():
            for record in self._scroll(collection, None, payload=["document_id", "revision", "epoch"]):
                told = record.payload or {}
                whose = (told.get("document_id"), told.get("revision"), told.get("epoch"))
                yield Point(str(record.id), *whose, collection)

    def collections_with(self, document_id: str, revision: int) -> dict[str, set[str]]:
        """The ids of this revision's points in each of our collections that has any."""
        condition = _of_revision(document_id, revision)
        found = {name: {str(point.id) for point in self._scroll(name, condition)} for name in self._collections()}
        return {name: point_ids for name, point_ids in found.items() if point_ids}

    @fault_point("vectors.count")
    def count(self) -> int:
        """All points of the collection."""
        with _qdrant_errors():
            return int(self._client.count(self._collection, exact=True).count)

    @fault_point("vectors.delete_revision")
    def delete_revision(self, document_id: str, revision: int, *, up_to_epoch: int | None = None) -> None:
        """Remove this revision's points, and wait until they are gone; with `up_to_epoch`, no later attempt's."""
        not_later = [] if up_to_epoch is None else [_at_most("epoch", up_to_epoch)]
        self._delete(_of_revision(document_id, revision, *not_later))

    @fault_point("vectors.delete_other_revisions")
    def delete_other_revisions(self, document_id: str, *, up_to: int, shown: int | None) -> None:
        """Remove the points of every revision up to this one, except the one that is shown, and wait for it."""
        conditions = [_equals("document_id", document_id), _at_most("revision", up_to)]
        kept = [] if shown is None else [_equals("revision", shown)]
        self._delete(models.Filter(must=conditions, must_not=kept))

    @fault_point("vectors.search")
    def search(
        self, tenant: str, query: Sequence[float] | TermWeights, *, limit: int, scope: Scope = EVERYWHERE
    ) -> list[Match]:
        """The tenant's points that fit best, best first, whatever their revision: the caller keeps the published.

        A vector is compared with the meaning of every point; weighted terms find the points that hold one of them.
        """
        with _qdrant_errors():
            response = self._client.query_points(
                self._collection,
                query=_sparse(query) if isinstance(query, Mapping) else list(query),
                using=WORDS if isinstance(query, Mapping) else MEANING,
                query_filter=_within(tenant, scope),
                limit=limit,
                with_payload=["document_id", "revision"],
            )
        return [
            Match(
                chunk_id=str(point.id),
                document_id=point.payload["document_id"],
                revision=point.payload["revision"],
                score=point.score,
            )
            for point in response.points
        ]

    def ping(self) -> None:
        """Raise `StoreUnavailable` unless Qdrant answers."""
        with _qdrant_errors():
            self._client.get_collections()

    def check_version(self) -> None:
        """Raise `ConfigurationError` when the server does not know the condition that fences an upsert."""
        with _qdrant_errors():
            version = self._client.info().version
        if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            raise ConfigurationError(
                f"Qdrant {version} is too old: {oldest} or later is needed. See FANFOLD_QDRANT_URL."
            )

    def _delete(self, condition: models.Filter) -> None:
        selector = models.FilterSelector(filter=condition)
        for collection in self._collections():
            with _qdrant_errors():
                self._client.delete(collection, points_selector=selector, wait=True)

    def _collections(self) -> list[str]:
        with _qdrant_errors():
            names = [collection.name for collection in self._client.get_collections().collections]
        return sorted(name for name in names if name.startswith(COLLECTION_PREFIX))

    def _scroll(
        self, collection: str, condition: models.Filter | None, payload: list[str] | None = None
    ) -> Iterator[Any]:
        """The matching points, read page by page, with the named payload fields only."""
        offset: Any = None
        while True:
            with _qdrant_errors():
                records, offset = self._client.scroll(
                    collection,
                    scroll_filter=condition,
                    limit=SCROLL_PAGE,
                    offset=offset,
                    with_payload=payload or False,
                    with_vectors=False,
                )
            yield from records
            if offset is None:
                return


def _point(revision: Revision, chunk: Chunk, vector: NDArray[np.float32]) -> models.PointStruct:
    weights = chunk_weights(chunk.text)
    words = {WORDS: _sparse(weights)} if weights else {}  # a chunk of rules and stars has none
    return models.PointStruct(
        id=ids.chunk_id(revision.document_id, revision.number, chunk.chunk_index),
        vector={MEANING: vector.tolist(), **words},
        payload={
            "tenant": revision.tenant,
            "document_id": revision.document_id,
            "revision": revision.number,
            "chunk_index": chunk.chunk_index,
            "first_page": chunk.first_page,
            "last_page": chunk.last_page,
            "epoch": revision.epoch,
        },
    )


def _sparse(weights: TermWeights) -> models.SparseVector:
    return models.SparseVector(indices=list(weights.keys()), values=list(weights.values()))


def _within(tenant: str, scope: Scope) -> models.Filter:
    """The tenant's points in the scope; a chunk overlaps the pages when it begins before their end and ends after."""
    conditions: list[models.Condition] = [_equals("tenant", tenant)]
    if scope.document_ids is not None:
        documents = models.MatchAny(any=list(scope.document_ids))
        conditions.append(models.FieldCondition(key="document_id", match=documents))
    if scope.first_page is not None:
        conditions.append(models.FieldCondition(key="last_page", range=models.Range(gte=scope.first_page)))
    if scope.last_page is not None:
        conditions.append(_at_most("first_page", scope.last_page))
    return models.Filter(must=conditions)


def _equals(field: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _at_most(field: str, value: int) -> models.FieldCondition:
    return models.FieldCondition(key=field, range=models.Range(lte=value))


def _of_revision(document_id: str, revision: int, *others: models.FieldCondition) -> models.Filter:
    return models.Filter(must=[_equals("document_id", document_id), _equals("revision", revision), *others])


@contextmanager
def _qdrant_errors() -> Iterator[None]:
    try:
        yield
    except UnexpectedResponse as error:
        status = error.status_code or 0
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise StoreRefused(f"Qdrant refused with status {status}. Check its address and key.") from error
        raise StoreUnavailable(f"Qdrant does not answer as it should: status {status}.") from error
    except (ApiException, QdrantException, httpx.HTTPError, ConnectionError) as error:
        raise StoreUnavailable(f"Qdrant does not answer: {type(error).__name__}.") from error
