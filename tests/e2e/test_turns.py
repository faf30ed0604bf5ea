"""A scanned letter behind a scanned book, with real OCR."""

from pathlib import Path
from typing import Any

import pymupdf
import pytest

from ingest.model import JobState
from ingest.turns import Priority
from tests.clusters import Cluster

_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it
BOOK_PAGES = 100
FEW_PAGES = 40  # of the book, while the letter is inspected, read, cut, embedded and published: 7 or 8 on quiet cores


def scanned(path: Path, source: Path, pages: int) -> Path:
    """A PDF of so many scans: those of the source over and over, each with a mark of its own."""
    book, scans = _mupdf.open(), _mupdf.open(source)
    for number in range(pages):
        scan = number % len(scans)
        book.insert_pdf(scans, from_page=scan, to_page=scan)
        book[-1].draw_line((20, 20), (20, 30 + number))
    book.save(path)
    return path


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.HIGH])
def test_a_letter_behind_a_book_is_searchable_in_the_time_of_a_few_pages(
    cluster: Cluster, sample_pdfs: Path, tmp_path: Path, priority: Priority
) -> None:
    """Sent while the book is read, by the same tenant: found while the book has got no further than a few pages."""
    scans = sample_pdfs / "letters.pdf"
    reading = cluster.client.submit(scanned(tmp_path / f"book-{priority}.pdf", scans, BOOK_PAGES))
    while not cluster.client.job(reading.job_id, wait=0.2).progress.pages_done:
        pass
    before = cluster.client.job(reading.job_id).progress.pages_done
    sent = cluster.client.submit(scanned(tmp_path / f"letter-{priority}.pdf", scans, 1), priority=priority)
    ended = cluster.finish(sent.job_id)
    found = cluster.client.search("a letter", document_ids=[ended.document_id])
    after = cluster.client.job(reading.job_id)
    cluster.client.cancel(reading.job_id)
    assert (ended.state, ended.priority) == (JobState.SUCCEEDED, priority)
    assert {hit.document_id for hit in found} == {ended.document_id}
    assert after.progress.pages_done - before <= FEW_PAGES
    assert cluster.finish(reading.job_id).state is JobState.CANCELLED
