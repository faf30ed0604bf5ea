"""Bad input gets a clear error and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ingest.errors import Category
from ingest.model import JobState
from tests.checks import assert_nothing_left
from tests.clusters import Cluster
from tests.pdfs import encrypted_pdf, pdf_of, pdf_without_pages


def truncated() -> bytes:
    """The first bytes of a PDF."""
    return pdf_of(["A page of text. " * 50])[:300]


def header_only() -> bytes:
    """A PDF header and then nothing that is one."""
    return b"%PDF-1.7\n" + b"this is not a document\n" * 20


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        pytest.param(b"", 400, "urn:fanfold:empty-file", id="empty"),
        pytest.param(b"only a text file, renamed", 400, "urn:fanfold:not-a-pdf", id="text renamed .pdf"),
    ],
)
def test_what_can_be_seen_without_parsing_is_refused_at_submit(
    cluster: Cluster, body: bytes, status: int, kind: str
) -> None:
    """400 with a problem body that says what to do; no document, no job, no object."""
    before = cluster.stores.objects.keys("sources/")
    jobs = {job.job_id for job in cluster.client.jobs(limit=500)}
    answer = httpx.post(f"{cluster.settings.http_url}/v1/documents", files={"file": ("letter.pdf", body)})
    assert (answer.status_code, answer.json()["type"]) == (status, kind)
    assert answer.headers["content-type"] == "application/problem+json"
    assert cluster.stores.objects.keys("sources/") == before
    assert {job.job_id for job in cluster.client.jobs(limit=500)} == jobs


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(encrypted_pdf, "password", id="encrypted"),
        pytest.param(truncated, "damaged", id="truncated"),
        pytest.param(pdf_without_pages, "no page", id="zero pages"),
        pytest.param(header_only, "damaged", id="header only"),
    ],
)
def test_what_only_parsing_shows_ends_failed_with_a_message(
    cluster: Cluster, tmp_path: Path, make: Callable[[], bytes], words: str
) -> None:
    """The job fails at once (one attempt), says why in words for the user, and nothing is left behind."""
    path = tmp_path / "bad.pdf"
    path.write_bytes(make())
    job = cluster.ingest(path)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.category is Category.INPUT
    assert not job.error.retryable
    assert words in job.error.message.lower()
    assert len(job.attempts) == 1
    assert_nothing_left(cluster.stores, job.document_id, job.revision)


def test_a_file_over_the_limit_is_refused_while_it_arrives(cluster: Cluster) -> None:
    """413 with the limit in words, for a raw body and for a form."""
    body = b"%PDF-1.7\n" + bytes(cluster.settings.max_upload_bytes)
    url = f"{cluster.settings.http_url}/v1/documents"
    raw = httpx.post(url, content=body, headers={"Content-Type": "application/pdf"}, timeout=60)
    form = httpx.post(url, files={"file": ("big.pdf", body)}, timeout=60)
    assert (raw.status_code, form.status_code) == (413, 413)
    assert str(cluster.settings.max_upload_bytes) in raw.json()["detail"]


def test_too_many_pages_are_refused_with_the_limit(cluster: Cluster, tmp_path: Path) -> None:
    """A document over `FANFOLD_MAX_PAGES` fails and says what the limit is."""
    path = tmp_path / "long.pdf"
    path.write_bytes(pdf_of([""] * (cluster.settings.max_pages + 1)))
    job = cluster.ingest(path)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert str(cluster.settings.max_pages) in job.error.message
