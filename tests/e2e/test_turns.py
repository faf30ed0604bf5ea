"""A scanned letter behind a scanned book, with real OCR."""

from pathlib import Path

from ingest.model import JobState
from ingest.turns import Priority
from tests.clusters import Cluster
from tests.pdfs import SCAN, pdf_of

PAGES = 60


def test_a_letter_behind_a_book_is_published_in_the_time_of_a_few_pages(cluster: Cluster, tmp_path: Path) -> None:
    """Sent while the book is read, with a high priority: it is published before the book is half done."""
    book, letter = tmp_path / "book.pdf", tmp_path / "letter.pdf"
    book.write_bytes(pdf_of([SCAN] * PAGES))
    letter.write_bytes(pdf_of([SCAN]))
    reading = cluster.client.submit(book)
    while not cluster.client.job(reading.job_id, wait=0.2).progress.pages_done:
        pass
    before = cluster.client.job(reading.job_id).progress.pages_done
    sent = cluster.client.submit(letter, priority=Priority.HIGH)
    ended = cluster.finish(sent.job_id)
    after = cluster.client.job(reading.job_id)
    cluster.client.cancel(reading.job_id)
    assert (ended.state, ended.priority) == (JobState.SUCCEEDED, Priority.HIGH)
    assert cluster.client.document(ended.document_id).published_revision == 1
    assert not after.state.terminal
    assert after.progress.pages_done - before < PAGES / 2
    assert cluster.finish(reading.job_id).state is JobState.CANCELLED
