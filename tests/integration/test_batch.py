"""A run against the real service and a real S3 protocol: references, running again, what failed for good, reports."""

import io
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx
import pyarrow.parquet as pq
import pytest

from cluster import sources
from cluster.ingestion import Ingestion, Options
from cluster.outcome import Outcome
from cluster.report import reporting
from cluster.sources import Buckets, Missing, Source, find
from ingest.errors import Category, ConfigurationError, NotFound
from ingest.model import Failure, JobState, Revision
from ingest.references import AT_ONCE
from ingest.settings import Settings
from ingest.stores import Stores, objects
from serve.client import Client
from serve.schemas import SubmitView
from tests.background import again_and_again
from tests.builders import KEEP_NOTHING, axis_vectors, make_visible, pipeline_named, some_chunks
from tests.integration.queue import claim_next
from tests.integration.web import PIPELINE, Web, serving
from tests.pdfs import pdf_of
from tests.s3_server import S3Server

MANY = 50  # more than the threads that serve requests
LOCKED = Failure(category=Category.INPUT, message="The PDF is protected by a password.", retryable=False)


class WebClient(Client):
    """A client that calls the application itself, and counts the documents that it sends."""

    def __init__(self, web: Web) -> None:
        super().__init__("http://127.0.0.1:8000", retry_for_s=0)
        self._http = cast(httpx.Client, web.client())
        self.sent = 0

    def submit(self, path: Path, **said: Any) -> SubmitView:
        """Count it."""
        self.sent += 1
        return super().submit(path, **said)


@pytest.fixture
def inbox(s3: S3Server) -> str:
    """A bucket from which the service fetches what lies below `in`."""
    return s3.bucket()


@pytest.fixture
def web(stores: Stores, settings: Settings, s3: S3Server, inbox: str) -> Web:
    """The service."""
    allowed = {"source_urls": (f"s3://{inbox}/in",), "s3_endpoint_url": s3.url}
    return Web(stores, settings.model_copy(update=allowed))


@contextmanager
def supervised(web: Web) -> Iterator[None]:
    """Jobs end by themselves: those of files called `locked` fail for good, `shaky` for now, others succeed."""

    def supervise() -> None:
        held = claim_next(web.stores.jobs, "supervisor")
        if held is None:
            return
        job = held.job
        if "locked" in job.filename:
            held.settle(JobState.FAILED, error=LOCKED)
        elif "shaky" in job.filename:
            held.settle(JobState.FAILED, error=LOCKED.model_copy(update={"retryable": True}))
        else:
            revision = Revision(job.tenant, job.document_id, job.revision, job.pipeline)
            web.stores.catalog.upsert_chunks(revision, some_chunks(2))
            web.stores.vectors.upsert(revision, some_chunks(2), axis_vectors(2))
            held.decide_publish()
            make_visible(web.stores, job.document_id, job.revision, page_count=2, chunk_count=2)
            held.settle(JobState.SUCCEEDED)
        held.close(keeping=KEEP_NOTHING, sweep_at=None)

    with again_and_again(supervise, pause_s=0.02):
        yield


def run(web: Web, *names: str, **options: object) -> tuple[dict[str, Outcome], int]:
    """Ingest what the names stand for: the outcomes by the last part of each name, and how many files were sent."""
    client = WebClient(web)
    found = find(names, Buckets(web.settings.s3_endpoint_url))
    with supervised(web):
        outcomes = {
            outcome.source.label: outcome
            for outcome in Ingestion(client, replace(Options(), **options)).run(found)  # type: ignore[arg-type]  # by name
        }
    return outcomes, client.sent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files here."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("letter", "locked", "shaky"):
        (folder / f"{name}.pdf").write_bytes(pdf_of([name]))
    return folder


def test_a_bucket_is_listed_page_by_page(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `*.pdf` below the prefix over several pages, whatever its key looks like; not what only begins like it."""
    monkeypatch.setattr(sources, "PAGE_KEYS", 10)
    bucket = s3.bucket()
    keys = {f"2026/{number:04d}.pdf" for number in range(35)}
    keys |= {"2026/a letter+1%20é.PDF", "2026/a/b/c.pdf"}
    for key in (*keys, "2026-late/x.pdf", "2026/notes.txt", "2026.pdf"):
        s3.put(f"{bucket}/{key}", b"x")
    found = list(find([f"s3://{bucket}/2026"], Buckets(s3.url)))
    assert len(found) == len(keys)
    assert {one.name for one in found if isinstance(one, Source)} == {f"s3://{bucket}/{key}" for key in keys}
    assert len(list(find([f"s3://{bucket}"], Buckets(s3.url)))) == len(keys) + 2


def test_a_bucket_that_is_not_there_is_said(s3: S3Server) -> None:
    """By its name, as the outcome of what was asked for."""
    [missing] = find(["s3://no-such-bucket-1/2026"], Buckets(s3.url))
    assert isinstance(missing, Missing)
    assert "cannot be listed" in missing.reason


def test_objects_are_submitted_by_reference(web: Web, s3: S3Server, inbox: str) -> None:
    """The service fetches them; a second run finds each, and makes no job."""
    for name in ("a", "b", "locked"):
        s3.put(f"{inbox}/in/{name}.pdf", pdf_of([f"{name} of {inbox}"]))
    first, sent = run(web, f"s3://{inbox}/in")
    assert {name: outcome.state for name, outcome in first.items()} == {
        "a.pdf": "succeeded",
        "b.pdf": "succeeded",
        "locked.pdf": "failed",
    }
    assert sent == 0
    assert not any(outcome.already_there for outcome in first.values())
    again, _ = run(web, f"s3://{inbox}/in/a.pdf", f"s3://{inbox}/in/b.pdf")
    assert {outcome.already_there for outcome in again.values()} == {True}
    assert {outcome.job and outcome.job.job_id for outcome in again.values()} == {
        outcome.job and outcome.job.job_id for name, outcome in first.items() if name != "locked.pdf"
    }


def test_what_may_not_be_fetched_names_the_setting(web: Web, s3: S3Server, inbox: str) -> None:
    """The message says what to set, and for which bucket; the documents that may be fetched are."""
    s3.put(f"{inbox}/out/a.pdf", pdf_of([f"a of {inbox}"]))
    s3.put(f"{inbox}/in/b.pdf", pdf_of([f"b of {inbox}"]))
    outcomes, _ = run(web, f"s3://{inbox}")
    refused = outcomes["a.pdf"].failure
    assert refused is not None
    assert refused.category is Category.CONFIGURATION
    assert f"FANFOLD_SOURCE_URLS=s3://{inbox}/" in refused.message
    assert outcomes["b.pdf"].state == "succeeded"


def test_running_again_sends_nothing_that_is_known(web: Web, folder: Path) -> None:
    """Published: its job, and no byte. Failed for good: its failure, and no new job. Failed for now: another job."""
    first, sent = run(web, str(folder))
    states = {name: outcome.state for name, outcome in first.items()}
    assert states == {"letter.pdf": "succeeded", "locked.pdf": "failed", "shaky.pdf": "failed"}
    assert sent == 3
    again, sent = run(web, str(folder))
    assert {name: outcome.state for name, outcome in again.items()} == states
    assert sent == 1
    assert {name for name, outcome in again.items() if outcome.already_there} == {"letter.pdf", "locked.pdf"}
    assert again["locked.pdf"].failure == LOCKED
    for name in ("letter.pdf", "locked.pdf"):
        assert (before := first[name].job) is not None
        assert (after := again[name].job) is not None
        assert after.job_id == before.job_id


def test_what_failed_for_good_is_tried_again_on_request(web: Web, folder: Path) -> None:
    """`--retry-failed`: the user knows better, for example after FANFOLD_MAX_PAGES was raised."""
    run(web, str(folder / "locked.pdf"))
    again, sent = run(web, str(folder / "locked.pdf"), retry_failed=True)
    assert sent == 1
    assert not again["locked.pdf"].already_there


def test_another_pipeline_makes_documents_again(web: Web, folder: Path) -> None:
    """What was made, or found at fault, by other models or settings is neither done nor failed."""
    run(web, str(folder))
    newer = Web(web.stores, web.settings)
    newer.service = replace(web.service, pipeline=pipeline_named("newer"))
    outcomes, sent = run(newer, str(folder))
    assert sent == 3
    assert not any(outcome.already_there for outcome in outcomes.values())
    assert newer.service.pipeline != PIPELINE


def test_a_deleted_or_cancelled_document_is_ingested_again(web: Web, folder: Path) -> None:
    """Running again is a request to have it."""
    path = str(folder / "letter.pdf")
    first, _ = run(web, path)
    assert (job := first["letter.pdf"].job) is not None
    assert web.client().delete(f"/v1/documents/{job.document_id}").status_code == 202
    with supervised(web):
        pass
    again, sent = run(web, path)
    assert (sent, again["letter.pdf"].state, again["letter.pdf"].already_there) == (1, "succeeded", False)


def test_metadata_are_always_sent(web: Web, folder: Path) -> None:
    """They replace what was said before, also of a document that is published."""
    path = str(folder / "letter.pdf")
    run(web, path)
    outcomes, sent = run(web, path, metadata={"box": 7})
    assert (sent, outcomes["letter.pdf"].already_there) == (1, True)
    assert (job := outcomes["letter.pdf"].job) is not None
    assert web.client().get(f"/v1/documents/{job.document_id}").json()["metadata"] == {"box": 7}


def test_a_document_under_way_is_followed_not_sent(web: Web, folder: Path) -> None:
    """A run that was killed left it behind: the next one waits for its end."""
    path = folder / "letter.pdf"
    client = WebClient(web)
    submitted = Client.submit(client, path)
    [outcome] = Ingestion(client, Options(follow=False)).run([Source(str(path))])
    assert (client.sent, outcome.state, outcome.already_there) == (0, "queued", True)
    followed, _ = run(web, str(path))
    assert followed["letter.pdf"].state == "succeeded"
    assert followed["letter.pdf"].job is not None
    assert followed["letter.pdf"].job.job_id == submitted.job_id


def test_a_name_that_is_not_text_is_sent(web: Web, tmp_path: Path) -> None:
    """A file system's bytes need not be UTF-8."""
    name = "letter-\udcff.pdf"
    (tmp_path / name).write_bytes(pdf_of(["bytes"]))
    outcomes, _ = run(web, str(tmp_path))
    assert outcomes["letter-\ufffd.pdf"].state == "succeeded"


def test_a_report_is_put_to_a_bucket(web: Web, s3: S3Server, folder: Path, tmp_path: Path) -> None:
    """Whole, when the run ends."""
    bucket = s3.bucket()
    outcomes, _ = run(web, str(folder))
    with reporting(f"s3://{bucket}/reports/one.parquet", s3_endpoint_url=s3.url) as report:
        for outcome in outcomes.values():
            report.write(outcome)
    rows = pq.read_table(io.BytesIO(s3.get(f"{bucket}/reports/one.parquet"))).to_pylist()
    assert {row["source"]: row["state"] for row in rows} == {
        str(folder / name): outcome.state for name, outcome in outcomes.items()
    }
    assert {row["error_category"] for row in rows} == {None, "input"}


def test_a_report_that_nobody_takes_is_given_up_and_kept(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, folder: Path, web: Web
) -> None:
    """A server that falls silent at the end of the run does not keep the run for ever; the rows are in the file."""
    target = f"s3://{s3.bucket()}/report.jsonl"
    outcomes, _ = run(web, str(folder))
    monkeypatch.setattr(objects, "S3_READ_S", 0.5)
    done = pytest.raises(ConfigurationError, match="Its rows are in")
    with done as said, reporting(target, s3_endpoint_url=s3.url) as report:
        for outcome in outcomes.values():
            report.write(outcome)
        s3.freeze()
    s3.thaw()
    kept = Path(said.value.message.rpartition(" ")[2])
    assert len(kept.read_text(encoding="utf-8").splitlines()) == len(outcomes)
    kept.unlink()


def test_references_that_wait_for_a_bucket_keep_nobody_else_waiting(web: Web, inbox: str) -> None:
    """More of them than there are threads, and a bucket that says nothing: everything else is answered."""
    let_go, begun = threading.Event(), threading.Semaphore(0)

    def silent(*_arguments: object, **_options: object) -> NoReturn:
        begun.release()
        let_go.wait(60)
        raise NotFound("There is no object at that address.")

    web.service.references.fetch = silent  # type: ignore[method-assign]  # a bucket that answers when it is told to
    with serving(web) as url, ThreadPoolExecutor(MANY) as callers:

        def refer(number: int) -> int:
            body = {"url": f"s3://{inbox}/in/{number}.pdf"}
            return httpx.post(f"{url}/v1/documents", json=body, timeout=90).status_code

        answers = [callers.submit(refer, number) for number in range(MANY)]
        try:
            assert all(begun.acquire(timeout=30) for _ in range(AT_ONCE))
            time.sleep(1)  # for the others to arrive
            assert httpx.get(f"{url}/v1/jobs", timeout=30).status_code == 200
        finally:
            let_go.set()
        assert {answer.result() for answer in answers} == {404}


def test_a_report_on_a_bucket_that_is_not_there_is_refused_at_once(s3: S3Server) -> None:
    """Not after a million documents."""
    target = "s3://no-such-bucket-1/report.jsonl"
    with pytest.raises(ConfigurationError, match="no-such-bucket-1"), reporting(target, s3_endpoint_url=s3.url):
        raise AssertionError("it has begun")


def test_come_back_later_is_obeyed_to_the_second() -> None:
    """The client waits as long as `Retry-After` says, and no more than its patience."""
    calls = itertools.count()

    def answer(_request: httpx.Request) -> httpx.Response:
        if next(calls) == 0:
            body = {"type": "urn:fanfold:service-full", "title": "", "status": 503, "detail": "", "retryable": True}
            return httpx.Response(503, json=body, headers={"Retry-After": "1"})
        return httpx.Response(202, json={"job_id": "j", "document_id": "d", "state": "queued", "created": True})

    client = Client("http://fanfold")
    client._http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://fanfold")
    assert client.retry("j").created
    assert next(calls) == 2
