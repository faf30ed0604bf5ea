"""Fixtures of the integration tests."""

from typing import Any

import pytest
from pymongo.database import Database

from ingest.stores.jobs import JobStore


@pytest.fixture
def jobs(database: Database[dict[str, Any]]) -> JobStore:
    """An empty queue whose leases outlast every test."""
    store = JobStore(database, lease_ttl_s=60, job_timeout_s=600)
    store.prepare()
    return store
