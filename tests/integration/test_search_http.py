"""Search from outside, without a cluster: the route, the typed client and the command line over the same stores."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from typer.testing import CliRunner

from cluster import cli
from ingest.settings import Settings
from ingest.stores import Stores
from serve.client import Client
from tests.builders import a_document, a_revision, axis_vectors, make_visible, some_chunks
from tests.integration.web import Web

QUERY = [float(value) for value in axis_vectors(1)[0]]


@pytest.fixture
def embedded() -> list[str]:
    """The queries that were embedded."""
    return []


@pytest.fixture
def http(stores: Stores, settings: Settings, embedded: list[str]) -> TestClient:
    """The service, with two published documents of three chunks each."""
    for name in ("ann", "bob"):
        chunks = some_chunks(3, words=f"{name} writes chunk")
        stores.catalog.register(a_document(name, filename=f"{name}.pdf"))
        stores.catalog.describe(name, {"author": name})
        stores.catalog.upsert_chunks(a_revision(name), chunks)
        stores.vectors.upsert(a_revision(name), chunks, axis_vectors(3))
        make_visible(stores, name, page_count=3, chunk_count=3)

    async def embed_query(query: str) -> list[float]:
        embedded.append(query)
        return QUERY

    return Web(stores, settings, embed_query=embed_query).client()


@pytest.fixture
def client(http: TestClient) -> Client:
    """The typed client of it."""
    client: Any = Client("http://testserver")
    client._http = http
    return cast("Client", client)


@pytest.fixture
def fanfold(client: Client, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The command line of it."""

    @contextmanager
    def connected() -> Iterator[Client]:
        yield client

    monkeypatch.setattr(cli, "_client", connected)
    return CliRunner()


def test_a_search_answers_with_all_that_a_page_shows(http: TestClient) -> None:
    """Hits with both scores, snippet and marks; no groups unless they are asked for."""
    answer = http.post("/v1/search", json={"query": "Bob", "limit": 2})
    assert answer.status_code == 200
    body = answer.json()
    assert body["groups"] is None
    assert {hit["document_id"] for hit in body["hits"]} == {"bob"}
    first = body["hits"][0]
    assert first["snippet"] == {"text": "bob writes chunk 0", "marks": [{"start": 0, "end": 3}]}
    assert first["scores"]["dense"] == pytest.approx(1)
    assert first["scores"]["lexical"] > 0
    assert (first["filename"], first["first_page"], first["last_page"]) == ("bob.pdf", 1, 1)


def test_a_search_by_words_embeds_nothing(http: TestClient, embedded: list[str]) -> None:
    """It works while the model is loading, and costs no pass through it."""
    assert len(http.post("/v1/search", json={"query": "ann", "mode": "lexical"}).json()["hits"]) == 3
    assert embedded == []
    http.post("/v1/search", json={"query": "ann"})
    assert embedded == ["ann"]


@pytest.mark.parametrize(
    "asked",
    [
        {"metadata": {"$where": "sleep(1000)"}},
        {"metadata": {"a": {"$gt": 1}}},
        {"metdata": {"author": "ann"}},
        {"pages": {"first": 2, "last": 1}},
        {"mode": "sparse"},
        {"document_ids": ["\udc00"]},
        {"metadata": {"\ud800": "\ud800"}},
    ],
)
def test_what_is_no_search_is_422(http: TestClient, asked: dict[str, Any]) -> None:
    """With a problem body, and before any store is asked."""
    body = json.dumps({"query": "x", **asked})  # with \\u escapes, which can write what UTF-8 cannot
    answer = http.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")


def test_the_client_asks_for_all_that_the_service_knows(client: Client) -> None:
    """Plain keyword arguments; what is no search is refused before it is sent."""
    hits = client.search("chunk", mode="hybrid", metadata={"author": ["ann", "zoe"]}, pages={"first": 2, "last": 2})
    assert [(hit.document_id, hit.chunk_index) for hit in hits] == [("ann", 1)]
    grouped = client.search_response("chunk", group_by_document=True, hits_per_document=1, document_ids=["bob"])
    assert [(group.document_id, len(group.hits)) for group in grouped.groups or []] == [("bob", 1)]
    with pytest.raises(ValidationError):
        client.search("chunk", metadata={"$where": "1"})


def test_the_command_line_asks_for_all_that_the_service_knows(fanfold: CliRunner) -> None:
    """Mode, metadata, pages, documents and groups, as typed."""
    arguments = ["search", "chunk", "-m", "lexical", "--where", "author=ann", "--pages", "2-", "--json"]
    found = json.loads(fanfold.invoke(cli.app, arguments).stdout)
    assert {(hit["document_id"], hit["chunk_index"]) for hit in found} == {("ann", 1), ("ann", 2)}
    grouped = ["search", "chunk", "--by-document", "--document", "ann", "--document", "bob", "--json"]
    groups = json.loads(fanfold.invoke(cli.app, grouped).stdout)
    assert {group["document_id"]: len(group["hits"]) for group in groups} == {"ann": 3, "bob": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pages", "x"], "is not like"),
        (["--pages", "3-2"], "last is before first"),
        (["--where", "author"], "is not like"),
        (["--where", "$where=1"], "pattern"),
    ],
)
def test_the_command_line_says_what_is_wrong(fanfold: CliRunner, arguments: list[str], said: str) -> None:
    """Exit status 2 and one line, without a traceback."""
    done = fanfold.invoke(cli.app, ["search", "chunk", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
