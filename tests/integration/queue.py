"""What the tests of the queue share: an empty one, a job in it, a claim of it."""

from ingest.model import Job
from ingest.stores.jobs import HeldJob, JobStore
from tests.builders import TENANT, pipeline_named


def insert(jobs: JobStore, document_id: str = "d", *, revision: int = 1, tenant: str = TENANT) -> Job:
    """A new job."""
    job = jobs.insert(tenant=tenant, document_id=document_id, revision=revision, pipeline=pipeline_named("p"))
    assert job is not None
    return job


def claim(jobs: JobStore, holder: str = "a") -> HeldJob:
    """A claim that succeeds."""
    held = jobs.claim(holder)
    assert held is not None
    return held
