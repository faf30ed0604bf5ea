"""Fifty clients upload 100 MiB each: bounded memory, quick refusals, and nothing that was accepted is lost."""

import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from ingest.model import JobState
from serve.client import Client
from tests.checks import assert_invariants
from tests.crash.machine import Machine
from tests.crash.uploads import THREADS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MIB = 1024**2
PROCESSES = 5
SIZE = 100 * MIB
ANNOUNCED = 200 * MIB  # by who only asks: the largest that may be, refused whenever another upload is under way
UPLOADING = 256 * MIB  # the default of FANFOLD_MAX_UPLOADING_BYTES
COPIES = 3  # of what is under way: as it came, as it is handed over, and as it is taken in
REFUSED_WITHIN_S = 0.1  # half of them: the clients and the work take the same cores
WATCHED = ("ProxyActor", "ServeReplica:fanfold:Api")


@dataclass
class Watch:
    """What was seen meanwhile: the most memory that each process had to itself, and how long refusals took."""

    before: dict[str, int]
    most: dict[str, int] = field(default_factory=dict)
    refused_after_s: list[float] = field(default_factory=list)


def memory(machine: Machine) -> dict[str, int]:
    """Bytes that the watched processes have to themselves, by name."""
    assert machine.service is not None
    found: dict[str, int] = {}
    for process in psutil.Process(machine.service.pid).children(recursive=True):
        title = " ".join(process.cmdline())
        for name in WATCHED:
            if name in title:
                found[name] = process.memory_full_info().uss
    return found


def refused_after(url: str) -> float | None:
    """Announce an upload, and wait for leave to send it: after how many seconds it is refused; None when it is not."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(
            f"POST /v1/documents HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/pdf\r\n"
            f"Content-Length: {ANNOUNCED}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        sent = time.monotonic()
        answer = connection.recv(65_536)
        took = time.monotonic() - sent
    if b" 503 " not in answer.partition(b"\r\n")[0]:
        return None
    assert b"retry-after: " in answer.lower()
    return took


@contextmanager
def watched(machine: Machine) -> Iterator[Watch]:
    """Look all the time, for the length of the block."""
    seen, over = Watch(memory(machine)), threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for name, size in memory(machine).items():
                seen.most[name] = max(seen.most.get(name, 0), size)
            if (took := refused_after(machine.url)) is not None:
                seen.refused_after_s.append(took)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def test_fifty_large_uploads_at_a_time(tmp_path: Path) -> None:
    """All are accepted in the end, within bounded memory; who is refused hears it at once; every job succeeds."""
    with Machine(tmp_path / "home") as machine, Client(machine.url) as client:
        with watched(machine) as seen:
            uploading = [
                subprocess.Popen(
                    [sys.executable, "-m", "tests.crash.uploads", machine.url, tmp_path, str(number), str(SIZE)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for number in range(PROCESSES)
            ]
            job_ids = [line for process in uploading for line in process.communicate()[0].split()]
        assert len(set(job_ids)) == PROCESSES * THREADS
        grown = {name: (seen.most[name] - seen.before[name]) // MIB for name in WATCHED}
        half, most = (statistics.quantiles(seen.refused_after_s, n=10)[tenth - 1] for tenth in (5, 9))
        measured = f"{grown} MiB more; {len(seen.refused_after_s)} refused, half within {half:.3f} s, most {most:.3f} s"
        assert max(grown.values()) * MIB < COPIES * UPLOADING, measured
        assert half < REFUSED_WITHIN_S, measured
        assert {machine.finish(client, job_id).state for job_id in job_ids} == {JobState.SUCCEEDED}
        with machine.stores() as stores:
            assert_invariants(stores)
