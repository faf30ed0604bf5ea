"""Scanned pages a minute, from upload to searchable, against the loop that everybody writes first.

The loop is one process: PaddleOCR as it comes, with the same models and as many threads as its engine takes by itself,
one page after the other; it stores nothing. Fanfold runs with one OCR process a core. Both are held to the same cores:
Fanfold with everything that it starts, its stores included. Models are loaded before the clock runs.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pymupdf
from rich.console import Console
from rich.table import Table

from benchmarks.running import copies, fanfold_up
from ingest.stages.models import ocr_model_dirs
from samples.build import build

MODEL = "PP-OCRv6_small"
DPI = 200
SCANS = 4  # copies of the scanned sample for each core, each with other bytes; one more warms up
_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it


def main() -> None:
    """Print the table."""
    machine = sorted(os.sched_getaffinity(0))
    table = Table(title="scanned pages a minute")
    for column in ("cores", "plain loop", "Fanfold", "ratio", "to one core"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        build(Path(directory, "pdf"))
        scan = Path(directory, "pdf", "letters.pdf")
        one_core = 0.0
        for cores in sorted({1, 2, len(machine)} & set(range(len(machine) + 1))):
            with held_to(machine[:cores]):
                plain = _plain_rate(scan, Path(directory, "models"))
                fanfold = _fanfold_rate(scan, Path(directory, f"on-{cores}"), cores)
            one_core = one_core or fanfold
            table.add_row(
                str(cores), f"{plain:.0f}", f"{fanfold:.0f}", f"{fanfold / plain:.2f}", f"{fanfold / one_core:.2f}"
            )
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


def _fanfold_rate(scan: Path, directory: Path, cores: int) -> float:
    directory.mkdir()
    first, *rest = copies(scan, directory, 1 + SCANS * cores)
    with fanfold_up(directory / "home", FANFOLD_NUM_CPUS=str(cores)) as service:
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
    main()
