"""A node without memory: Ray ends the newest page, and not the supervisor, which would take every job with it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ingest.model import JobState
from serve.client import Client
from tests.checks import assert_invariants
from tests.crash.conftest import Copy
from tests.crash.machine import Machine
from tests.crash.processes import until

GIB = 1024**3
ROOM_BYTES = 6 * GIB  # above what is used before Fanfold starts: enough for it
STEP_BYTES = GIB // 4
LEAST_FREE_BYTES = 10 * GIB


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A Fanfold whose node has so much memory; Ray looks four times a second."""
    memory = psutil.virtual_memory()
    if memory.available < LEAST_FREE_BYTES:
        pytest.skip("takes 10 GiB of free memory")
    threshold = (memory.total - memory.available + ROOM_BYTES) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "250")
    with Machine(tmp_path / "home") as machine:
        yield machine


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_without_memory_ends_pages_and_no_supervisor(machine: Machine, letters: Copy) -> None:
    """Another program takes more and more: a page is ended; its job keeps its holder, and goes on later."""
    with Client(machine.url) as client:
        job_id = client.submit(letters(0)).job_id
        until(lambda: client.job(job_id).progress.pages_done >= 1)
        supervisor = _supervisor()
        taken: list[bytearray] = []
        while not _ended_for_memory():
            assert len(taken) * STEP_BYTES < 2 * ROOM_BYTES, "nothing was ended"
            taken.append(bytearray(os.urandom(1024)) * (STEP_BYTES // 1024))
            time.sleep(0.5)
        taken.clear()
        job = machine.finish(client, job_id)
        assert supervisor.is_running()
        assert job.state in {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}
        assert [attempt.outcome for attempt in job.attempts] == [str(job.state)]
    with machine.stores() as stores:
        assert_invariants(stores)


def _supervisor() -> psutil.Process:
    [found] = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and " ".join(process.cmdline()).startswith("ray::SupervisorActor")
    ]
    return found


def _ended_for_memory() -> bool:
    """Whether a page was: the supervisor says so in its log."""
    [raylet] = [process for process in psutil.Process().children(recursive=True) if process.name() == "raylet"]
    [session] = [argument.partition("=")[2] for argument in raylet.cmdline() if argument.startswith("--session_dir=")]
    logs = Path(session, "logs").glob("worker-*")
    return any("Its node ran out of memory" in log.read_text(errors="replace") for log in logs)
