"""Everything is killed at once, or a holder sleeps through its lease: what was accepted ends exact, and once."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray.util.state import list_actors

from cluster.embedded import NAMESPACE
from cluster.ports import free_port
from cluster.supervisor import SUPERVISOR_ACTOR, SupervisorActor
from ingest.model import JobState
from samples.pages import page_texts
from serve.client import Client, ServiceError
from serve.schemas import JobView
from tests.checks import assert_published_exactly
from tests.clusters import Cluster, ray_address

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
PATIENCE_S = 180


class Machine:
    """A `fanfold up` with embedded stores that can lose its power."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.environment = os.environ | {
            "FANFOLD_DATA_DIR": str(home),
            "FANFOLD_HTTP_PORT": str(self.port),
            "FANFOLD_DASHBOARD_PORT": str(free_port()),
            "FANFOLD_RAY_ADDRESS": "local",
            "FANFOLD_LEASE_TTL_S": "5",
        }
        self.service: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it is ready."""
        self.service = subprocess.Popen([FANFOLD, "up"], env=self.environment, stdout=subprocess.DEVNULL)
        _until(self._is_ready)

    def lose_power(self) -> None:
        """SIGKILL every process at once: `up`, Ray, its workers and actors, the embedded stores."""
        assert self.service is not None
        family = [psutil.Process(self.service.pid), *psutil.Process(self.service.pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)
        self.service.wait()

    def stop(self) -> None:
        """Stop as a user would."""
        subprocess.run([FANFOLD, "down"], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=30).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs Fanfold, with nothing in it."""
    machine = Machine(tmp_path / "home")
    machine.start()
    yield machine
    machine.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_cluster_killed_at_once_loses_nothing(machine: Machine, sample_pdfs: Path) -> None:
    """Queued, half-read and half-stored jobs: after the next `fanfold up` all succeed, with committed pages kept."""
    names = ("letters", "inventory", "field-guide")
    with Client(f"http://127.0.0.1:{machine.port}") as client:
        jobs = {name: client.submit(sample_pdfs / f"{name}.pdf").job_id for name in names}
        _until(lambda: client.job(jobs["letters"]).progress.pages_done >= 2)
        machine.lose_power()
        machine.start()
        _until(lambda: all(_job(client, job_id).state.terminal for job_id in jobs.values()))
        for name, job_id in jobs.items():
            ended = client.job(job_id)
            assert ended.state is JobState.SUCCEEDED, ended.error
            assert ended.progress.pages_done == len(page_texts(name))
            chunks = list(client.chunks(ended.document_id))
            assert [chunk.chunk_index for chunk in chunks] == list(range(ended.progress.chunks_stored))
        letters = client.job(jobs["letters"])
        assert [attempt.outcome for attempt in letters.attempts] == ["lost", "succeeded"]
        assert letters.attempts[1].units_at_start >= 2
    done = subprocess.run([FANFOLD, "fsck", "--json"], env=machine.environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_supervisor_that_sleeps_through_its_lease_writes_nothing_more(
    cluster: Cluster, sample_pdfs: Path, tmp_path: Path
) -> None:
    """Frozen by SIGSTOP while another takes over, then thawed: its late writes are refused, the result is exact."""
    path = tmp_path / "letters.pdf"
    path.write_bytes((sample_pdfs / "letters.pdf").read_bytes() + f"\n% {tmp_path}\n".encode())
    job_id = cluster.client.submit(path).job_id
    _until(lambda: cluster.client.job(job_id).progress.pages_done >= 1)
    sleeper = _supervisor_process()
    sleeper.suspend()
    actor: Any = SupervisorActor
    second = actor.options(name="second-supervisor", namespace=NAMESPACE).remote(cluster.blueprint)
    try:
        _until(lambda: len(cluster.client.job(job_id).attempts) == 2)
        taken_over = cluster.client.job(job_id).attempts[1]
        sleeper.resume()
        ended = cluster.finish(job_id)
    finally:
        del second
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["lost", "succeeded"]
    assert ended.attempts[1].holder == taken_over.holder != ended.attempts[0].holder
    assert ended.progress.pages_done == len(page_texts("letters"))
    assert_published_exactly(cluster.stores, ended)


def _supervisor_process() -> psutil.Process:
    [actor] = list_actors(address=ray_address(), filters=[("name", "=", SUPERVISOR_ACTOR), ("state", "=", "ALIVE")])
    assert actor.pid is not None
    return psutil.Process(actor.pid)


def _job(client: Client, job_id: str) -> JobView:
    """The job; a service that is still starting is asked again."""
    while True:
        try:
            return client.job(job_id)
        except ServiceError:
            time.sleep(0.5)


def _until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.1)
