"""Real processes are killed with SIGKILL in the middle of real work; what was acknowledged ends exact."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from ray.util.state import list_actors, list_tasks

from cluster.embedded import NAMESPACE
from cluster.supervisor import SUPERVISOR_ACTOR, probe_supervisor
from ingest.errors import StoreUnavailable
from ingest.model import JobState
from samples.pages import page_texts
from serve.schemas import JobView
from tests.checks import assert_published_exactly
from tests.clusters import Cluster, ray_address
from tests.pdfs import pdf_of

PATIENCE_S = 60


@pytest.fixture
def scan(sample_pdfs: Path, tmp_path: Path) -> Path:
    """The scanned sample, with bytes that no other test sends."""
    path = tmp_path / "letters.pdf"
    path.write_bytes((sample_pdfs / "letters.pdf").read_bytes() + f"\n% {tmp_path}\n".encode())
    return path


def test_a_killed_supervisor_is_followed_by_one_that_goes_on(cluster: Cluster, scan: Path) -> None:
    """The job is claimed again after its lease, from the pages that are committed; none of them is read again."""
    job = cluster.submit(scan)
    _wait_for_pages(cluster, job.job_id, 2)
    _kill_actor(SUPERVISOR_ACTOR)
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["lost", "succeeded"]
    assert ended.attempts[1].epoch > ended.attempts[0].epoch
    assert ended.attempts[1].holder != ended.attempts[0].holder
    committed = ended.attempts[1].units_at_start
    assert committed >= 2
    runs = [
        task
        for task in list_tasks(address=ray_address(), limit=10_000, raise_on_missing_output=False)
        if _is_page_of(task, ended)
    ]
    in_flight = len(runs) - len(page_texts("letters"))
    assert in_flight <= len(page_texts("letters")) - committed
    assert_published_exactly(cluster.stores, ended)


def test_a_killed_page_worker_costs_no_page(cluster: Cluster, scan: Path) -> None:
    """Its page is read again by another worker; nothing is missing."""
    job = cluster.submit(scan)
    _wait_for_pages(cluster, job.job_id, 1)
    _kill_one("ray::ocr")
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert ended.failed_pages == []
    assert ended.progress.pages_done == len(page_texts("letters"))
    assert_published_exactly(cluster.stores, ended)


def test_a_killed_embedded_qdrant_comes_back_with_its_points(cluster: Cluster, tmp_path: Path) -> None:
    """The actor restarts on the same storage: what was published is still found, and new documents are taken."""
    ended = cluster.ingest(_letter(tmp_path, "The heron waits in the reeds."))
    _kill_actor("qdrant")
    _until_answers(cluster.stores.vectors.ping)
    assert_published_exactly(cluster.stores, ended)
    again = cluster.ingest(_letter(tmp_path, "The otter swims under the bridge."))
    assert again.state is JobState.SUCCEEDED, again.error
    hits = cluster.client.search("a bird by the water", document_ids=[ended.document_id])
    assert [hit.document_id for hit in hits] == [ended.document_id]


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["frozen", "killed"])
def test_a_mongodb_that_is_gone_for_a_while_is_waited_for(cluster: Cluster, scan: Path, outage: str) -> None:
    """Longer than a lease, in the middle of a job: `/readyz` names it, nothing fails, the job ends exact."""
    job = cluster.submit(scan)
    _wait_for_pages(cluster, job.job_id, 1)
    server = _embedded_mongodb(cluster)
    server.suspend() if outage == "frozen" else server.kill()
    ready = httpx.get(f"{cluster.settings.http_url}/readyz", timeout=30)
    assert (ready.status_code, list(ready.json()["down"])) == (503, ["mongodb"])
    time.sleep(cluster.settings.lease_ttl_s * 1.5)
    server.resume() if outage == "frozen" else cluster.keep_alive()
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert len(ended.attempts) <= 2
    assert_published_exactly(cluster.stores, ended)


def _embedded_mongodb(cluster: Cluster) -> psutil.Process:
    """The server process of this cluster."""
    [server] = [
        child
        for child in psutil.Process().children(recursive=True)
        if str(cluster.settings.home / "mongodb") in child.cmdline()
    ]
    return server


def _letter(directory: Path, text: str) -> Path:
    path = directory / "letter.pdf"
    path.write_bytes(pdf_of([f"{text} {directory.name}"]))
    return path


def _wait_for_pages(cluster: Cluster, job_id: str, pages: int) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while cluster.client.job(job_id).progress.pages_done < pages:
        assert time.monotonic() < give_up_at, "no page was read in time"
        time.sleep(0.05)


def _kill_actor(name: str) -> None:
    """SIGKILL the process of a named actor."""
    [actor] = list_actors(address=ray_address(), filters=[("name", "=", name), ("state", "=", "ALIVE")])
    assert actor.ray_namespace == NAMESPACE
    assert actor.pid is not None
    os.kill(actor.pid, signal.SIGKILL)


def _kill_one(title: str) -> None:
    """SIGKILL one process that Ray has given this title."""
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or []).startswith(title):
                process.kill()
                return
        time.sleep(0.02)
    raise AssertionError(f"no process was called {title}")


def _until_answers(question: Callable[[], None]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            question()
            probe_supervisor()
        except StoreUnavailable:
            assert time.monotonic() < give_up_at, "it did not come back in time"
            time.sleep(0.2)
        else:
            return


def _is_page_of(task: object, job: JobView) -> bool:
    return str(getattr(task, "name", "")).startswith(f"ocr {job.document_id[:8]} ")
