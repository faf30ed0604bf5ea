"""What the tests of the queue share: an empty one, a job in it, a claim of it."""

from datetime import timedelta

from ingest.collection import collect
from ingest.model import Job, Keeping
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.stores.jobs import JobStore
from tests.builders import KEEP_NOTHING, TENANT, pipeline_named


def insert(jobs: JobStore, document_id: str = "d", *, revision: int = 1, tenant: str = TENANT) -> Job:
    """A new job."""
    job = jobs.insert(tenant=tenant, document_id=document_id, revision=revision, pipeline=pipeline_named("p"))
    assert job is not None
    return job


def collect_and_close(stores: Stores, held: HeldJob, keeping: Keeping = KEEP_NOTHING) -> None:
    """What comes after a job has ended, as the pipeline does it."""
    closed = False
    while not closed:
        window = timedelta(days=7)
        sweep_at = collect(stores, held.job, keeping=keeping, retry_window=window, still_ours=lambda: None)
        closed = held.close(keeping=keeping, sweep_at=sweep_at)


def claim_next(jobs: JobStore, holder: str = "a") -> HeldJob | None:
    """A supervisor's claim of what has waited longest, whosever it is; None when nothing can be claimed."""
    waiting = sorted([*jobs.waiting(limit=100), *jobs.abandoned()], key=lambda ticket: ticket.available_at)
    claims = (jobs.claim(holder, ticket.job_id) for ticket in waiting)
    held = next((held for held in claims if held is not None), None)
    return held or next(iter(jobs.claim_ending(holder, limit=1)), None)


def claim(jobs: JobStore, holder: str = "a") -> HeldJob:
    """A claim that succeeds."""
    held = claim_next(jobs, holder)
    assert held is not None
    return held
