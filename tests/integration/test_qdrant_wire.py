"""The vector store over HTTP: the real client, a server on loopback, and every way in which it can say no."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from ingest import ids
from ingest.errors import ConfigurationError, FanfoldError, StoreError, StoreUnavailable
from ingest.model import Chunk
from ingest.points import POINTS_VERSION, Scope
from ingest.stages.lexical import query_weights
from ingest.stores.vectors import QDRANT_METHODS, VectorStore, collection_name
from tests.builders import TENANT, a_revision, at_once, axis_vectors, some_chunks
from tests.integration.qdrant_server import QdrantServer

COLLECTION = "fanfold-wire-4"
DIMENSION = 4
QUERY = [1.0, 0.0, 0.0, 0.0]
PROCESSES = 6


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    """An empty server."""
    with QdrantServer() as server:
        yield server


@pytest.fixture
def store(server: QdrantServer) -> VectorStore:
    """A prepared, empty store on that server."""
    store = store_at(server)
    store.prepare(DIMENSION)
    return store


def store_at(server: QdrantServer, collection: str = COLLECTION) -> VectorStore:
    """The store as one more process sees it: with a client of its own."""
    return VectorStore(QdrantClient(url=server.url, timeout=5, check_compatibility=False), collection)


def write(store: VectorStore, document_id: str, revision: int, count: int, *, tenant: str = TENANT) -> set[str]:
    """Write `count` points; their ids."""
    store.upsert(
        a_revision(document_id, revision, tenant=tenant), some_chunks(count), axis_vectors(count, dimension=DIMENSION)
    )
    return set(ids.chunk_ids(document_id, revision, count))


CALLS: dict[str, Callable[[VectorStore], Any]] = {
    "prepare": lambda store: store.prepare(DIMENSION),
    "upsert": lambda store: write(store, "d", 1, 2),
    "point_ids": lambda store: store.point_ids("d", 1),
    "count": lambda store: store.count(),
    "has_later": lambda store: store.has_later(a_revision("d")),
    "check_version": lambda store: store.check_version(),
    "delete_revision": lambda store: store.delete_revision("d", 1),
    "delete_other_revisions": lambda store: store.delete_other_revisions("d", up_to=1, shown=2),
    "search": lambda store: store.search(TENANT, QUERY, limit=3),
    "search_words": lambda store: store.search(TENANT, query_weights("chunk"), limit=3),
    "ping": lambda store: store.ping(),
}
EVERY_CALL = pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in CALLS.items()])


def test_the_client_has_every_method_that_the_store_uses(server: QdrantServer) -> None:
    """`QdrantApi` is a part of the real client, not of an older or newer one."""
    client = QdrantClient(url=server.url)
    assert [name for name in QDRANT_METHODS if not callable(getattr(client, name, None))] == []


@pytest.mark.parametrize(("found", "refused"), [("1.15.9", True), ("1.16.0", False), ("1.20.1-dev", False)])
def test_a_server_that_cannot_fence_is_refused(
    server: QdrantServer, store: VectorStore, found: str, refused: bool
) -> None:
    """It would write over newer points without a word; the error names the version that is needed, and the setting."""
    server.version = found
    expected = pytest.raises(ConfigurationError, match=r"1\.15\.9 .*1\.16.*FANFOLD_QDRANT_URL")
    with expected if refused else nullcontext():
        assert store.check_version() is None  # type: ignore[func-returns-value]  # it raises, or says nothing


def test_points_of_a_later_attempt_are_noticed(store: VectorStore) -> None:
    """An upsert leaves them as they are; who has written asks whether there were any."""
    current = a_revision("d", epoch=2)
    store.upsert(a_revision("d", epoch=1), some_chunks(3), axis_vectors(3, dimension=DIMENSION))
    store.upsert(current, some_chunks(2), axis_vectors(2, dimension=DIMENSION))
    assert not store.has_later(current)
    store.upsert(a_revision("d", epoch=3), some_chunks(1), axis_vectors(1, dimension=DIMENSION))
    store.upsert(a_revision("d", 2, epoch=9), some_chunks(1), axis_vectors(1, dimension=DIMENSION))
    assert store.has_later(current)
    assert not store.has_later(a_revision("d", epoch=3))


def test_a_late_write_replaces_no_point_of_a_later_attempt(store: VectorStore) -> None:
    """The fence goes over the wire with the points: what is searched is still what the later attempt wrote."""
    late, current = a_revision("d", epoch=1), a_revision("d", epoch=2)
    store.upsert(current, some_chunks(2), axis_vectors(2, dimension=DIMENSION))
    store.upsert(late, some_chunks(3), axis_vectors(3, dimension=DIMENSION)[::-1])
    store.delete_revision("d", 1, up_to_epoch=1)
    assert store.point_ids("d", 1) == set(ids.chunk_ids("d", 1, 2))
    nearest = store.search(TENANT, list(axis_vectors(2, dimension=DIMENSION)[0]), limit=1)
    assert nearest[0].chunk_id == ids.chunk_id("d", 1, 0)


def test_preparing_again_and_at_the_same_moment_changes_nothing(server: QdrantServer) -> None:
    """Any number of processes may start together, and again later: one collection, its indexes, and its points stay."""
    stores = [store_at(server) for _ in range(PROCESSES)]
    assert at_once(PROCESSES, lambda number: stores[number].prepare(DIMENSION)) == [None] * PROCESSES
    written = write(stores[0], "d", 1, 3)
    stores[1].prepare(DIMENSION)
    assert stores[1].point_ids("d", 1) == written
    assert server.indexes == {
        "tenant": "keyword",
        "document_id": "keyword",
        "revision": "integer",
        "epoch": "integer",
        "first_page": "integer",
        "last_page": "integer",
    }


def test_losing_the_race_to_create_the_collection_is_no_error(server: QdrantServer) -> None:
    """The server answers 409 to the second one, whose collection is there all the same."""

    class Late(QdrantClient):
        def collection_exists(self, collection_name: str, **kwargs: Any) -> bool:
            there = super().collection_exists(collection_name, **kwargs)
            if not there:
                store_at(server).prepare(DIMENSION)
            return there

    VectorStore(Late(url=server.url, check_compatibility=False), COLLECTION).prepare(DIMENSION)
    assert server.requests.count(f"PUT /collections/{COLLECTION}") == 2
    assert store_at(server).count() == 0


def test_a_write_is_applied_when_the_call_returns(store: VectorStore, server: QdrantServer) -> None:
    """Upserts and deletes ask the server to wait, so that the read-back before publishing sees them."""
    del server.requests[:]
    written = write(store, "d", 1, 3)
    assert store.point_ids("d", 1) == written
    store.delete_revision("d", 1)
    assert store.point_ids("d", 1) == set()
    writes = [request for request in server.requests if "/points?" in request or "/points/delete" in request]
    assert writes == [
        f"PUT /collections/{COLLECTION}/points?wait=true",
        f"POST /collections/{COLLECTION}/points/delete?wait=true",
    ]


def test_writing_again_doubles_nothing(store: VectorStore) -> None:
    """A retry, also at the same moment as a zombie's, ends with each point once."""
    at_once(PROCESSES, lambda _: write(store, "d", 1, 5))
    assert store.count() == 5


def test_point_ids_are_read_beyond_one_page(
    store: VectorStore, server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset of the next page goes there and back; the last page ends it, also when it is full."""
    monkeypatch.setattr("ingest.stores.vectors.SCROLL_PAGE", 4)
    written = write(store, "d", 1, 11)
    full = write(store, "e", 1, 8)
    del server.requests[:]
    assert (store.point_ids("d", 1), store.point_ids("e", 1)) == (written, full)
    scrolls = [request for request in server.requests if request.endswith("/scroll")]
    assert scrolls == [f"POST /collections/{COLLECTION}/points/scroll"] * (3 + 2)


def test_search_is_filtered_in_the_store(store: VectorStore) -> None:
    """Tenant and documents narrow the search; no document is nothing; best first, with revision and cosine."""
    for document_id, tenant in (("d", "a"), ("e", "a"), ("f", "a"), ("g", "b")):
        write(store, document_id, 7, 3, tenant=tenant)
    found = store.search("a", QUERY, limit=4, scope=Scope(document_ids=["e", "f", "g"]))
    assert len(found) == 4
    assert {match.document_id for match in found} == {"e", "f"}
    assert [match.chunk_id for match in store.search("b", QUERY, limit=9)] == ids.chunk_ids("g", 7, 3)
    assert {match.revision for match in found} == {7}
    assert found[0].score == pytest.approx(1, abs=1e-6)
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    assert store.search("a", QUERY, limit=4, scope=Scope(document_ids=[])) == []
    assert store.search("nobody", QUERY, limit=4) == []


def test_words_find_the_points_that_hold_them(store: VectorStore) -> None:
    """Sparse vectors go there and back: rare words weigh more, unknown ones find nothing, no word is no error."""
    write(store, "d", 1, 3)
    found = store.search(TENANT, query_weights("chunk 2"), limit=9)
    assert found[0].chunk_id == ids.chunk_id("d", 1, 2)
    assert len(found) == 3
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    assert store.search(TENANT, query_weights("unknown"), limit=9) == []
    assert store.search("nobody", query_weights("chunk"), limit=9) == []


def test_only_points_of_the_pages_are_found(store: VectorStore) -> None:
    """One chunk a page: by meaning and by words only those of the pages."""
    write(store, "d", 1, 5)
    for query in (QUERY, query_weights("chunk")):
        found = store.search(TENANT, query, limit=9, scope=Scope(first_page=2, last_page=3))
        assert {match.chunk_id for match in found} == set(ids.chunk_ids("d", 1, 3)[1:])


def test_a_chunk_without_words_is_found_by_meaning_only(store: VectorStore) -> None:
    """A page of ornaments has no sparse vector; it is written, read back and found all the same."""
    store.upsert(a_revision("d"), [Chunk(0, "* * *", 1, 1, 3)], axis_vectors(1, dimension=DIMENSION))
    assert store.point_ids("d", 1) == set(ids.chunk_ids("d", 1, 1))
    assert len(store.search(TENANT, QUERY, limit=3)) == 1


def test_the_points_of_an_earlier_version_are_left_alone(server: QdrantServer) -> None:
    """An old collection, with one unnamed vector, is neither written to nor in the way; deletes reach it, by index."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    name = collection_name("m", DIMENSION)
    old, now = name.removesuffix(f"-v{POINTS_VERSION}"), store_at(server, name)
    client.create_collection(old, vectors_config=models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))
    payload = {"tenant": TENANT, "document_id": "d", "revision": 1, "epoch": 1}
    client.upsert(old, [models.PointStruct(id=ids.chunk_id("d", 1, 0), vector=QUERY, payload=payload)], wait=True)
    now.prepare(DIMENSION)
    assert sum(request.startswith(f"PUT /collections/{old}/index") for request in server.requests) == 6
    assert now.search(TENANT, QUERY, limit=3) == []
    write(now, "d", 2, 1)
    assert now.collections_with("d", 1) == {old: {ids.chunk_id("d", 1, 0)}}
    now.delete_other_revisions("d", up_to=1, shown=2)
    assert client.count(old).count == 0


def test_an_older_collection_that_cannot_be_indexed_stops_no_start(server: QdrantServer) -> None:
    """It may be large, or go that very moment: only the own collection must be whole."""
    store_at(server, "fanfold-before-4").prepare(DIMENSION)

    class Refusing(QdrantClient):
        def create_payload_index(self, collection_name: str, *args: Any, **kwargs: Any) -> Any:
            if collection_name != COLLECTION:
                raise UnexpectedResponse(400, "Bad Request", b"{}", httpx.Headers())
            return super().create_payload_index(collection_name, *args, **kwargs)

    server.indexes.clear()
    VectorStore(Refusing(url=server.url, check_compatibility=False), COLLECTION).prepare(DIMENSION)
    assert len(server.indexes) == 6


def test_one_revision_or_the_older_ones_are_removed_from_every_collection_of_ours(
    store: VectorStore, server: QdrantServer
) -> None:
    """Other revisions, other documents and a stranger's collection stay as they are."""
    before, foreign = store_at(server, "fanfold-before-4"), store_at(server, "foreign")
    for one in (before, foreign):
        one.prepare(DIMENSION)
    for one in (store, before, foreign):
        for document_id, revision in (("d", 1), ("d", 2), ("d", 3), ("d", 4), ("e", 1)):
            write(one, document_id, revision, 2)
    store.delete_revision("d", 4)
    store.delete_other_revisions("d", up_to=2, shown=3)
    left = {("d", 3), ("e", 1)}
    for one in (store, before):
        assert {(name, number) for name in "de" for number in (1, 2, 3, 4) if one.point_ids(name, number)} == left
    assert foreign.count() == 10


@EVERY_CALL
def test_a_server_that_is_down_is_unavailable_until_it_is_back(
    store: VectorStore, server: QdrantServer, call: Callable[[VectorStore], Any]
) -> None:
    """Every call says `StoreUnavailable`, which is tried again later, and then works with the same client."""
    written = write(store, "other", 1, 2)
    server.stop()
    with pytest.raises(StoreUnavailable, match="Qdrant does not answer") as refused:
        call(store)
    server.start()
    assert refused.value.retryable
    call(store)
    assert store.point_ids("other", 1) == written


@EVERY_CALL
def test_a_server_in_trouble_is_unavailable(
    store: VectorStore, server: QdrantServer, call: Callable[[VectorStore], Any]
) -> None:
    """A 5xx answer, from Qdrant or from a proxy before it, is tried again later."""
    for status in (500, 502, 503):
        server.refuse(status, "Service internal error: out of disk")
        with pytest.raises(StoreUnavailable):
            call(store)


@EVERY_CALL
def test_a_server_that_asks_for_patience_is_unavailable(
    store: VectorStore, server: QdrantServer, call: Callable[[VectorStore], Any]
) -> None:
    """429 with `Retry-After` (a managed Qdrant limits rates) is tried again later."""
    server.refuse(429, "Too many requests", **{"Retry-After": "1"})
    with pytest.raises(StoreUnavailable):
        call(store)


def test_a_request_that_is_refused_is_a_store_error(store: VectorStore, server: QdrantServer) -> None:
    """Vectors of another dimension (400) and a collection that was dropped (404) never leave as Qdrant's exceptions."""
    with pytest.raises(StoreError):
        store.upsert(a_revision("d", 1), some_chunks(1), axis_vectors(1, dimension=DIMENSION + 1))
    with pytest.raises(StoreError):
        store_at(server, "fanfold-dropped-4").count()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "Wrong input: Vector dimension error: expected dim: 4, got 5"),
        (401, "Must provide an API key or an Authorization bearer token"),
        (403, "Forbidden"),
        (404, "Not found: Collection `fanfold-wire-4` doesn't exist!"),
    ],
)
def test_a_refusal_is_told_as_what_it_is(store: VectorStore, server: QdrantServer, status: int, said: str) -> None:
    """Who reads the error learns that Qdrant answered, and what: the status or its words."""
    server.refuse(status, said)
    with pytest.raises(FanfoldError) as refused:
        store.count()
    assert "does not answer" not in refused.value.message
    assert str(status) in refused.value.message


def test_what_is_no_qdrant_is_unavailable(store: VectorStore, server: QdrantServer) -> None:
    """An answer of another shape (a wrong address, a login page) is not taken for one."""
    client = QdrantClient(url=f"{server.url}/elsewhere", check_compatibility=False)
    with pytest.raises(StoreError):
        VectorStore(client, COLLECTION).count()


def test_the_server_refuses_what_qdrant_refuses(store: VectorStore, server: QdrantServer) -> None:
    """The stand-in is no more forgiving than it may be: unknown collections, doubled ones, bodies of another shape."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    http = client.http.client._client
    config = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
    assert http.put(f"{server.url}/collections/{COLLECTION}", json={"vectors": config.model_dump()}).status_code == 409
    assert http.post(f"{server.url}/collections/nothing/points/count", json={}).status_code == 404
    assert http.post(f"{server.url}/collections/{COLLECTION}/points/query", json={"limit": "x"}).status_code == 400
