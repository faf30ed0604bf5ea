"""What a search compares, where it looks, and how it orders what it finds; never anything that is not published."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from ingest import ids
from ingest.model import Chunk
from ingest.stores import Stores
from serve.search import search
from serve.search_schemas import Hit, SearchRequest, SearchResponse
from tests.builders import TENANT, a_document, a_revision, axis_vectors, make_visible

QUERY = [float(value) for value in axis_vectors(1)[0]]
TEXTS = ("The tide table hangs here.", "A lamp on the quay.", "Tide, tide, and no chair.", "The harbour master's cat.")


def write(  # noqa: PLR0913  # what a test does not say, it does not care for
    stores: Stores,
    document_id: str,
    texts: Sequence[str] = TEXTS,
    *,
    revision: int = 1,
    tilt: float = 0.0,
    metadata: dict[str, Any] | None = None,
    tenant: str = TENANT,
) -> None:
    """Store a revision, one chunk a page; nearer to the query by meaning the earlier it comes."""
    chunks = [Chunk(number, text, number + 1, number + 1, 4) for number, text in enumerate(texts)]
    stores.catalog.register(a_document(document_id, tenant=tenant, filename=f"{document_id}.pdf"))
    stores.catalog.describe(document_id, metadata or {})
    stores.catalog.upsert_chunks(a_revision(document_id, revision, tenant=tenant), chunks)
    vectors = axis_vectors(len(texts), tilt=tilt)
    stores.vectors.upsert(a_revision(document_id, revision, tenant=tenant), chunks, vectors)


def publish(stores: Stores, *document_ids: str, revision: int = 1) -> None:
    """Make them visible."""
    for document_id in document_ids:
        assert make_visible(stores, document_id, revision)


def ask(stores: Stores, query: str = "tide table", *, tenant: str = TENANT, **asked: Any) -> SearchResponse:
    """What a user finds."""
    return search(stores, tenant, SearchRequest.model_validate({"query": query, **asked}), QUERY)


def found(stores: Stores, query: str = "tide table", *, tenant: str = TENANT, **asked: Any) -> list[tuple[str, int]]:
    """Document and chunk index of each hit."""
    return [(hit.document_id, hit.chunk_index) for hit in ask(stores, query, tenant=tenant, **asked).hits]


def test_words_find_the_chunks_that_hold_them_best_first(stores: Stores) -> None:
    """Both words beat one of them twice; a chunk with none is no hit; the score is BM25, and there is no cosine."""
    write(stores, "d")
    publish(stores, "d")
    hits = ask(stores, mode="lexical").hits
    assert [hit.chunk_index for hit in hits] == [0, 2]
    assert all(hit.score == hit.scores.lexical and hit.scores.dense is None for hit in hits)
    assert hits[0].score > hits[1].score > 0


def test_a_rare_word_weighs_more_than_a_frequent_one(stores: Stores) -> None:
    """The inverse document frequency is the store's: `lamp` stands in one chunk, `the` in most."""
    write(stores, "d", ["the the the", "lamp", "the cat", "the dog", "the boat"])
    publish(stores, "d")
    assert found(stores, "the lamp", mode="lexical")[0] == ("d", 1)


@pytest.mark.parametrize("query", ["reservoir", "?!", "* *"])
def test_words_that_nobody_wrote_find_nothing(stores: Stores, query: str) -> None:
    """An unknown word, or none at all, is no error: by words nothing is found, by both what is near in meaning."""
    write(stores, "d")
    publish(stores, "d")
    assert found(stores, query, mode="lexical") == []
    assert found(stores, query) == found(stores, query, mode="dense") == [("d", index) for index in range(4)]


def test_a_fused_score_is_the_weighted_share_of_each_sides_best(stores: Stores) -> None:
    """Three quarters meaning, one quarter words, each as a share of its best hit's: at most 1, whatever the scales."""
    write(stores, "d")
    publish(stores, "d")
    hits = ask(stores).hits
    dense = max(hit.scores.dense or 0 for hit in hits)
    lexical = max(hit.scores.lexical or 0 for hit in hits)
    for hit in hits:
        shares = 0.75 * (hit.scores.dense or 0) / dense + 0.25 * (hit.scores.lexical or 0) / lexical
        assert hit.score == pytest.approx(shares)
        assert 0 < hit.score <= 1


def test_both_rankings_are_fused(stores: Stores) -> None:
    """What both sides find comes before what one of them finds; each hit says what each side thinks of it."""
    write(stores, "d", ["A lamp.", "A cat.", "A tide table.", "A quay."])
    publish(stores, "d")
    hits = ask(stores).hits
    assert hits[0].chunk_index == 2
    by_words, by_meaning = ask(stores, mode="lexical").hits, ask(stores, mode="dense").hits
    assert hits[0].scores.lexical == by_words[0].score
    assert hits[0].scores.dense == pytest.approx(by_meaning[2].score)
    assert [hit.scores.lexical for hit in hits[1:]] == [None] * 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_what_is_not_published_takes_no_place(stores: Stores, mode: str) -> None:
    """300 better chunks that nobody may see change neither the hits nor their order."""
    write(stores, "d", tilt=0.5)
    publish(stores, "d")
    before = ask(stores, mode=mode).hits
    write(stores, "new", ["tide table"] * 200)
    write(stores, "d", ["tide table"] * 100, revision=2)
    stores.catalog.advance("d", 2)
    after = ask(stores, mode=mode).hits
    assert [hit.chunk_id for hit in after] == [hit.chunk_id for hit in before] != []


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_mode_shows_another_tenants_chunks(stores: Stores, mode: str, grouped: bool) -> None:
    """The tenant is in every query: the same words, another tenant, no hit."""
    write(stores, "theirs", tenant="b")
    publish(stores, "theirs")
    assert found(stores, mode=mode, group_by_document=grouped) == []
    assert found(stores, mode=mode, group_by_document=grouped, tenant="b") != []


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_the_sides_of_a_fusion_never_show_two_revisions(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Published between any two questions of a search: the reader sees one revision of the document, whole."""
    for revision in (1, 2):
        write(stores, "d", ["A tide table.", "A tide."], revision=revision)
    publish(stores, "d")
    documents, asked = stores.catalog.documents, []

    def replaced_meanwhile(*given: Any) -> Any:
        asked.append(given)
        if len(asked) == 2:
            publish(stores, "d", revision=2)
        return documents(*given)

    monkeypatch.setattr(stores.catalog, "documents", replaced_meanwhile)
    hits = ask(stores, mode=mode).hits
    assert {hit.chunk_id for hit in hits} == set(ids.chunk_ids("d", 2, 2))


@pytest.mark.parametrize(
    ("pages", "indexes"),
    [
        ({"first": 2, "last": 3}, [1, 2]),
        ({"first": 4}, [3]),
        ({"last": 1}, [0]),
        ({"first": 9}, []),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_only_chunks_that_overlap_the_pages_are_found(
    stores: Stores, pages: dict[str, int], indexes: list[int]
) -> None:
    """Both ends are included, and either may be open."""
    write(stores, "d")
    publish(stores, "d")
    assert [index for _, index in sorted(found(stores, pages=pages))] == indexes


def test_a_chunk_that_spans_pages_overlaps_each_of_them(stores: Stores) -> None:
    """Pages 3 to 5: found on 3, on 4 and on 5, not on 2 nor on 6."""
    chunk = Chunk(0, "A tide table.", 3, 5, 4)
    stores.catalog.register(a_document("d"))
    stores.catalog.upsert_chunks(a_revision("d"), [chunk])
    stores.vectors.upsert(a_revision("d"), [chunk], axis_vectors(1))
    publish(stores, "d")
    overlapped = [page for page in range(1, 8) if found(stores, pages={"first": page, "last": page})]
    assert overlapped == [3, 4, 5]


SHELF: dict[str, dict[str, Any]] = {
    "ann": {"author": {"name": "Ann"}, "year": 2020, "tags": ["sea", "maps"], "draft": False},
    "bob": {"author": {"name": "Bob"}, "year": 2021.5, "tags": ["sea"], "draft": True},
    "cid": {"author": {"name": "Cid"}, "year": "2022", "code": 1},
    "dee": {},
}


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"author.name": "Ann"}, {"ann"}),
        ({"author.name": ["Ann", "Cid", "Zoe"]}, {"ann", "cid"}),
        ({"author.name": {"gte": "B"}}, {"bob", "cid"}),
        ({"author.name": {"gt": "Ann", "lt": "Cid"}}, {"bob"}),
        ({"year": {"gte": 2020, "lte": 2021}}, {"ann"}),
        ({"year": {"gt": 2020}}, {"bob"}),
        ({"year": 2020.0}, {"ann"}),
        ({"year": "2022"}, {"cid"}),
        ({"tags": "sea"}, {"ann", "bob"}),
        ({"tags": ["maps", "none"]}, {"ann"}),
        ({"draft": True}, {"bob"}),
        ({"draft": False}, {"ann"}),
        ({"code": 1}, {"cid"}),
        ({"code": True}, set()),
        ({"tags": "sea", "draft": True}, {"bob"}),
        ({"nothing": 1}, set()),
        ({}, {"ann", "bob", "cid", "dee"}),
    ],
)
@pytest.mark.parametrize("ids_fit", [True, False])
def test_only_documents_with_the_metadata_are_searched(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any], names: set[str], ids_fit: bool
) -> None:
    """A value, any of several, a range: as MongoDB compares; also where more documents match than ids can be sent."""
    if not ids_fit:
        monkeypatch.setattr("serve.search.MAX_DOCUMENT_FILTER", 0)
    for name, said in SHELF.items():
        write(stores, name, metadata=said)
        publish(stores, name)
    assert {name for name, _ in found(stores, metadata=metadata, limit=100)} == names
    assert {name for name, _ in found(stores, metadata=metadata, document_ids=["ann", "bob"])} == names & {"ann", "bob"}


def test_metadata_of_other_tenants_and_of_unpublished_documents_match_nothing(stores: Stores) -> None:
    """The catalog names only published documents of the tenant, and as many as it is asked for."""
    for name, tenant in (("a", TENANT), ("b", TENANT), ("hidden", TENANT), ("theirs", "b")):
        write(stores, name, metadata={"x": 1}, tenant=tenant)
    publish(stores, "a", "b", "theirs")
    assert set(stores.catalog.documents_with(TENANT, {"x": {"eq": 1}}, limit=9)) == {"a", "b"}
    assert len(stores.catalog.documents_with(TENANT, {"x": {"eq": 1}}, limit=1)) == 1
    assert stores.catalog.documents_with(TENANT, {"x": {"eq": 1}}, limit=9, document_ids=["b", "theirs"]) == ["b"]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_hits_are_grouped_by_document(stores: Stores, mode: str) -> None:
    """`limit` counts documents, each with its best hits; `hits` are the same ones in the groups' order."""
    write(stores, "d", ["tide table"] * 30)
    write(stores, "e", tilt=0.2)
    write(stores, "f", ["A tide.", "A quay."], tilt=0.3)
    publish(stores, "d", "e", "f")
    answer = ask(stores, mode=mode, group_by_document=True, limit=2, hits_per_document=2)
    assert answer.groups is not None
    assert [(group.document_id, group.filename, len(group.hits)) for group in answer.groups] == [
        ("d", "d.pdf", 2),
        ("e", "e.pdf", 2),
    ]
    assert [group.score for group in answer.groups] == [group.hits[0].score for group in answer.groups]
    assert answer.hits == [hit for group in answer.groups for hit in group.hits]
    assert ask(stores, mode=mode).groups is None


def test_no_more_documents_are_looked_for_than_were_named(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped, in one long document: one look at the points is enough, where ten documents would take all of them."""
    write(stores, "d", ["tide table"] * 60)
    publish(stores, "d")
    looks: list[int] = []
    look = stores.vectors.search

    def counted(*arguments: Any, limit: int, **more: Any) -> Any:
        looks.append(limit)
        return look(*arguments, limit=limit, **more)

    monkeypatch.setattr(stores.vectors, "search", counted)
    answer = ask(stores, mode="dense", group_by_document=True, limit=10, hits_per_document=3, document_ids=["d"])
    assert [hit.document_id for hit in answer.hits] == ["d"] * 3
    assert looks == [200]


def test_a_document_is_shown_with_its_best_hits_also_where_others_lie_between(stores: Stores) -> None:
    """Its second hit is behind a chunk of each of fifty other documents: it is shown, whatever the limit."""
    write(stores, "d", ["tide table"] * 3)
    for number in range(50):
        write(stores, f"other {number:02}", ["tide table tide"], tilt=5e-4)
    publish(stores, "d", *(f"other {number:02}" for number in range(50)))
    for limit in (1, 10):
        answer = ask(stores, mode="dense", group_by_document=True, limit=limit, hits_per_document=3)
        counts = {group.document_id: len(group.hits) for group in answer.groups or []}
        assert counts["d"] == 3
        assert len(counts) == limit


def test_documents_are_found_behind_one_that_fills_the_ranking(stores: Stores) -> None:
    """500 chunks of one document are nearer than the first of any other: the others are fetched all the same."""
    write(stores, "long", ["A lamp."] * 500)
    for name in ("e", "f"):
        write(stores, name, ["A quay."], tilt=1.0)
    publish(stores, "long", "e", "f")
    answer = ask(stores, "x", mode="dense", group_by_document=True, limit=3)
    assert {group.document_id for group in answer.groups or []} == {"long", "e", "f"}


def assert_honest(hits: Sequence[Hit], shown: set[str], most: int) -> None:
    """No more than were asked for, each once, each published, best first."""
    assert len(hits) <= most
    assert len({hit.chunk_id for hit in hits}) == len(hits)
    assert {hit.chunk_id for hit in hits} <= shown


@bounded(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.sampled_from(["tide table", "the cat", "lamp", "nothing known", "!"]),
    mode=st.sampled_from(["dense", "lexical", "hybrid"]),
    limit=st.integers(1, 12),
    grouped=st.booleans(),
    document_ids=st.none() | st.lists(st.sampled_from(["d", "e", "f", "g"]), max_size=3),
    first=st.integers(1, 5),
)
def test_whatever_is_asked_each_chunk_is_published_and_shown_once(  # noqa: PLR0913  # Hypothesis fills them in
    stores: Stores, query: str, mode: str, limit: int, grouped: bool, document_ids: list[str] | None, first: int
) -> None:
    """Any mode with any filter: published chunks of the tenant in the scope, no duplicate, no more than the limit."""
    for name in ("d", "e", "f"):
        write(stores, name)
        write(stores, name, revision=2)
    publish(stores, "d", "e")
    answer = ask(
        stores, query, mode=mode, limit=limit, group_by_document=grouped, document_ids=document_ids,
        pages={"first": first}, hits_per_document=2,
    )  # fmt: skip
    inside = {"d", "e"} & set(document_ids if document_ids is not None else ["d", "e"])
    shown = {ids.chunk_id(name, 1, page - 1) for name in inside for page in range(first, len(TEXTS) + 1)}
    assert_honest(answer.hits, shown, 2 * limit if grouped else limit)
    if mode != "lexical" and not grouped:
        assert len(answer.hits) == min(limit, len(shown))
