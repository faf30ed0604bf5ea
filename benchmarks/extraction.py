"""How fast text layers are read: Fanfold's inspection against a plain loop over PyMuPDF, on one core.

The plain loop only reads text. Fanfold also routes every page, normalises its text, and commits it durably.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pymupdf
from rich.console import Console
from rich.table import Table

from benchmarks.stores import local_stores
from ingest import ids
from ingest.activities import Activities
from ingest.fingerprints import pipeline_of
from ingest.model import Revision
from ingest.settings import Settings
from samples.pages import page_texts

PAGES = 500
RUNS = 3
_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it


def main() -> None:
    """Print pages a second of both, and the ratio."""
    book = _book()
    with tempfile.TemporaryDirectory() as directory:
        plain = min(_timed(partial(_plain_loop, book)) for _ in range(RUNS))
        ours = min(_timed(partial(_inspect, book, Path(directory, str(run)))) for run in range(RUNS))
    table = Table(title=f"Text layers of a {PAGES}-page book, one core, best of {RUNS}")
    for column in ("", "seconds", "pages a second"):
        table.add_column(column, justify="right")
    for name, seconds in (("plain loop, text only", plain), ("Fanfold: route, read, normalise, commit", ours)):
        table.add_row(name, f"{seconds:.2f}", f"{PAGES / seconds:.0f}")
    Console().print(table, f"Fanfold takes {ours / plain:.2f} times as long as the plain loop.")


def _timed(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def _plain_loop(book: bytes) -> int:
    document = _mupdf.open(stream=book, filetype="pdf")
    return sum(len(page.get_text()) for page in document)


def _inspect(book: bytes, home: Path) -> None:
    settings = Settings(data_dir=home)
    stores = local_stores(home)
    stores.objects.put(ids.source_key("book"), book)
    *_, _ = Activities(stores, settings).inspect(Revision("default", "book", 1, pipeline_of(settings)))


def _book() -> bytes:
    texts = page_texts("field-guide")
    document = _mupdf.open()
    for number in range(PAGES):
        document.new_page().insert_textbox((60, 60, 540, 780), f"Sheet {number}.\n\n{texts[number % len(texts)]}")
    data: bytes = document.tobytes(deflate=True)
    return data


if __name__ == "__main__":
    main()
