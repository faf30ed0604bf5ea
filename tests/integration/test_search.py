"""Search shows what is published: the old or the new version whole, never a mixture, never a duplicate."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids
from ingest.model import StoredChunk
from ingest.stores import Stores
from serve.search import search
from serve.search_schemas import Hit, SearchMode, SearchRequest
from tests.builders import TENANT, a_document, a_revision, axis_vectors, make_visible, some_chunks

QUERY = [float(value) for value in axis_vectors(1)[0]]
NEAR, FAR = 0.0, 0.5  # angle between the query and a revision's first chunk


def write(stores: Stores, document_id: str, revision: int, count: int, *, tilt: float = NEAR) -> None:
    """Store a revision that nobody sees yet. A document `x@acme` is the tenant acme's, any other the default's."""
    tenant = document_id.partition("@")[2] or TENANT
    chunks = some_chunks(count, words=f"{document_id} {revision}")
    stores.catalog.register(a_document(document_id, tenant=tenant, filename=f"{document_id}.pdf"))
    stores.catalog.upsert_chunks(a_revision(document_id, revision, tenant=tenant), chunks)
    stores.vectors.upsert(a_revision(document_id, revision, tenant=tenant), chunks, axis_vectors(count, tilt=tilt))


def publish(stores: Stores, document_id: str, revision: int) -> None:
    """Make it visible."""
    assert make_visible(stores, document_id, revision)


def hits(stores: Stores, *, limit: int = 10, tenant: str = TENANT, document_ids: list[str] | None = None) -> list[Hit]:
    """What a user finds."""
    wanted = SearchRequest(query="anything", mode=SearchMode.DENSE, limit=limit, document_ids=document_ids)
    return search(stores, tenant, wanted, QUERY).hits


def test_a_hit_is_the_chunk_with_its_document(stores: Stores) -> None:
    """Each hit names chunk, document, file, pages and score, best first."""
    write(stores, "d", 1, 3)
    publish(stores, "d", 1)
    found = hits(stores)
    assert [hit.chunk_id for hit in found] == ids.chunk_ids("d", 1, 3)
    assert (found[1].document_id, found[1].filename, found[1].chunk_index) == ("d", "d.pdf", 1)
    assert (found[1].first_page, found[1].last_page, found[1].text) == (2, 2, "d 1 1")
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_an_unpublished_revision_is_never_shown_however_near(stores: Stores) -> None:
    """200 points that are being written are nearer than every published one: only the published ones are found."""
    write(stores, "published", 1, 5, tilt=FAR)
    publish(stores, "published", 1)
    write(stores, "new", 1, 100)
    write(stores, "published", 2, 100)
    stores.catalog.advance("published", 2)
    assert [hit.chunk_id for hit in hits(stores)] == ids.chunk_ids("published", 1, 5)
    assert [hit.chunk_id for hit in hits(stores, limit=3)] == ids.chunk_ids("published", 1, 3)


def test_a_new_version_replaces_the_old_one_at_once(stores: Stores) -> None:
    """Both revisions lie in both stores: before the publish only the old one is found, afterwards only the new one."""
    for revision in (1, 2):
        write(stores, "d", revision, 6)
    publish(stores, "d", 1)
    before = hits(stores, limit=50)
    publish(stores, "d", 2)
    after = hits(stores, limit=50)
    assert [hit.chunk_id for hit in before] == ids.chunk_ids("d", 1, 6)
    assert [hit.chunk_id for hit in after] == ids.chunk_ids("d", 2, 6)


def test_a_deleted_document_is_hidden_at_once(stores: Stores, database: Database[dict[str, Any]]) -> None:
    """From the tombstone on nothing of it is found, although its chunks and points are not swept yet."""
    write(stores, "gone", 1, 200)
    write(stores, "kept", 1, 2, tilt=FAR)
    for document_id in ("gone", "kept"):
        publish(stores, document_id, 1)
    database["documents"].update_one({"_id": "gone"}, {"$set": {"deleted_at": datetime.now(UTC)}})
    assert [hit.document_id for hit in hits(stores)] == ["kept", "kept"]


@pytest.mark.parametrize("limit", [1, 7, 30, 100])
def test_the_limit_is_honoured_and_nothing_is_doubled(stores: Stores, limit: int) -> None:
    """At most `limit` hits, as many as there are, each chunk once, although old and unpublished ones lie between."""
    for document_id in ("d", "e"):
        for revision in (1, 2, 3):
            write(stores, document_id, revision, 15)
        publish(stores, document_id, 2)
    found = hits(stores, limit=limit)
    assert len(found) == len({hit.chunk_id for hit in found}) == min(limit, 30)
    assert {hit.chunk_id for hit in found} <= {*ids.chunk_ids("d", 2, 15), *ids.chunk_ids("e", 2, 15)}


def test_only_the_documents_asked_for_are_searched(stores: Stores) -> None:
    """A document outside `document_ids` is not found, however near; one that does not exist is no error."""
    write(stores, "near", 1, 50)
    write(stores, "far", 1, 3, tilt=FAR)
    for document_id in ("near", "far"):
        publish(stores, document_id, 1)
    assert {hit.document_id for hit in hits(stores, document_ids=["far", "nothing"])} == {"far"}
    assert hits(stores, document_ids=["nothing"]) == []


def test_a_tenant_finds_its_own_documents_only(stores: Stores) -> None:
    """Two tenants, the same text: each finds its own copy."""
    for document_id in ("letter@a", "letter@b"):
        write(stores, document_id, 1, 3)
        publish(stores, document_id, 1)
    assert {hit.document_id for hit in hits(stores, tenant="a")} == {"letter@a"}
    assert hits(stores, tenant="c") == []


def test_a_point_without_its_chunk_is_not_a_hit(stores: Stores) -> None:
    """Stores that disagree for a moment show less, never something half."""
    write(stores, "d", 1, 3)
    publish(stores, "d", 1)
    stores.vectors.upsert(a_revision("d", 1), some_chunks(1, first=9), axis_vectors(1))
    assert [hit.chunk_id for hit in hits(stores)] == ids.chunk_ids("d", 1, 3)


def test_a_version_that_is_replaced_during_a_search_does_not_vanish(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published and collected between a search's two questions: the reader sees one of the versions, not none."""
    for revision in (1, 2):
        write(stores, "d", revision, 3)
    publish(stores, "d", 1)
    chunks_by_id = stores.catalog.chunks_by_id

    def replaced_meanwhile(tenant: str, chunk_ids: Sequence[str]) -> Mapping[str, StoredChunk]:
        publish(stores, "d", 2)
        stores.catalog.delete_other_revisions("d", up_to=1, shown=2)
        stores.vectors.delete_other_revisions("d", up_to=1, shown=2)
        return chunks_by_id(tenant, chunk_ids)

    monkeypatch.setattr(stores.catalog, "chunks_by_id", replaced_meanwhile)
    assert len(hits(stores)) == 3
