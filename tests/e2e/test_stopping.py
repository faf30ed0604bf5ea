"""Cancel, retry and delete from outside: what each answers, and that it is true."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ingest import ids
from ingest.model import JobState
from serve.client import ServiceError
from tests.checks import assert_nothing_left, assert_published_exactly
from tests.clusters import Cluster, tasks_called
from tests.pdfs import encrypted_pdf, pdf_of

KINDS = ("inspect", "ocr", "cut", "store", "embed")
OVER = {"FINISHED", "FAILED"}
PATIENCE_S = 60
QUEUED = 40


@pytest.fixture
def scan(sample_pdfs: Path, tmp_path: Path) -> Path:
    """The scanned sample, with bytes that no other test sends."""
    path = tmp_path / "letters.pdf"
    path.write_bytes((sample_pdfs / "letters.pdf").read_bytes() + f"\n% {tmp_path}\n".encode())
    return path


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    """A small PDF that nobody has sent before."""
    path = tmp_path / "letter.pdf"
    path.write_bytes(pdf_of([f"Only {tmp_path.name} knows where the buoy has drifted."]))
    return path


@pytest.fixture
def http(cluster: Cluster) -> httpx.Client:
    """A plain HTTP client of the service."""
    return httpx.Client(base_url=cluster.settings.http_url, timeout=90)


def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.05)


def test_a_running_job_is_cancelled_and_nothing_is_left(cluster: Cluster, http: httpx.Client, scan: Path) -> None:
    """202 `cancelling`, then `cancelled` within seconds: no task at work, no row, no checkpoint; again is 200."""
    others = {task.task_id for task in tasks_called(*KINDS)}  # the last ones of a killed owner never end to Ray
    job = cluster.submit(scan)
    until(lambda: cluster.client.job(job.job_id).progress.pages_done >= 2)
    asked_at = time.monotonic()
    answer = http.post(f"/v1/jobs/{job.job_id}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.CANCELLED
    assert time.monotonic() - asked_at < 10
    until(lambda: bool({task.task_id for task in tasks_called("ocr")} - others))  # Ray's bookkeeping is a second behind
    until(lambda: all(task.state in OVER for task in tasks_called(*KINDS) if task.task_id not in others))
    assert cluster.stores.catalog.chunk_ids(job.document_id, 1) == set()
    assert cluster.stores.vectors.point_ids(job.document_id, 1) == set()
    assert cluster.stores.objects.keys(ids.checkpoint_prefix(job.document_id)) == []
    again = http.post(f"/v1/jobs/{job.job_id}/cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_a_cancelled_job_is_retried(cluster: Cluster, http: httpx.Client, letter: Path, scan: Path) -> None:
    """202 with a new job and its `Location`; twice is one job; the document ends published."""
    cluster.client.submit(scan)  # keeps the workers busy, so that the cancel comes in time
    job = cluster.submit(letter)
    cluster.client.cancel(job.job_id)
    assert cluster.finish(job.job_id).state is JobState.CANCELLED
    answer = http.post(f"/v1/jobs/{job.job_id}/retry")
    assert answer.status_code == 202
    retried = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{retried['job_id']}" != f"/v1/jobs/{job.job_id}"
    ended = cluster.finish(retried["job_id"])
    assert (ended.state, ended.revision) == (JobState.SUCCEEDED, 2)
    assert_published_exactly(cluster.stores, ended, keep_source=True)


def test_what_cannot_be_cancelled_or_retried_says_why(cluster: Cluster, http: httpx.Client, tmp_path: Path) -> None:
    """409 with a problem body for a job that has published, and for one whose bytes are at fault; 404 for no job."""
    letter, locked = tmp_path / "a.pdf", tmp_path / "b.pdf"
    letter.write_bytes(pdf_of([f"The tide of {tmp_path.name}."]))
    locked.write_bytes(encrypted_pdf() + f"\n% {tmp_path}\n".encode())
    done, failed = cluster.ingest(letter), cluster.ingest(locked)
    refusals = {
        f"/v1/jobs/{done.job_id}/cancel": "succeeded",
        f"/v1/jobs/{done.job_id}/retry": "nothing to retry",
        f"/v1/jobs/{failed.job_id}/cancel": "failed",
        f"/v1/jobs/{failed.job_id}/retry": "password",
    }
    for path, reason in refusals.items():
        answer = http.post(path)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:fanfold:conflict")
        assert reason in answer.json()["detail"]
        assert answer.json()["retryable"] is False  # a terminal state never changes
    for call in ("cancel", "retry"):
        assert http.post(f"/v1/jobs/unknown/{call}").status_code == 404
    assert http.delete("/v1/documents/unknown").status_code == 404


def test_many_queued_jobs_are_cancelled_while_one_runs_on(cluster: Cluster, scan: Path, tmp_path: Path) -> None:
    """All that wait are `cancelled`, the one at work succeeds untouched."""
    running = cluster.submit(scan)
    until(lambda: cluster.client.job(running.job_id).progress.pages_done >= 1)
    paths = [tmp_path / f"{number}.pdf" for number in range(QUEUED)]
    for path in paths:
        path.write_bytes(pdf_of([f"Letter {path}"]) + b"%" * 10)
    with ThreadPoolExecutor(8) as pool:
        waiting = [submitted.job_id for submitted in pool.map(cluster.client.submit, paths)]
        answers = list(pool.map(lambda job_id: _cancelled(cluster, job_id), waiting))
    states = {cluster.finish(job_id).state for job_id, cancelled in zip(waiting, answers, strict=True) if cancelled}
    assert states == {JobState.CANCELLED}
    assert sum(answers) >= QUEUED / 2  # the first few were published before their turn to be cancelled came
    ended = cluster.finish(running.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert len(ended.attempts) == 1


def test_a_deleted_document_is_gone(cluster: Cluster, http: httpx.Client, letter: Path) -> None:
    """202; search and `GET` know nothing of it at once; its rows and objects go; its job is still there to read."""
    job = cluster.ingest(letter)
    answer = http.delete(f"/v1/documents/{job.document_id}")
    assert answer.status_code == 202
    assert answer.json()["document_id"] == job.document_id
    assert cluster.client.search("where did the buoy go?", document_ids=[job.document_id]) == []
    assert http.get(f"/v1/documents/{job.document_id}").status_code == 404
    assert http.get(f"/v1/documents/{job.document_id}/chunks").status_code == 404
    until(lambda: cluster.stores.catalog.chunk_ids(job.document_id, 1) == set())
    until(lambda: not cluster.stores.jobs.job("default", job.job_id).open)
    assert_nothing_left(cluster.stores, job.document_id, 1)
    assert cluster.client.job(job.job_id).state is JobState.SUCCEEDED
    assert http.delete(f"/v1/documents/{job.document_id}").status_code == 202


def test_a_document_deleted_in_the_middle_of_its_job_is_gone_too(cluster: Cluster, scan: Path) -> None:
    """The job stops, and everything goes; the same file can be sent again."""
    job = cluster.submit(scan)
    until(lambda: cluster.client.job(job.job_id).progress.pages_done >= 1)
    cluster.client.delete(job.document_id)
    assert cluster.finish(job.job_id).state is JobState.CANCELLED
    until(lambda: not cluster.stores.jobs.job("default", job.job_id).open)
    assert_nothing_left(cluster.stores, job.document_id, 1)
    again = cluster.ingest(scan)
    assert (again.state, again.revision) == (JobState.SUCCEEDED, 2)


def test_events_tell_of_every_change_up_to_the_end(cluster: Cluster, http: httpx.Client, scan: Path) -> None:
    """The stream begins with the job as it is, its percent never falls, and it ends with the job."""
    job = cluster.submit(scan)
    events = []
    with http.stream("GET", f"/v1/jobs/{job.job_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            field, _, value = line.partition(": ")
            if field in {"id", "event", "data"}:
                events.append((field, value))
    shown = [httpx.Response(200, text=value).json() for field, value in events if field == "data"]
    assert shown[-1]["state"] == "succeeded"
    percents = [view["progress"]["percent"] for view in shown]
    assert percents == sorted(percents)
    assert len({view["progress"]["pages_done"] for view in shown}) >= 3
    assert {value for field, value in events if field == "event"} == {"state", "progress"}
    last_id = [value for field, value in events if field == "id"][-1]
    path = f"/v1/jobs/{job.job_id}/events"
    while (answer := http.get(path, headers={"Last-Event-ID": last_id})).status_code == httpx.codes.OK:
        news = re.findall(r"^id: (.+)$", answer.text, re.MULTILINE)  # its collection has gone on since
        assert news[-1] != last_id
        last_id = news[-1].strip()
    assert answer.status_code == httpx.codes.NO_CONTENT
    assert "succeeded" in http.get(path, headers={"Last-Event-ID": "another"}).text


def _cancelled(cluster: Cluster, job_id: str) -> bool:
    """Whether the cancel was in time."""
    try:
        cluster.client.cancel(job_id)
    except ServiceError as error:
        if error.problem is None or error.problem.status != httpx.codes.CONFLICT:
            raise
        return False
    return True
