"""A store that is gone for a while, in the middle of a job: named as down, waited for, and nothing fails."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from ingest.model import JobState
from serve.client import Client
from serve.schemas import JobView
from tests.background import again_and_again
from tests.checks import History, assert_invariants, chunk_texts
from tests.clusters import Cluster
from tests.crash.conftest import Copy
from tests.crash.machine import Machine
from tests.crash.processes import actor_pid, frozen, is_gone, until
from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OUTAGE_S = 40.0  # three leases and more
Outage = Callable[[Cluster], AbstractContextManager[object]]


@contextmanager
def mongodb_frozen(cluster: Cluster) -> Iterator[None]:
    """It takes connections and does not answer."""
    with frozen(_mongodb(cluster)):
        yield


@contextmanager
def mongodb_killed(cluster: Cluster) -> Iterator[None]:
    """It refuses connections until `fanfold up` looks after it."""
    _mongodb(cluster).kill()
    yield
    cluster.keep_alive()


@contextmanager
def qdrant_frozen(_cluster: Cluster) -> Iterator[None]:
    """The actor that owns it does not answer."""
    with frozen(psutil.Process(actor_pid("qdrant"))):
        yield


@contextmanager
def qdrant_killed(_cluster: Cluster) -> Iterator[None]:
    """As often as Ray starts the actor again, it is killed again."""

    def kill_all() -> None:
        for process in psutil.Process().children(recursive=True):
            if not is_gone(process) and process.name().startswith("ray::QdrantActo"):
                process.kill()

    with again_and_again(kill_all, pause_s=0.2):
        yield


def _mongodb(cluster: Cluster) -> psutil.Process:
    storage = str(cluster.settings.home / "mongodb")
    [server] = [child for child in psutil.Process().children(recursive=True) if storage in child.cmdline()]
    return server


@pytest.mark.parametrize("outage", [mongodb_frozen, mongodb_killed])
def test_a_mongodb_that_is_gone_for_a_while_is_waited_for(brisk: Cluster, letters: Copy, outage: Outage) -> None:
    """While pages are read. Nobody can renew the lease, so the job may be claimed once more; it ends exact."""
    undisturbed = brisk.ingest(letters(0))
    job = brisk.submit(letters(1))
    until(lambda: brisk.client.job(job.job_id).progress.pages_done)
    ended = _outlasted(brisk, job.job_id, outage, "mongodb")
    assert [attempt.outcome for attempt in ended.attempts] in (["succeeded"], ["lost", "succeeded"])
    assert chunk_texts(brisk.stores, ended.document_id) == chunk_texts(brisk.stores, undisturbed.document_id)


@pytest.mark.parametrize("outage", [qdrant_frozen, qdrant_killed])
def test_a_qdrant_that_is_gone_for_a_while_is_waited_for(brisk: Cluster, book: Copy, outage: Outage) -> None:
    """While points are written: the same attempt goes on where it was, and the result is exact."""
    undisturbed = brisk.ingest(book(0))
    job = brisk.submit(book(1))
    until(lambda: brisk.client.job(job.job_id).progress.chunks_stored)
    ended = _outlasted(brisk, job.job_id, outage, "qdrant")
    assert [attempt.outcome for attempt in ended.attempts] == ["succeeded"]
    assert chunk_texts(brisk.stores, ended.document_id) == chunk_texts(brisk.stores, undisturbed.document_id)


def _outlasted(cluster: Cluster, job_id: str, outage: Outage, name: str) -> JobView:
    """The job at its end, after the store was gone for longer than three leases, and named."""
    history = History()
    history.look(cluster.stores)
    with outage(cluster):
        since = time.monotonic()
        until(lambda: _down(cluster.settings.http_url) == [name])
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - since)))
    until(lambda: _down(cluster.settings.http_url) == [])
    ended = cluster.finish(job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert_invariants(cluster.stores, history)
    return ended


@pytest.mark.parametrize("outage", ["frozen", "stopped"])
def test_an_object_store_that_is_gone_for_a_while_is_waited_for(
    mortal_s3: S3Server, tmp_path: Path, letters: Copy, outage: str
) -> None:
    """While pages are committed: named as down, no page fails, and the same attempt ends exact."""
    with Machine(tmp_path / "home", **mortal_s3.settings) as machine, Client(machine.url) as client:
        job_id = client.submit(letters(0)).job_id
        until(lambda: client.job(job_id).progress.pages_done)
        mortal_s3.freeze() if outage == "frozen" else mortal_s3.stop()
        since = time.monotonic()
        until(lambda: machine.down() == ["object_store"])
        assert not client.job(job_id).state.terminal
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - since)))
        mortal_s3.thaw() if outage == "frozen" else mortal_s3.start()
        ended = machine.finish(client, job_id)
        with machine.stores() as stores:
            assert_invariants(stores)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["succeeded"]
    assert ended.failed_pages == []


def _down(url: str) -> list[str]:
    """What `/readyz` names."""
    return list(httpx.get(f"{url}/readyz", timeout=30).json()["down"])
