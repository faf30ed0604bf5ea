"""Fixtures of the integration tests."""

from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.jobs import JobStore
from ingest.submission import Upload
from tests.builders import an_upload
from tests.integration.bench import Bench
from tests.pdfs import SCAN, pdf_of

TEXT = "The harbour master keeps the tide tables in a drawer beneath the window. "


@pytest.fixture
def jobs(database: Database[dict[str, Any]]) -> JobStore:
    """An empty queue whose leases outlast every test."""
    store = JobStore(database, lease_ttl_s=60, job_timeout_s=600)
    store.prepare()
    return store


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """A PDF with three text pages and three scanned ones (pages 2, 4 and 6)."""
    pages = [f"Page {number}. {TEXT * 12}" if number % 2 else SCAN for number in range(1, 7)]
    return an_upload(tmp_path, pdf_of(pages), filename="harbour.pdf")


@pytest.fixture
def bench(database: Database[dict[str, Any]], stores: Stores, settings: Settings, upload: Upload) -> Bench:
    """That document on its way, with empty stores."""
    return Bench(database, stores, settings.model_copy(update={"embedding_batch_chunks": 2}), upload)
