"""The HTTP interface from outside: statuses, bodies, paging, concurrency."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ingest.model import JobState
from tests.checks import assert_published_exactly
from tests.clusters import Cluster
from tests.pdfs import pdf_of

TEXT = {"Content-Type": "text/plain"}
SENDERS = 12


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    """A small PDF that nobody has sent before."""
    path = tmp_path / "a letter, möglich.pdf"
    path.write_bytes(pdf_of([f"A letter that only {tmp_path.name} knows about the harbour."]))
    return path


@pytest.fixture
def http(cluster: Cluster) -> httpx.Client:
    """A plain HTTP client of the service."""
    return httpx.Client(base_url=cluster.settings.http_url, timeout=90)


def test_submit_answers_202_with_the_jobs_location(cluster: Cluster, http: httpx.Client, letter: Path) -> None:
    """`POST /v1/documents` as a form: ids, state, created and `Location`; the job there ends with `?wait=`."""
    with letter.open("rb") as file:
        answer = http.post("/v1/documents", files={"file": (letter.name, file, "application/pdf")})
    body = answer.json()
    assert answer.status_code == 202
    assert body["created"] is True
    assert answer.headers["location"] == f"/v1/jobs/{body['job_id']}"
    job = http.get(answer.headers["location"], params={"wait": 60}).json()
    assert (job["state"], job["progress"]["percent"]) == ("succeeded", 100)
    document = http.get(f"/v1/documents/{body['document_id']}").json()
    assert (document["filename"], document["page_count"], document["published_revision"]) == (letter.name, 1, 1)
    chunks = http.get(f"/v1/documents/{body['document_id']}/chunks").json()["chunks"]
    assert [chunk["first_page"] for chunk in chunks] == [1]
    assert "only" in chunks[0]["text"]


def test_the_same_bytes_at_the_same_moment_give_one_document_and_one_job(
    cluster: Cluster, http: httpx.Client, letter: Path
) -> None:
    """Twelve senders at once: one 202, eleven 200, one job id; the document is stored once."""
    data = letter.read_bytes()

    def send(_: int) -> tuple[int, str]:
        answer = http.post("/v1/documents", content=data, headers={"Content-Type": "application/pdf"})
        return answer.status_code, answer.json()["job_id"]

    with ThreadPoolExecutor(SENDERS) as pool:
        answers = list(pool.map(send, range(SENDERS)))
    assert sorted(status for status, _ in answers) == [200] * (SENDERS - 1) + [202]
    assert len({job_id for _, job_id in answers}) == 1
    job = cluster.finish(answers[0][1])
    assert job.state is JobState.SUCCEEDED
    assert_published_exactly(cluster.stores, job, keep_source=True)


@pytest.mark.parametrize(
    ("method", "path", "request_", "status"),
    [
        pytest.param("GET", "/v1/jobs/nothing", {}, 404, id="unknown job"),
        pytest.param("GET", "/v1/documents/nothing", {}, 404, id="unknown document"),
        pytest.param("GET", "/v1/documents/nothing/chunks", {}, 404, id="chunks of an unknown document"),
        pytest.param("GET", "/v1/nothing", {}, 404, id="unknown route"),
        pytest.param("PUT", "/v1/search", {}, 405, id="wrong method"),
        pytest.param("GET", "/v1/jobs?cursor=nonsense", {}, 400, id="foreign cursor"),
        pytest.param("GET", "/v1/jobs?limit=0", {}, 422, id="limit out of range"),
        pytest.param("POST", "/v1/search", {"json": {"query": ""}}, 422, id="empty query"),
        pytest.param("POST", "/v1/documents", {"content": b"{}", "headers": TEXT}, 415, id="no type that is taken"),
        pytest.param("POST", "/v1/documents", {"files": {"other": ("a.pdf", b"%PDF-")}}, 400, id="wrong field"),
    ],
)
def test_every_error_is_a_problem_body(
    http: httpx.Client, method: str, path: str, request_: dict[str, object], status: int
) -> None:
    """RFC 9457: the status, `application/problem+json`, and a detail in words."""
    answer = http.request(method, path, **request_)  # type: ignore[arg-type]  # httpx's keywords, by the case
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"]


def test_jobs_are_listed_newest_first_by_pages(http: httpx.Client, cluster: Cluster, tmp_path: Path) -> None:
    """Following `next_cursor` visits every job once, newest first; `state` and `document_id` narrow the list."""
    sent = []
    for number in range(3):
        path = tmp_path / f"{number}.pdf"
        path.write_bytes(pdf_of([f"{tmp_path.name} number {number}"]))
        sent.append(cluster.client.submit(path))
    listed: list[str] = []
    cursor: str | None = None
    while True:
        page = http.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        listed += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(listed) == len(set(listed))
    assert listed[:3] == [answer.job_id for answer in reversed(sent)]
    only = http.get("/v1/jobs", params={"document_id": sent[1].document_id}).json()["jobs"]
    assert [job["job_id"] for job in only] == [sent[1].job_id]
    assert all(cluster.finish(answer.job_id).state is JobState.SUCCEEDED for answer in sent)
    done = http.get("/v1/jobs", params={"state": "succeeded", "limit": 500}).json()["jobs"]
    assert {answer.job_id for answer in sent} <= {job["job_id"] for job in done}


def test_health_and_readiness_answer(http: httpx.Client) -> None:
    """`/healthz` says alive; `/readyz` has asked every store and the supervisor."""
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "down": {}})


def test_openapi_names_every_route_and_its_problems(http: httpx.Client) -> None:
    """The interface documents itself, upload body included."""
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/documents", "/v1/jobs/{job_id}", "/v1/search", "/readyz"} <= set(paths)
    submit = paths["/v1/documents"]["post"]
    assert {"multipart/form-data", "application/pdf", "application/json"} == set(submit["requestBody"]["content"])
    assert {"200", "202", "400", "413", "415", "503"} <= set(submit["responses"])


def test_a_hostile_file_name_is_harmless(cluster: Cluster, http: httpx.Client, letter: Path) -> None:
    """The name is kept for showing only, without path or control characters."""
    files = {"file": ("../../etc/\x07passwd.pdf", letter.read_bytes())}
    document_id = http.post("/v1/documents", files=files).json()["document_id"]
    assert "/" not in cluster.client.document(document_id).filename
    assert cluster.client.document(document_id).filename.endswith("passwd.pdf")
