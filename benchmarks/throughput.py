"""Scanned pages a minute, from upload to searchable, against the loop that everybody writes first.

The loop is one process: PaddleOCR with the same models, without the stages that Fanfold has no use for (they would only
slow it down), and with as many threads as its engine takes by itself; one page after the other. It stores nothing.
Where the CPU computes in bfloat16 Fanfold's recogniser does, and the loop's, on PaddleOCR's own engine, cannot. Both
are held to the same cores: Fanfold with everything that it starts, its stores included. A worker is an OCR process.
Models are loaded before the clock runs.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pymupdf
from rich.console import Console
from rich.table import Table

from benchmarks.running import copies, fanfold_up, pairs
from ingest.stages.models import ocr_model_dirs
from samples.build import build

MODEL = "PP-OCRv6_small"
DPI = 200
SCANS = 4  # copies of the scanned sample for each worker, each with other bytes; one more warms up
RUNS = ((1, 1), (1, 2), (2, 2))  # workers, cores
_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it


def main(arguments: Sequence[str]) -> None:
    """Print the table; `1:2` as an argument stands for one worker on two cores."""
    machine = sorted(os.sched_getaffinity(0))
    runs = [(workers, cores) for workers, cores in pairs(arguments, RUNS) if cores <= len(machine)]
    table = Table(title="scanned pages a minute")
    for column in ("workers", "cores", "plain loop", "Fanfold", "to the loop", "to the first row"):
        table.add_column(column, justify="right")
    plain: dict[int, float] = {}
    first = 0.0
    with tempfile.TemporaryDirectory() as directory:
        build(Path(directory, "pdf"))
        scan = Path(directory, "pdf", "letters.pdf")
        for workers, cores in runs:
            with held_to(machine[:cores]):
                loop = plain[cores] = plain.get(cores) or _plain_rate(scan, Path(directory, "models"))
                fanfold = _fanfold_rate(scan, Path(directory, f"{workers}-on-{cores}"), workers)
            first = first or fanfold
            numbers = f"{loop:.0f}", f"{fanfold:.0f}", f"{fanfold / loop:.2f}", f"{fanfold / first:.2f}"
            table.add_row(str(workers), str(cores), *numbers)
    Console().print(table)


@contextmanager
def held_to(cores: list[int]) -> Iterator[None]:
    """This process, and what it starts within the block, runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _fanfold_rate(scan: Path, directory: Path, workers: int) -> float:
    directory.mkdir()
    first, *rest = copies(scan, directory, 1 + SCANS * workers)
    with fanfold_up(directory / "home", FANFOLD_NUM_CPUS=str(workers)) as service:
        service.ingest([first])
        return service.ingest(rest)


def _plain_rate(scan: Path, cache: Path) -> float:
    """In a process of its own, whose engine chooses its threads by the cores that it may use."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_plain_loop, scan, cache).result()


def _plain_loop(scan: Path, cache: Path) -> float:
    from paddleocr import PaddleOCR  # noqa: PLC0415  # takes seconds

    directories = ocr_model_dirs(MODEL, cache)
    assert directories is not None
    engine = PaddleOCR(
        text_detection_model_name=f"{MODEL}_det",
        text_detection_model_dir=str(directories[0]),
        text_recognition_model_name=f"{MODEL}_rec",
        text_recognition_model_dir=str(directories[1]),
        engine="onnxruntime",
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
    )
    document = _mupdf.open(scan)
    started_at = time.monotonic()
    for page in document:
        path = scan.with_suffix(".png")
        page.get_pixmap(dpi=DPI).save(path)
        engine.predict(str(path))
    return float(60 * len(document) / (time.monotonic() - started_at))


if __name__ == "__main__":
    main(sys.argv[1:])
