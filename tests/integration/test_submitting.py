"""`POST /v1/documents` in all its forms: keys, metadata, several files, references, and what is refused at once."""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer

from cluster.ports import LOOPBACK, free_port
from ingest.model import JobState
from ingest.references import AT_ONCE, References
from ingest.settings import Settings
from ingest.stores import Stores
from serve import uploads
from tests.builders import KEEP_NOTHING
from tests.integration.queue import claim
from tests.integration.web import API_KEYS, KEYS, Web, serving
from tests.pdfs import pdf_of

PDF = {"Content-Type": "application/pdf"}
LETTER, OTHER = pdf_of(["a letter"]), pdf_of(["another letter"])


@pytest.fixture
def web(stores: Stores, settings: Settings) -> Web:
    """A service without keys."""
    return Web(stores, settings)


def settle(stores: Stores, state: JobState) -> None:
    """The waiting job ends so."""
    held = claim(stores.jobs, "supervisor")
    held.settle(state)
    held.close(keeping=KEEP_NOTHING, sweep_at=None)


def test_a_repeated_key_repeats_the_answer(web: Web, stores: Stores) -> None:
    """The same key and bytes: the same job and status, also after that job was cancelled; without it, a new job."""
    client = web.client()
    first = client.post("/v1/documents", content=LETTER, headers=PDF | {"Idempotency-Key": "k"})
    settle(stores, JobState.CANCELLED)
    again = client.post("/v1/documents", content=LETTER, headers=PDF | {"Idempotency-Key": "k"})
    without = client.post("/v1/documents", content=LETTER, headers=PDF)
    assert (first.status_code, again.status_code, without.status_code) == (202, 202, 202)
    assert again.json() == first.json() | {"state": "cancelled"}
    assert without.json()["job_id"] != first.json()["job_id"]


def test_a_key_is_for_one_file_and_one_tenant(stores: Stores, settings: Settings) -> None:
    """Other bytes under a used key are refused and nothing of them is stored; another tenant's key is another key."""
    web = Web(stores, settings.model_copy(update={"api_keys": API_KEYS}))
    keyed = PDF | {"Idempotency-Key": "k"}
    acme, globex = web.client(KEYS["acme"]), web.client(KEYS["globex"])
    assert acme.post("/v1/documents", content=LETTER, headers=keyed).status_code == 202
    reused = acme.post("/v1/documents", content=OTHER, headers=keyed)
    assert (reused.status_code, reused.json()["type"]) == (422, "urn:fanfold:idempotency-key-reused")
    assert len(acme.get("/v1/documents").json()["documents"]) == 1
    assert globex.post("/v1/documents", content=OTHER, headers=keyed).status_code == 202


def test_a_key_used_by_many_at_the_same_moment_gives_one_job(web: Web) -> None:
    """Eight senders with one key: one job, and all are told the same."""

    def send(_: int) -> tuple[int, str]:
        answer = web.client().post("/v1/documents", content=LETTER, headers=PDF | {"Idempotency-Key": "k"})
        return answer.status_code, answer.json()["job_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(8)))
    assert len({job_id for _, job_id in answers}) == 1
    assert len(web.client().get("/v1/jobs").json()["jobs"]) == 1


def test_a_refused_file_leaves_its_key_usable_for_the_same_bytes(web: Web) -> None:
    """Refused once, refused again with the same words: the key never turns a refusal into something else."""
    keyed = PDF | {"Idempotency-Key": "k"}
    answers = [web.client().post("/v1/documents", content=b"no PDF", headers=keyed) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()


def test_several_files_get_an_answer_each(web: Web) -> None:
    """207: a new one 202, its copy 200, a broken one its own problem; one bad file costs its neighbours nothing."""
    files = [("a.pdf", LETTER), ("copy of a.pdf", LETTER), ("b.txt", b"no PDF"), ("empty.pdf", b""), ("c.pdf", OTHER)]
    answer = web.client().post("/v1/documents", files=[("file", file) for file in files], data={"metadata": '{"n": 1}'})
    given = answer.json()["files"]
    assert answer.status_code == 207
    assert [(one["filename"], one["status"]) for one in given] == list(
        zip([name for name, _ in files], [202, 200, 400, 400, 202], strict=True)
    )
    assert given[2]["problem"]["type"] == "urn:fanfold:not-a-pdf"
    documents = web.client().get("/v1/documents").json()["documents"]
    assert [document["metadata"] for document in documents] == [{"n": 1}] * 2


def test_a_key_with_several_files_is_refused(web: Web) -> None:
    """One key cannot name several jobs."""
    files = [("file", ("a.pdf", LETTER)), ("file", ("b.pdf", OTHER))]
    answer = web.client().post("/v1/documents", files=files, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 400
    assert web.client().get("/v1/jobs").json()["jobs"] == []


def test_metadata_comes_with_a_form_or_a_header(web: Web) -> None:
    """A field of the form, or a header of a raw upload; shown with the document; bad JSON stores nothing."""
    said = {"author": {"name": "Zoë"}, "year": 2026}
    client = web.client()
    form = client.post("/v1/documents", files={"file": ("a.pdf", LETTER)}, data={"metadata": json.dumps(said)})
    raw = client.post("/v1/documents", content=OTHER, headers=PDF | {"Fanfold-Metadata": json.dumps(said)})
    for answer in (form, raw):
        assert client.get(f"/v1/documents/{answer.json()['document_id']}").json()["metadata"] == said
    bad = client.post("/v1/documents", content=pdf_of(["third"]), headers=PDF | {"Fanfold-Metadata": "[]"})
    assert (bad.status_code, bad.json()["type"]) == (400, "urn:fanfold:bad-metadata")
    assert len(client.get("/v1/documents").json()["documents"]) == 2


def test_what_announces_that_it_is_too_large_is_not_read(stores: Stores, settings: Settings) -> None:
    """413 from the `Content-Length` alone; and from the bytes, where the length lies or is missing."""
    web = Web(stores, settings.model_copy(update={"max_upload_bytes": 100_000}))

    def body() -> Iterator[bytes]:
        raise AssertionError("read")
        yield b""

    huge = {"Content-Length": str(10**12)}
    assert web.client().post("/v1/documents", content=body(), headers=PDF | huge).status_code == 413
    chunked = (b"%PDF-" + b"x" * 50_000 for _ in range(3))
    assert web.client().post("/v1/documents", content=chunked, headers=PDF).status_code == 413
    files = [("file", (f"{number}.pdf", b"%PDF-" + b"x" * 60_000)) for number in range(2)]
    assert web.client().post("/v1/documents", files=files).status_code == 413
    assert web.client().get("/v1/documents").json()["documents"] == []


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """An S3 server's address, and its buckets `inbox` and `private`."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setitem(os.environ, name, value)
    server = ThreadedMotoServer(LOOPBACK, free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    files = fsspec.filesystem("s3", endpoint_url=url, skip_instance_cache=True)
    for key in ("inbox/acme/a letter.pdf", "inbox/globex/a.pdf", "inbox-2/acme/a.pdf", "private/acme/a.pdf"):
        if not files.exists(key.partition("/")[0]):
            files.mkdir(key.partition("/")[0])
        files.pipe_file(key, pdf_of([key]))
    yield url, files
    server.stop()


@pytest.fixture
def by_reference(stores: Stores, settings: Settings, bucket: tuple[str, Any]) -> Web:
    """A service that fetches what lies below the tenant's name in the bucket `inbox`."""
    allowed = {"source_urls": ("s3://inbox/{tenant}",), "s3_endpoint_url": bucket[0], "api_keys": API_KEYS}
    return Web(stores, settings.model_copy(update=allowed | {"max_upload_bytes": 100_000}))


def test_a_document_is_fetched_by_reference(by_reference: Web) -> None:
    """202 with the object's own name and the metadata given; the source is durable, and is the object."""
    client = by_reference.client(KEYS["acme"])
    reference = {"url": "s3://inbox/acme/a letter.pdf", "metadata": {"from": "s3"}}
    answer = client.post("/v1/documents", json=reference)
    assert answer.status_code == 202, answer.text
    document = client.get(f"/v1/documents/{answer.json()['document_id']}").json()
    assert (document["filename"], document["metadata"]) == ("a letter.pdf", {"from": "s3"})
    assert client.post("/v1/documents", json=reference).status_code == 200


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("s3://inbox/globex/a.pdf", 403),
        ("s3://inbox-2/acme/a.pdf", 403),
        ("s3://private/acme/a.pdf", 403),
        ("s3://inbox/acme", 403),
        ("s3://inbox/acmeother/a.pdf", 403),
        ("s3://INBOX/acme/a.pdf", 403),
        ("s3://inbox/acme/../globex/a.pdf", 404),  # a key has no parent: this is another name
        ("s3://inbox/acme/nothing.pdf", 404),
        ("s3://inbox/acme/", 404),
        ("file:///etc/passwd", 400),
        ("http://169.254.169.254/latest/meta-data", 400),
        ("", 400),
    ],
)
def test_a_reference_leads_nowhere_else(by_reference: Web, url: str, status: int) -> None:
    """Other buckets, other tenants' prefixes, other schemes and missing objects are refused; nothing is stored."""
    answer = by_reference.client(KEYS["acme"]).post("/v1/documents", json={"url": url})
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert by_reference.stores.jobs.count_waiting(9) == 0


@pytest.mark.parametrize("url", ["s3://inbox/", "s3://inbox//", "s3://inbox/?versionId=1"])
def test_a_bucket_alone_is_no_document(stores: Stores, settings: Settings, bucket: tuple[str, Any], url: str) -> None:
    """404, also where the whole bucket is allowed."""
    allowed = {"source_urls": ("s3://inbox",), "s3_endpoint_url": bucket[0]}
    answer = Web(stores, settings.model_copy(update=allowed)).client().post("/v1/documents", json={"url": url})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:fanfold:not-found")
    assert stores.jobs.count_waiting(9) == 0


def test_a_referred_object_is_held_to_the_same_limits(by_reference: Web, bucket: tuple[str, Any]) -> None:
    """Too large: 413; no PDF: 400."""
    _, files = bucket
    client = by_reference.client(KEYS["acme"])
    files.pipe_file("inbox/acme/huge.pdf", b"%PDF-" + bytes(200_000))
    files.pipe_file("inbox/acme/text.pdf", b"text")
    assert client.post("/v1/documents", json={"url": "s3://inbox/acme/huge.pdf"}).status_code == 413
    assert client.post("/v1/documents", json={"url": "s3://inbox/acme/text.pdf"}).status_code == 400
    assert by_reference.stores.jobs.count_waiting(9) == 0


def test_an_object_store_that_does_not_answer_is_no_fault_of_the_caller(stores: Stores, settings: Settings) -> None:
    """503: the same request may succeed later."""
    gone = {"source_urls": ("s3://inbox",), "s3_endpoint_url": f"http://{LOOPBACK}:{free_port()}"}
    web = Web(stores, settings.model_copy(update=gone))
    answer = web.client().post("/v1/documents", json={"url": "s3://inbox/a.pdf"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:fanfold:store-unavailable")


def test_without_a_setting_nothing_is_fetched(web: Web) -> None:
    """References are off until FANFOLD_SOURCE_URLS says from where."""
    answer = web.client().post("/v1/documents", json={"url": "s3://inbox/acme/a letter.pdf"})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:fanfold:reference-not-allowed")


def test_a_full_queue_refuses_before_reading(stores: Stores, settings: Settings) -> None:
    """503 with `Retry-After` while as many jobs wait as may; accepted again once one is claimed."""
    web = Web(stores, settings.model_copy(update={"max_queued_jobs": 2}))
    for text in ("a", "b"):
        web.service.admission._look_after = 0
        assert web.client().post("/v1/documents", content=pdf_of([text]), headers=PDF).status_code == 202
    web.service.admission._look_after = 0
    full = web.client().post("/v1/documents", content=b"never read", headers=PDF)
    assert (full.status_code, full.json()["type"]) == (503, "urn:fanfold:service-full")
    assert int(full.headers["retry-after"]) > 0
    assert full.json()["retryable"] is True
    settle(stores, JobState.FAILED)
    web.service.admission._look_after = 0
    assert web.client().post("/v1/documents", content=pdf_of(["c"]), headers=PDF).status_code == 202


def test_an_upload_leaves_no_file_behind(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted or refused, the replica's temporary directory is empty afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for body in (LETTER, b"no PDF"):
        web.client().post("/v1/documents", content=body, headers=PDF)
        web.client().post("/v1/documents", files={"file": ("a.pdf", body)})
    assert list(tmp_path.glob("fanfold-*")) == []


@pytest.mark.parametrize("way", ["raw", "form", "nothing said"])
def test_a_priority_is_said_at_submit_and_kept_by_a_retry(web: Web, stores: Stores, way: str) -> None:
    """In a header or a form's field; the job shows it, and so does the new job that a retry makes."""
    client = web.client()
    match way:
        case "raw":
            answer = client.post("/v1/documents", content=LETTER, headers=PDF | {"Fanfold-Priority": "high"})
        case "form":
            answer = client.post("/v1/documents", files={"file": ("a.pdf", LETTER)}, data={"priority": "high"})
        case _:
            answer = client.post("/v1/documents", content=LETTER, headers=PDF)
    expected = "normal" if way == "nothing said" else "high"
    job_id = answer.json()["job_id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["priority"] == expected
    settle(stores, JobState.CANCELLED)
    retried = client.post(f"/v1/jobs/{job_id}/retry").json()["job_id"]
    assert retried != job_id
    assert client.get(f"/v1/jobs/{retried}").json()["priority"] == expected


def test_a_priority_that_there_is_not_is_refused(web: Web) -> None:
    """With the words that there are; nothing is stored."""
    client = web.client()
    raw = client.post("/v1/documents", content=LETTER, headers=PDF | {"Fanfold-Priority": "urgent"})
    form = client.post("/v1/documents", files={"file": ("a.pdf", LETTER)}, data={"priority": "urgent"})
    reference = client.post("/v1/documents", json={"url": "s3://inbox/a.pdf", "priority": "urgent"})
    for answer in (raw, form, reference):
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:fanfold:bad-priority")
        assert "high, normal, low" in answer.json()["detail"]
    assert client.get("/v1/documents").json()["documents"] == []


@pytest.mark.parametrize(
    "said",
    ["filename*=idna''x", "filename*=undefined''x", "filename*=punycode''x\u00e9", "filename*1*=x; filename*=y"],
)
def test_a_file_name_that_cannot_be_read_is_none(web: Web, said: str) -> None:
    """Character sets that decode nothing, and parts without an order: the file is accepted without its name."""
    headers: dict[str, Any] = PDF | {"Content-Disposition": f"attachment; {said}".encode("latin-1")}
    answer = web.client().post("/v1/documents", content=LETTER, headers=headers)
    assert answer.status_code == 202, answer.text
    assert web.client().get("/v1/documents").json()["documents"][0]["filename"] == "document.pdf"


def test_metadata_may_come_as_a_file_of_the_form(web: Web) -> None:
    """As `curl -F metadata=@about.json` sends it: it is read, not passed over; what is no text is refused."""
    client = web.client()
    about = ("about.json", '{"author": "M\u00fcller"}'.encode(), "application/json")
    answer = client.post("/v1/documents", files={"file": ("a.pdf", LETTER), "metadata": about})
    assert answer.status_code == 202
    path = f"/v1/documents/{answer.json()['document_id']}"
    assert client.get(path).json()["metadata"] == {"author": "M\u00fcller"}
    broken = client.post("/v1/documents", files={"file": ("b.pdf", OTHER), "metadata": ("about.json", b"\xff\xfe")})
    assert (broken.status_code, broken.json()["type"]) == (400, "urn:fanfold:bad-metadata")
    large = client.post(
        "/v1/documents", files={"file": ("b.pdf", OTHER), "metadata": ("m", b'{"a": "' + b"x" * 20_000)}
    )
    assert (large.status_code, large.json()["type"]) == (400, "urn:fanfold:bad-metadata")


def test_metadata_in_a_header_may_be_typed_as_it_is(web: Web) -> None:
    """UTF-8, as a terminal sends it, is read as UTF-8; what is Latin-1 stays Latin-1."""
    client = web.client()
    for body, header in (
        (LETTER, '{"author": "M\u00fcller"}'.encode()),
        (OTHER, '{"author": "M\u00fcller"}'.encode("latin-1")),
    ):
        headers: dict[str, Any] = PDF | {"Fanfold-Metadata": header}
        answer = client.post("/v1/documents", content=body, headers=headers)
        path = f"/v1/documents/{answer.json()['document_id']}"
        assert client.get(path).json()["metadata"] == {"author": "M\u00fcller"}


@pytest.mark.parametrize(
    "request_of",
    [
        {"files": {"file": ("a.pdf", LETTER)}, "data": {"metdata": "{}"}},
        {"json": {"url": "s3://inbox/a.pdf", "meta": {}}},
    ],
    ids=["form", "reference"],
)
def test_a_misspelt_field_is_refused_by_its_name(web: Web, request_of: dict[str, Any]) -> None:
    """What it says would be lost, and nobody would hear of it."""
    answer = web.client().post("/v1/documents", **request_of)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:fanfold:unknown-field")
    assert "met" in answer.json()["detail"]
    assert web.stores.jobs.count_waiting(1) == 0


def test_a_full_disk_is_said_to_be_full(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, to be tried again: neither the caller's fault nor a riddle."""

    async def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads, "_keep", full)
    answer = web.client().post("/v1/documents", content=LETTER, headers=PDF)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:fanfold:service-full")
    assert "no room" in answer.json()["detail"]


def test_references_are_read_a_few_at_a_time(by_reference: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small requests for large files do not fill the replica's disk at once: the others wait their turn."""
    under_way, most = [0], [0]
    lock = threading.Lock()

    def copy(*_arguments: Any) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        raise FileNotFoundError

    monkeypatch.setattr(References, "_copy", copy)
    body, headers = {"url": "s3://inbox/acme/a.pdf"}, {"Authorization": f"Bearer {KEYS['acme']}"}

    def refer(_: int) -> int:
        return httpx.post(f"{url}/v1/documents", json=body, headers=headers, timeout=60).status_code

    with serving(by_reference) as url, ThreadPoolExecutor(3 * AT_ONCE) as pool:
        answers = set(pool.map(refer, range(3 * AT_ONCE)))
    assert answers == {404}
    assert 1 < most[0] <= AT_ONCE


def test_a_full_queue_locks_no_other_tenant_out(stores: Stores, settings: Settings) -> None:
    """Who fills it is refused; who has next to nothing waiting is let in."""
    web = Web(stores, settings.model_copy(update={"max_queued_jobs": 2, "api_keys": API_KEYS}))
    acme, globex = web.client(KEYS["acme"]), web.client(KEYS["globex"])
    statuses = []
    for client, text in ((acme, "a"), (acme, "b"), (acme, "c"), (globex, "d"), (globex, "e")):
        web.service.admission._look_after = 0
        statuses.append(client.post("/v1/documents", content=pdf_of([text]), headers=PDF).status_code)
    assert statuses == [202, 202, 503, 202, 503]
