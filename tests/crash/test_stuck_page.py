"""Failure 7: no time limits. A page whose rendering does not return (real native code, deep inside MuPDF)."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ingest.model import JobState, PageFailure
from tests.checks import assert_invariants, assert_published_exactly
from tests.clusters import Cluster
from tests.pdfs import SCAN, endless_page, pdf_of

NAIVE_LOOP = "import sys, pymupdf\nfor page in pymupdf.open(sys.argv[1]):\n    page.get_pixmap(dpi=200)"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Five pages; the third takes minutes to render."""
    path = tmp_path / "book.pdf"
    path.write_bytes(endless_page(pdf_of(["The first page.", SCAN, "Third.", SCAN, "The fifth page."]), 3))
    return path


def test_7_a_page_that_never_returns_costs_itself_and_nothing_else(cluster: Cluster, book: Path) -> None:
    """It is ended by FANFOLD_PAGE_TIMEOUT_S, tried once more, listed as `timeout`; the other four are published."""
    started_at = time.monotonic()
    job = cluster.ingest(book)
    assert job.state is JobState.PARTIALLY_SUCCEEDED, job.error
    assert [(page.page_number, page.reason) for page in job.failed_pages] == [(3, PageFailure.TIMEOUT)]
    assert job.progress.pages_done == job.progress.pages_total == 5
    assert time.monotonic() - started_at < 5 * cluster.settings.page_timeout_s
    texts = " ".join(chunk.text for chunk in cluster.client.chunks(job.document_id))
    assert "The first page." in texts
    assert "The fifth page." in texts
    assert_published_exactly(cluster.stores, job, complete=False, keep_source=True)
    assert_invariants(cluster.stores, keep_source=True)


@pytest.mark.slow
def test_7_the_loop_that_everybody_writes_first_hangs_on_it(cluster: Cluster, book: Path) -> None:
    """The same file, a plain loop: still at it when Fanfold has long given the page up."""
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", NAIVE_LOOP, str(book)], timeout=2 * cluster.settings.page_timeout_s, check=True
        )
