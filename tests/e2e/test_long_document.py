"""A 500-page born-digital book."""

from pathlib import Path

import pymupdf
from ray.util.state import list_tasks

from ingest.model import JobState
from samples.pages import page_texts
from tests.e2e.checks import assert_published_exactly
from tests.e2e.conftest import Cluster

PAGES = 500


def test_a_500_page_book_is_published_without_one_ocr_call(cluster: Cluster, tmp_path: Path) -> None:
    """`succeeded`, every page found by search where it is, and no OCR task was ever submitted for it."""
    texts = page_texts("field-guide")
    document = pymupdf.open()
    for number in range(1, PAGES + 1):
        text = f"Sheet {number} of the long book.\n\n{texts[number % len(texts)][:500]}"
        document.new_page().insert_textbox((60, 60, 540, 780), text)
    path = tmp_path / "book.pdf"
    document.save(path)
    job = cluster.ingest(path)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.progress.pages_done == PAGES
    assert_published_exactly(cluster.stores, job)
    tasks = list_tasks(limit=10_000, raise_on_missing_output=False)
    assert not [task for task in tasks if str(task.name).startswith(f"ocr {job.document_id[:8]}")]
