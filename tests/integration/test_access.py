"""Who may do what: every route is walked with another tenant's key and with none; browsers are not tricked."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from ingest import ids
from ingest.model import Job, JobState
from ingest.settings import Settings
from ingest.stores import Stores
from tests.integration.web import API_KEYS, KEYS, Web
from tests.pdfs import pdf_of

SECRET = "the merger with initech"
FILES = {"/openapi.json", "/page"}  # the same for everybody
PUBLIC = {"/", "/docs", "/healthz", "/readyz"}
MANY = ("post", "/v1/jobs/cancel")
SUBMIT = ("post", "/v1/documents")
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    SUBMIT: {"files": {"file": (f"{SECRET}.pdf", pdf_of([SECRET]))}},
    ("post", "/v1/search"): {"json": {"query": SECRET}},
}
COLLECTIONS = {
    ("get", "/v1/documents"),
    ("get", "/v1/jobs"),
    ("get", "/v1/service"),
    ("post", "/v1/search"),
    SUBMIT,
}


@pytest.fixture
def web(stores: Stores, settings: Settings) -> Web:
    """A service with two tenants."""
    return Web(stores, settings.model_copy(update={"api_keys": API_KEYS}))


@pytest.fixture
def acme(web: Web) -> Job:
    """A published document of the tenant acme."""
    return web.ingest(SECRET, tenant="acme")


def routes(web: Web) -> list[tuple[str, str]]:
    """Every route of the application by method, documented or not, but for those that are open to everybody."""
    walked = [route for route in _leaves(web.app.routes) if route.path not in PUBLIC]
    return [(method.lower(), route.path) for route in walked for method in sorted(route.methods or ())]


def _leaves(found: Iterable[Any]) -> Iterator[APIRoute]:
    """The routes below; fails at one whose kind is not known here, which could hide others."""
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _leaves(included.routes)
        elif isinstance(route, APIRoute):
            yield route
        else:
            assert route.path in FILES, route


def call(client: TestClient, method: str, path: str, job: Job) -> Any:
    """Call the route about the job, its document, its first page and its first chunk."""
    filled = path.format(document_id=job.document_id, job_id=job.job_id, page_number=1)
    params = {"chunk_id": ids.chunk_id(job.document_id, 1, 0)} if path.endswith("/marks") else {}
    body = {"json": {"job_ids": [job.job_id]}} if (method, path) == MANY else BODIES.get((method, path), {})
    return client.request(method, filled, params=params, **body)


def status_of(answer: Any) -> int:
    """The status; of an answer about several jobs, of which there is one here, that job's."""
    status: int = answer.json()["jobs"][0]["status"] if answer.status_code == 207 else answer.status_code
    return status


def test_every_route_asks_for_a_key(web: Web, acme: Job) -> None:
    """Without a key, with a wrong one, or with one in another scheme: 401, and how to do it right, on every route."""
    walked = routes(web)
    assert {path.rpartition("/")[2] for _, path in walked} >= {"events", "image", "marks", "pages", "chunks", "cancel"}
    for wrong in (web.client(), web.client("fanfold_wrong"), web.client(Authorization=f"Basic {KEYS['acme']}")):
        for method, path in walked:
            answer = call(wrong, method, path, acme)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "urn:fanfold:unauthorized"


def test_no_route_shows_another_tenants_documents_or_touches_them(web: Web, acme: Job) -> None:
    """With globex's key everything of acme's is unknown: 404 by id, absent from every list, and left as it was."""
    before = (web.stores.catalog.known(acme.document_id), web.stores.jobs.job("acme", acme.job_id))
    globex = web.client(KEYS["globex"])
    for method, path in sorted(routes(web), key=lambda route: route == SUBMIT):  # what is submitted is globex's own
        answer = call(globex, method, path, acme)
        expected = {200, 202} if (method, path) in COLLECTIONS else {404}
        assert status_of(answer) in expected, (method, path, answer.text)
        if (method, path) in COLLECTIONS:
            assert SECRET not in answer.text, (method, path)
            assert acme.document_id not in answer.text
            assert acme.job_id not in answer.text
    assert before == (web.stores.catalog.known(acme.document_id), web.stores.jobs.job("acme", acme.job_id))


def test_the_walk_would_see_something(web: Web, acme: Job) -> None:
    """With acme's own key each of these routes finds what the other walk asks for, so that its 404 means something."""
    own = web.client(KEYS["acme"])
    walked = sorted(routes(web), key=lambda route: route[0] == "delete")  # at last
    answers = {route: call(own, *route, acme) for route in walked}
    assert {route: status_of(answer) for route, answer in answers.items() if status_of(answer) not in {200, 202}} == {
        MANY: 409,
        ("post", "/v1/jobs/{job_id}/cancel"): 409,
        ("post", "/v1/jobs/{job_id}/retry"): 409,
    }
    assert SECRET in answers["post", "/v1/search"].text
    assert SECRET in answers["get", "/v1/documents"].text
    assert acme.job_id in answers["get", "/v1/jobs"].text


def test_the_same_bytes_of_two_tenants_are_two_documents(web: Web, acme: Job) -> None:
    """Nobody learns by sending a file that somebody else has it: it is a new document, with its own objects."""
    answer = call(web.client(KEYS["globex"]), "post", "/v1/documents", acme)
    assert answer.status_code == 202
    assert answer.json()["document_id"] != acme.document_id
    key = ids.source_key(answer.json()["document_id"])
    assert web.stores.objects.exists(key)
    web.stores.objects.delete(key)
    assert web.stores.objects.exists(ids.source_key(acme.document_id))


def test_the_service_says_whose_documents_a_key_opens(web: Web) -> None:
    """`GET /v1/service` names the tenant; health needs no key."""
    assert web.client(KEYS["globex"]).get("/v1/service").json()["tenant"] == "globex"
    assert web.client().get("/healthz").status_code == 200
    assert web.client().get("/openapi.json").status_code == 200


def test_without_keys_everything_belongs_to_one_tenant(stores: Stores, settings: Settings) -> None:
    """A laptop needs none: no key is asked for, and one that is sent is not looked at."""
    web = Web(stores, settings)
    job = web.ingest("a letter")
    assert web.client().get(f"/v1/jobs/{job.job_id}").status_code == 200
    assert web.client("fanfold_any").get("/v1/service").json()["tenant"] == "default"
    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "fanfold.example"])
def test_the_service_is_called_by_its_own_names(stores: Stores, settings: Settings, host: str) -> None:
    """Loopback's names, and those that FANFOLD_ALLOWED_HOSTS adds."""
    web = Web(stores, settings.model_copy(update={"allowed_hosts": ("fanfold.example",)}))
    assert web.client(Host=host).get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "["])
def test_a_page_that_rebinds_its_name_to_this_machine_is_refused(stores: Stores, settings: Settings, host: str) -> None:
    """DNS rebinding: a foreign host name in a request that arrives on loopback gets nothing, not even a listing."""
    answer = Web(stores, settings).client(Host=host).get("/v1/documents")
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"


def test_with_keys_any_host_name_will_do(web: Web) -> None:
    """A key is proof enough, and no foreign page has one: a service behind a name need not be told it."""
    assert web.client(KEYS["acme"], Host="search.acme.example").get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8001"])
def test_a_foreign_page_cannot_send_or_delete(stores: Stores, settings: Settings, origin: str) -> None:
    """Cross-site request forgery: a form of another page is refused before anything is stored."""
    web = Web(stores, settings)
    job = web.ingest("a letter")
    foreign = web.client(Origin=origin)
    assert foreign.post("/v1/documents", files={"file": ("x.pdf", pdf_of(["x"]))}).status_code == 403
    assert foreign.delete(f"/v1/documents/{job.document_id}").status_code == 403
    assert [document.document_id for document in stores.catalog.find("default", limit=9)] == [job.document_id]


def test_the_services_own_page_may(stores: Stores, settings: Settings) -> None:
    """Its own origin, and a proxy's that FANFOLD_ALLOWED_HOSTS names."""
    web = Web(stores, settings.model_copy(update={"allowed_hosts": ("fanfold.example",)}))
    for number, origin in enumerate(("http://127.0.0.1:8000", "https://fanfold.example")):
        sent = web.client(Origin=origin).post("/v1/documents", files={"file": ("x.pdf", pdf_of([str(number)]))})
        assert sent.status_code == 202


def test_every_answer_tells_browsers_to_be_careful(web: Web) -> None:
    """Page, interface, problem, documentation: no sniffing, no framing, no foreign script, nothing cached."""
    for path in ("/v1/service", "/v1/nothing", "/docs", "/healthz", "/page/docs.js", "/page/nothing"):
        headers = web.client(KEYS["acme"]).get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        script = headers["content-security-policy"].partition("script-src")[2].partition(";")[0]
        assert "unsafe" not in script
        assert ("cdn" in script) == (path == "/docs")
    assert web.client(KEYS["acme"]).get("/v1/service").headers["cache-control"] == "no-store"


def test_an_error_of_ours_tells_browsers_to_be_careful(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has foreseen is a problem body with the headers of every other answer, and shows no detail."""

    def fails(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(web.stores.catalog, "find", fails)
    answer = web.client(KEYS["acme"]).get("/v1/documents")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:fanfold:internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert SECRET not in answer.text


def test_no_browser_keeps_a_pages_image(web: Web, acme: Job) -> None:
    """Once the document is deleted, or the key forgotten, it is on no disk."""
    answer = call(web.client(KEYS["acme"]), "get", "/v1/documents/{document_id}/pages/{page_number}/image", acme)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["cache-control"] == "no-store"


def test_a_job_says_whose_it_is(web: Web, acme: Job) -> None:
    """Its tenant reads its own name, alone and in the list."""
    own = web.client(KEYS["acme"])
    assert own.get(f"/v1/jobs/{acme.job_id}").json()["tenant"] == "acme"
    assert [job["tenant"] for job in own.get("/v1/jobs").json()["jobs"]] == ["acme"]


def test_assets_cannot_be_left_by_their_paths(web: Web) -> None:
    """`..` in an asset's path, encoded or not, is a 404."""
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2f..%2fpyproject.toml", "/page//etc/passwd"):
        assert web.client().get(path).status_code == 404


def test_a_hostile_key_is_only_wrong(web: Web) -> None:
    """Any bytes in the header: 401, never an error of ours."""
    for key in ("", " ", "\x7f", "é", "a" * 60_000, json.dumps({"$ne": None})):
        answer = web.client().get("/v1/jobs", headers={b"authorization": b"Bearer " + key.encode()})
        assert answer.status_code == 401


def test_no_key_is_answered(web: Web, acme: Job) -> None:
    """Known or wrong, refused or served, a key comes back in no answer."""
    for key in (KEYS["acme"], "fanfold_almost_right"):
        answers = [call(web.client(key), *route, acme) for route in routes(web)]
        assert [answer.url for answer in answers if key in answer.text + str(answer.headers)] == []


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null"])
def test_an_origin_that_is_none_is_foreign(stores: Stores, settings: Settings, origin: str) -> None:
    """Refused, and not an error of ours."""
    answer = Web(stores, settings).client(Origin=origin).post("/v1/search", json={"query": "a"})
    assert answer.status_code == 403


def test_browsers_ask_for_the_pages_files_again(web: Web) -> None:
    """After an upgrade no page is put together from files of two versions."""
    answer = web.client().get("/page/app.js")
    assert answer.headers["cache-control"] == "no-cache"
    assert web.client().get("/page/app.js", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
