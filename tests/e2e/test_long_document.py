"""A 500-page born-digital book."""

from pathlib import Path

from ingest.model import JobState
from samples.pages import page_texts
from tests.checks import assert_published_exactly
from tests.clusters import Cluster, tasks_called
from tests.pdfs import pdf_of

PAGES = 500


def test_a_500_page_book_is_published_without_one_ocr_call(cluster: Cluster, tmp_path: Path) -> None:
    """`succeeded`, every page found by search where it is, and no OCR task was ever submitted for it."""
    texts = page_texts("field-guide")
    pages = [f"Sheet {number} of the long book.\n\n{texts[number % len(texts)][:500]}" for number in range(PAGES)]
    path = tmp_path / "book.pdf"
    path.write_bytes(pdf_of(pages))
    before = len(tasks_called("ocr"))
    job = cluster.ingest(path)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.progress.pages_done == PAGES
    assert_published_exactly(cluster.stores, job, keep_source=True)
    assert tasks_called("inspect"), "Ray remembers none"
    assert len(tasks_called("ocr")) == before
