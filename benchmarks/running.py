"""A `fanfold up` of a benchmark's own, and documents to send to it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.ports import free_port
from serve.client import Client

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
READY_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Running:
    """A service that is ready, and nobody else's."""

    client: Client
    pid: int
    start_s: float  # from the command to the answer of /readyz

    def ingest(self, paths: list[Path]) -> float:
        """Send the documents and wait until all are searchable: pages a minute, from the first upload on."""
        started_at = time.monotonic()
        job_ids = [self.client.submit(path).job_id for path in paths]
        pages = 0
        for job_id in job_ids:
            while not (job := self.client.job(job_id, wait=10)).state.terminal:
                pass
            assert job.state.published, job.error
            pages += job.progress.pages_done
        return 60 * pages / (time.monotonic() - started_at)


@contextmanager
def fanfold_up(home: Path, **settings: str) -> Iterator[Running]:
    """Start Fanfold in an empty data directory with these settings, and stop it after the block."""
    port = free_port()
    environment = {
        "FANFOLD_DATA_DIR": str(home),
        "FANFOLD_HTTP_PORT": str(port),
        "FANFOLD_RAY_ADDRESS": "local",
        **settings,
    }
    started_at = time.monotonic()
    service = subprocess.Popen([FANFOLD, "up"], env=os.environ | environment, stdout=subprocess.DEVNULL)  # noqa: S603  # our own program
    try:
        _wait_until_ready(port, service)
        start_s = time.monotonic() - started_at
        with Client(f"http://127.0.0.1:{port}") as client:
            yield Running(client, service.pid, start_s)
    finally:
        service.terminate()
        service.wait()


def pairs(arguments: Sequence[str], default: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`1:2` as an argument stands for a run with one of this and two of that; without arguments, the default."""
    asked = [argument.split(":") for argument in arguments]
    return [(int(first), int(second)) for first, second in asked] or list(default)


def copies(pdf: Path, directory: Path, number: int) -> list[Path]:
    """So many documents with the same pages and other bytes."""
    targets = [directory / f"{pdf.stem}-{one}.pdf" for one in range(number)]
    for target in targets:
        target.write_bytes(pdf.read_bytes() + f"\n% {target.name}\n".encode())
    return targets


def _wait_until_ready(port: int, service: subprocess.Popen[bytes]) -> None:
    while service.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(READY_POLL_S)
    raise SystemExit("fanfold up has ended")
