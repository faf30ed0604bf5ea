"""The catalog and the vector store: idempotent writes under a revision, and the compare-and-set that publishes it."""

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database
from qdrant_client import QdrantClient
from tenacity import retry, retry_if_exception_type

from ingest import ids
from ingest.errors import LeaseLost, NotFound, StoreMismatch, StoreUnavailable
from ingest.model import Document
from ingest.points import Scope
from ingest.revisions import confirm
from ingest.stores import Stores
from ingest.stores.catalog import Catalog
from ingest.stores.vectors import VectorStore, collection_name
from tests.builders import TENANT, a_document, a_revision, at_once, axis_vectors, make_visible, some_chunks

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")


def write(stores: Stores, document_id: str, revision: int, count: int, *, tenant: str = TENANT) -> None:
    """Store a whole revision in both stores."""
    chunks = some_chunks(count)
    stores.catalog.upsert_chunks(a_revision(document_id, revision, tenant=tenant), chunks)
    stores.vectors.upsert(a_revision(document_id, revision, tenant=tenant), chunks, axis_vectors(count))


def held_by(stores: Stores, document_id: str, revision: int) -> tuple[set[str], set[str]]:
    """The ids of a revision that each store holds."""
    return stores.catalog.chunk_ids(document_id, revision), stores.vectors.point_ids(document_id, revision)


def publish(stores: Stores, document_id: str, revision: int, *, chunk_count: int = 5) -> bool:
    """Make the revision the latest, and publish it."""
    return make_visible(stores, document_id, revision, page_count=2, chunk_count=chunk_count)


def test_writing_a_revision_again_changes_nothing(stores: Stores) -> None:
    """A retry overwrites what it wrote: both stores hold exactly the manifest's ids, once."""
    for _ in range(2):
        write(stores, "d", 1, 5)
    manifest = set(ids.chunk_ids("d", 1, 5))
    assert held_by(stores, "d", 1) == (manifest, manifest)
    assert stores.vectors.count() == 5


def test_two_attempts_that_write_at_the_same_moment_leave_one_copy(stores: Stores) -> None:
    """Twins of one attempt upsert the same ids: nothing is doubled, and who is told so writes them again."""

    @retry(retry=retry_if_exception_type(StoreUnavailable))
    def upsert(_number: int) -> None:
        stores.catalog.upsert_chunks(a_revision("d", 1), some_chunks(20))

    at_once(4, upsert)
    assert stores.catalog.chunk_ids("d", 1) == set(ids.chunk_ids("d", 1, 20))


def test_a_rewritten_chunk_has_the_last_text(stores: Stores) -> None:
    """An upsert replaces the whole row: no field of an earlier write remains."""
    stores.catalog.register(a_document("d"))
    stores.catalog.upsert_chunks(a_revision("d", 1), some_chunks(1, words="old"))
    stores.catalog.upsert_chunks(a_revision("d", 1), some_chunks(1, words="new"))
    publish(stores, "d", 1, chunk_count=1)
    chunk = stores.catalog.chunks(stores.catalog.document(TENANT, "d"), limit=9)[0]
    assert (chunk.chunk_id, chunk.text, chunk.first_page, chunk.token_count) == (ids.chunk_id("d", 1, 0), "new 0", 1, 4)


def test_an_earlier_attempts_late_write_replaces_nothing(stores: Stores) -> None:
    """Rows are fenced by the epoch that wrote them: what comes late is refused, and each row is the later attempt's."""
    late, current = a_revision("d", epoch=1), a_revision("d", epoch=2)
    stores.catalog.upsert_chunks(late, some_chunks(3, words="old"))
    stores.catalog.upsert_chunks(current, some_chunks(3, words="new"))
    stores.vectors.upsert(current, some_chunks(3), axis_vectors(3))
    with pytest.raises(LeaseLost, match="later attempt"):
        stores.catalog.upsert_chunks(late, some_chunks(3, words="old"))
    stores.vectors.upsert(late, some_chunks(3), axis_vectors(3)[::-1])
    found = stores.catalog.chunks_by_id(TENANT, list(ids.chunk_ids("d", 1, 3)))
    assert {(chunk.text, chunk.epoch) for chunk in found.values()} == {("new 0", 2), ("new 1", 2), ("new 2", 2)}
    nearest = stores.vectors.search(TENANT, list(axis_vectors(3)[0]), limit=1)
    assert nearest[0].chunk_id == ids.chunk_id("d", 1, 0)


def test_rows_that_an_earlier_attempt_left_beside_the_manifest_are_removed(stores: Stores) -> None:
    """It had cut the text into more chunks, and wrote late: when the later attempt is confirmed they are gone."""
    late, current = a_revision("d", epoch=1), a_revision("d", epoch=2)
    for revision, count in ((current, 3), (late, 5)):
        with suppress(LeaseLost):
            stores.catalog.upsert_chunks(revision, some_chunks(count))
        stores.vectors.upsert(revision, some_chunks(count), axis_vectors(count))
    confirm(stores, current, 3)
    manifest = set(ids.chunk_ids("d", 1, 3))
    assert held_by(stores, "d", 1) == (manifest, manifest)


def test_points_of_a_later_attempt_are_not_confirmed(stores: Stores) -> None:
    """MongoDB was restored from an older copy: the points with these ids are not those that this attempt has made."""
    future, current = a_revision("d", epoch=3), a_revision("d", epoch=2)
    stores.vectors.upsert(future, some_chunks(3), axis_vectors(3)[::-1])
    stores.catalog.upsert_chunks(current, some_chunks(3))
    stores.vectors.upsert(current, some_chunks(3), axis_vectors(3))
    with pytest.raises(StoreMismatch, match="later attempt"):
        confirm(stores, current, 3)


def test_rolling_back_removes_one_revision_and_no_other(stores: Stores) -> None:
    """`delete_revision` leaves older and newer revisions, and other documents, in both stores."""
    for document_id, revision in (("d", 1), ("d", 2), ("d", 3), ("e", 2)):
        write(stores, document_id, revision, 3)
    for _ in range(2):
        stores.catalog.delete_revision("d", 2)
        stores.vectors.delete_revision("d", 2)
    assert held_by(stores, "d", 2) == (set(), set())
    for document_id, revision in (("d", 1), ("d", 3), ("e", 2)):
        manifest = set(ids.chunk_ids(document_id, revision, 3))
        assert held_by(stores, document_id, revision) == (manifest, manifest)


def test_collecting_removes_only_what_is_older(stores: Stores) -> None:
    """`delete_other_revisions` leaves the published revision, one being written after it, and other documents."""
    for document_id, revision in (("d", 1), ("d", 2), ("d", 3), ("d", 4), ("e", 1)):
        write(stores, document_id, revision, 2)
    stores.catalog.delete_other_revisions("d", up_to=2, shown=3)
    stores.vectors.delete_other_revisions("d", up_to=2, shown=3)
    left = {
        (document_id, revision)
        for document_id, revision in (("d", 1), ("d", 2), ("d", 3), ("d", 4), ("e", 1))
        for held in held_by(stores, document_id, revision)
        if held
    }
    assert left == {("d", 3), ("d", 4), ("e", 1)}


def test_points_are_removed_from_every_collection_of_ours() -> None:
    """A revision stored under an earlier embedding model goes too; a stranger's collection is left alone."""
    client = QdrantClient(":memory:")
    before, after, foreign = (VectorStore(client, name) for name in ("fanfold-old-4", "fanfold-new-4", "foreign"))
    for store in (before, after, foreign):
        store.prepare(4)
        store.upsert(a_revision("d", 1), some_chunks(2), axis_vectors(2, dimension=4))
    after.delete_revision("d", 1)
    assert (before.count(), after.count(), foreign.count()) == (0, 0, 2)
    before.upsert(a_revision("d", 1), some_chunks(2), axis_vectors(2, dimension=4))
    after.delete_other_revisions("d", up_to=1, shown=2)
    assert (before.count(), foreign.count()) == (0, 2)


def test_publishing_is_decided_by_the_latest_revision(stores: Stores) -> None:
    """Compare-and-set: an overtaken revision is not published, and what was published before stays."""
    stores.catalog.register(a_document("d"))
    assert publish(stores, "d", 1)
    stores.catalog.advance("d", 3, epoch=1)
    assert not stores.catalog.publish(a_revision("d", 2), page_count=9, chunk_count=9)
    assert not stores.catalog.publish(a_revision("d", 4), page_count=9, chunk_count=9)
    document = stores.catalog.document(TENANT, "d")
    assert (document.published_revision, document.latest_revision, document.chunk_count) == (1, 3, 5)


def test_publishing_is_the_latest_attempt_s(stores: Stores) -> None:
    """An attempt that lost its lease publishes nothing once another has begun, at this revision or at a later one."""
    stores.catalog.register(a_document("d"))
    late, taken_over = a_revision("d", 1, epoch=1), a_revision("d", 1, epoch=2)
    for epoch in (1, 2, 1):  # the late one begins again, as a repeated write does
        stores.catalog.advance("d", 1, epoch=epoch)
    assert not stores.catalog.publish(late, page_count=9, chunk_count=9)
    assert stores.catalog.publish(taken_over, page_count=1, chunk_count=1)
    stores.catalog.advance("d", 2)
    assert not stores.catalog.publish(taken_over, page_count=9, chunk_count=9)
    assert stores.catalog.document(TENANT, "d").chunk_count == 1


def test_publishing_again_changes_nothing(stores: Stores) -> None:
    """Recovery repeats the publish that a crash interrupted, and is told that it is published."""
    stores.catalog.register(a_document("d"))
    assert publish(stores, "d", 1)
    before = stores.catalog.document(TENANT, "d")
    assert publish(stores, "d", 1)
    assert stores.catalog.document(TENANT, "d") == before
    assert (before.published_revision, before.page_count, before.chunk_count) == (1, 2, 5)


def test_a_deleted_document_is_not_published(stores: Stores, database: Database[dict[str, Any]]) -> None:
    """The tombstone is in the compare-and-set: a job that finishes after the delete publishes nothing."""
    stores.catalog.register(a_document("d"))
    database["documents"].update_one({"_id": "d"}, {"$set": {"deleted_at": datetime.now(UTC)}})
    assert not publish(stores, "d", 1)
    assert not publish(stores, "never was", 1)
    with pytest.raises(NotFound):
        stores.catalog.document(TENANT, "d")
    assert stores.catalog.documents(TENANT, ["d"]) == {}


def test_the_latest_revision_never_falls(stores: Stores) -> None:
    """A slow submit that advances late does not undo a later one."""
    stores.catalog.register(a_document("d"))
    for revision in (2, 5, 3, 5):
        stores.catalog.advance("d", revision)
    assert stores.catalog.document(TENANT, "d").latest_revision == 5


def test_registering_again_returns_the_document_that_is_there(stores: Stores) -> None:
    """The same bytes under another name are the same document; what is known about it stays."""
    first = stores.catalog.register(a_document("d", filename="first.pdf"))
    publish(stores, "d", 1)
    again = stores.catalog.register(a_document("d", filename="second.pdf"))
    assert (again.filename, again.created_at, again.published_revision) == ("first.pdf", first.created_at, 1)


def test_registering_at_the_same_moment_gives_everybody_the_same_document(stores: Stores) -> None:
    """Many clients send the same new file at once: one of them registers it, and all are told the same."""
    for round_number in range(10):
        document_id = f"d{round_number}"

        def register(number: int, document_id: str = document_id) -> Document:
            return stores.catalog.register(a_document(document_id, filename=f"{number}.pdf"))

        assert len({document.filename for document in at_once(8, register)}) == 1


def test_a_deleted_document_comes_back_unpublished(stores: Stores, database: Database[dict[str, Any]]) -> None:
    """Sent again after its delete, a document is not searchable before it was ingested again."""
    stores.catalog.register(a_document("d"))
    publish(stores, "d", 1)
    database["documents"].update_one({"_id": "d"}, {"$set": {"deleted_at": datetime.now(UTC)}})
    assert stores.catalog.register(a_document("d")).published_revision is None


def test_chunks_are_paged_in_order_and_only_the_published_ones(stores: Stores) -> None:
    """A reader sees the published revision whole and in order, and nothing of one that is being written."""
    document = stores.catalog.register(a_document("d"))
    stores.catalog.upsert_chunks(a_revision("d", 1), some_chunks(7)[::-1])
    assert stores.catalog.chunks(document, limit=9) == []
    publish(stores, "d", 1, chunk_count=7)
    stores.catalog.upsert_chunks(a_revision("d", 2), some_chunks(9, words="unpublished"))
    stores.catalog.advance("d", 2)
    document = stores.catalog.document(TENANT, "d")
    pages = [stores.catalog.chunks(document, limit=3, after=after) for after in (-1, 2, 5, 6)]
    assert [[chunk.chunk_index for chunk in page] for page in pages] == [[0, 1, 2], [3, 4, 5], [6], []]
    assert {chunk.revision for page in pages for chunk in page} == {1}


def test_a_document_and_its_chunks_are_their_tenants(stores: Stores) -> None:
    """Another tenant's document is not found, nor are its chunks by id."""
    stores.catalog.register(a_document("d", tenant="a"))
    stores.catalog.upsert_chunks(a_revision("d", 1, tenant="a"), some_chunks(2))
    with pytest.raises(NotFound):
        stores.catalog.document("b", "d")
    assert stores.catalog.documents("b", ["d"]) == {}
    assert set(stores.catalog.documents("a", ["d", "nothing"])) == {"d"}
    wanted = ids.chunk_ids("d", 1, 3)
    assert stores.catalog.chunks_by_id("b", wanted) == {}
    assert set(stores.catalog.chunks_by_id("a", wanted)) == set(wanted[:2])


def test_search_finds_the_tenants_points_best_first(stores: Stores) -> None:
    """Nearest first with their cosine; nobody finds another tenant's points, however near."""
    write(stores, "mine", 1, 4, tenant="a")
    write(stores, "theirs", 1, 4, tenant="b")
    found = stores.vectors.search("a", axis_vectors(1)[0].tolist(), limit=10)
    assert [match.chunk_id for match in found] == ids.chunk_ids("mine", 1, 4)
    assert [match.score for match in found] == pytest.approx(np.cos(np.arange(4) * 1e-3).tolist(), abs=1e-6)
    assert {(match.document_id, match.revision) for match in found} == {("mine", 1)}
    assert stores.vectors.search("c", axis_vectors(1)[0].tolist(), limit=10) == []


def test_search_can_be_limited_to_documents_and_in_number(stores: Stores) -> None:
    """`document_ids` are a filter in the store, not afterwards; an empty list is no document, not every one."""
    for document_id in ("d", "e", "f"):
        write(stores, document_id, 1, 3)
    vector = axis_vectors(1)[0].tolist()
    found = stores.vectors.search(TENANT, vector, limit=4, scope=Scope(document_ids=["e", "f"]))
    assert len(found) == 4
    assert {match.document_id for match in found} == {"e", "f"}
    assert stores.vectors.search(TENANT, vector, limit=4, scope=Scope(document_ids=[])) == []


def test_point_ids_are_read_beyond_one_page(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision of more points than one answer holds is read back whole."""
    monkeypatch.setattr("ingest.stores.vectors.SCROLL_PAGE", 7)
    write(stores, "d", 1, 30)
    write(stores, "e", 1, 3)
    assert stores.vectors.point_ids("d", 1) == set(ids.chunk_ids("d", 1, 30))


class OneAtATime:
    """A local Qdrant as its actor offers it: calls from anywhere, one after another."""

    def __init__(self) -> None:
        self._client = QdrantClient(":memory:")
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return method(*args, **kwargs)

        return call


def test_preparing_again_and_at_the_same_moment_changes_nothing() -> None:
    """Any number of processes may start together, and again later: one collection, and its points stay."""
    client: Any = OneAtATime()
    stores = [VectorStore(client, "fanfold-m-4") for _ in range(8)]
    assert at_once(8, lambda number: stores[number].prepare(4)) == [None] * 8
    stores[0].upsert(a_revision("d", 1), some_chunks(2), axis_vectors(2, dimension=4))
    stores[1].prepare(4)
    assert stores[1].count() == 2
    assert [collection.name for collection in client.get_collections().collections] == ["fanfold-m-4"]


def test_preparing_the_catalog_again_and_at_the_same_moment_changes_nothing(
    database: Database[dict[str, Any]],
) -> None:
    """Its indexes are created once, whoever is first."""
    assert at_once(4, lambda _: Catalog(database).prepare()) == [None] * 4
    unique = [index for index in database["chunks"].index_information().values() if index.get("unique")]
    assert [index["key"] for index in unique] == [[("document_id", 1), ("revision", 1), ("chunk_index", 1)]]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("all-MiniLM-L6-v2", "fanfold-all-minilm-l6-v2-384-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "fanfold-all-minilm-l6-v2-384-v2"),
        ("/models/My Model (v2)/", "fanfold-my-model-v2-384-v2"),
    ],
)
def test_a_collection_is_named_after_model_and_dimension(model: str, expected: str) -> None:
    """One collection a model and dimension: vectors of two models never meet."""
    assert collection_name(model, 384) == expected


def test_both_stores_answer(stores: Stores) -> None:
    """Readiness asks each store by a call of its own, and what it returns is nothing."""
    probes: list[Callable[[], object]] = [stores.catalog.ping, stores.vectors.ping, stores.objects.ping]
    assert [probe() for probe in probes] == [None] * 3


def test_an_unpublished_document_says_so(stores: Stores) -> None:
    """A registered document is found before anything of it is published."""
    document: Document = stores.catalog.register(a_document("d"))
    assert stores.catalog.document(TENANT, "d") == document
    assert (document.published_revision, document.latest_revision, document.page_count) == (None, 0, None)
