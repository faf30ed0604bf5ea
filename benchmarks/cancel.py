"""How long a cancel takes to be true: 50 of them, at random moments of a scanned document of 60 pages.

What counts as running is every process that Ray has named after the document. A batch that is embedded has none of its
own: `cancelled`, which comes after it, is measured beside it. The smallest OCR model is used, so that the moments fall
into every stage.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.composition import connect
from cluster.ports import free_port
from cluster.service import running
from ingest import ids
from ingest.model import Job, JobState, StageStatus
from ingest.settings import Settings
from ingest.stores import Stores
from samples.build import build
from serve.client import Client, ServiceError
from tests.pdfs import SCAN, endless_page, pdf_of, repeated

CANCELS, STUCK_CANCELS = 50, 5
PAGES = 60
LOOK_S = 0.02
WORK = tuple(f"ray::{kind}" for kind in ("inspect", "ocr", "cut", "store", "embed"))
STUCK_AFTER_S = 5.0  # by then the worker has its models, and is in the page


@dataclass(frozen=True, slots=True)
class Cancel:
    """What one cancel was seen to do."""

    stage: str  # in which it came
    quiet_s: float  # until nothing of the job ran
    cancelled_s: float  # until the job said so
    left: int  # rows and checkpoint objects that were there when it did
    hits: int  # of a search in the document, right after the cancel


class Bench:
    """A running service, seen from outside and from behind."""

    def __init__(self, client: Client, stores: Stores) -> None:
        self.client = client
        self.stores = stores

    def duration_s(self, path: Path) -> float:
        """How long the whole document takes."""
        started_at = time.monotonic()
        job_id = self.client.submit(path).job_id
        while not self.client.job(job_id, wait=10).state.terminal:
            pass
        return time.monotonic() - started_at

    def cancel_after(self, path: Path, seconds: float) -> Cancel | None:
        """Submit, wait, cancel, and watch; None when the job was published before."""
        job = self._submit(path)
        time.sleep(seconds)
        return self._cancel(job)

    def cancel_stuck(self, path: Path) -> Cancel | None:
        """Cancel while a page is in native code that does not return."""
        job = self._submit(path)
        while self.client.job(job.job_id).progress.pages_done < PAGES - 1:
            time.sleep(LOOK_S)
        time.sleep(STUCK_AFTER_S)
        return self._cancel(job)

    def _submit(self, path: Path) -> Job:
        return self.stores.jobs.job("default", self.client.submit(path).job_id)

    def _cancel(self, job: Job) -> Cancel | None:
        before = self.stores.jobs.job("default", job.job_id)
        asked_at = time.monotonic()
        try:
            self.client.cancel(job.job_id)
        except ServiceError:
            return None
        hits = self.client.search("anything", document_ids=[job.document_id])
        quiet_at = cancelled_at = 0.0
        left = 0
        while not (quiet_at and cancelled_at):
            if not cancelled_at and self.client.job(job.job_id).state is JobState.CANCELLED:
                cancelled_at, left = time.monotonic(), self._left(job)
            quiet_at = 0.0 if _running() else quiet_at or time.monotonic()
            time.sleep(LOOK_S)
        return Cancel(_stage(before), quiet_at - asked_at, cancelled_at - asked_at, left, len(hits))

    def _left(self, job: Job) -> int:
        chunks = self.stores.catalog.chunk_ids(job.document_id, job.revision)
        points = self.stores.vectors.point_ids(job.document_id, job.revision)
        return len(chunks) + len(points) + len(self.stores.objects.keys(ids.checkpoint_prefix(job.document_id)))


def main() -> None:
    """Print the table."""
    moments = random.Random(1)  # noqa: S311  # moments, not secrets
    with tempfile.TemporaryDirectory() as directory, _bench(Path(directory, "home")) as bench:
        scanned = scans(Path(directory))
        whole_s = bench.duration_s(next(scanned))
        stuck = (_stuck(Path(directory), number) for number in range(CANCELS))
        random_ones = [
            _first(lambda: bench.cancel_after(next(scanned), moments.uniform(0, whole_s)))
            for _ in track(range(CANCELS), "Cancelling")
        ]
        stuck_ones = [_first(lambda: bench.cancel_stuck(next(stuck))) for _ in range(STUCK_CANCELS)]
    console = Console()
    console.print(_table({"at a random moment": random_ones, "stuck in native code": stuck_ones}))
    console.print(f"Stages in which they came: {', '.join(sorted({cancel.stage for cancel in random_ones}))}")


@contextmanager
def _bench(home: Path) -> Iterator[Bench]:
    settings = Settings(
        data_dir=home,
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        ocr_model="PP-OCRv6_tiny",
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield Bench(client, connect(service.blueprint))


def scans(directory: Path) -> Iterator[Path]:
    """Documents of scanned pages, one after the other, all with the same pages and none with the same bytes."""
    build(directory / "samples")
    data = repeated((directory / "samples" / "letters.pdf").read_bytes(), PAGES)
    path = directory / "scan.pdf"
    number = 0
    while True:
        number += 1
        path.write_bytes(data + f"\n% {number}\n".encode())
        yield path


def _stuck(directory: Path, number: int) -> Path:
    """A document whose last page does not come back."""
    path = directory / f"stuck-{number}.pdf"
    path.write_bytes(endless_page(pdf_of([f"Cover {number}", *[SCAN] * (PAGES - 1)]), PAGES))
    return path


def _first(attempt: Callable[[], Cancel | None]) -> Cancel:
    """Until a cancel came in time."""
    while (cancel := attempt()) is None:
        pass
    return cancel


def _running() -> list[str]:
    """Titles of processes that work on a document: there is one at a time."""
    titles = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [title for title in titles if title.startswith(WORK)]


def _stage(job: Job) -> str:
    return next((stage for stage, record in job.stages.items() if record.status is StageStatus.RUNNING), job.state)


def _table(measured: dict[str, Sequence[Cancel]]) -> Table:
    table = Table("cancels", "", "nothing runs after", "`cancelled` after", "rows and objects left", "search hits")
    for name, cancels in measured.items():
        for word, pick in (("median", statistics.median), ("slowest", max)):
            table.add_row(
                f"{len(cancels)} {name}",
                word,
                f"{pick([cancel.quiet_s for cancel in cancels]):.2f} s",
                f"{pick([cancel.cancelled_s for cancel in cancels]):.2f} s",
                str(max(cancel.left for cancel in cancels)),
                str(max(cancel.hits for cancel in cancels)),
            )
    return table


if __name__ == "__main__":
    main()
