"""Cancelling: at once where nobody has worked on the document, else by whoever holds the job (docs/adr/0009)."""

from dataclasses import dataclass
from datetime import timedelta

from ingest.model import Job, JobState
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.telemetry import get_logger

log = get_logger()


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of a request to cancel: the job's record after it, and whether this very request ended the job."""

    job: Job
    ended: bool  # then no supervisor has seen the job, and none will report its end


def cancel(stores: Stores, settings: Settings, job: Job) -> Cancellation:
    """Stop the job. May be repeated, and comes too late once publishing is decided: the record says which.

    A job that waits for its first claim, and whose document nobody has ever worked on, has nothing to undo: it is
    `cancelled` when this returns. Every other is `cancelling` until its holder has rolled back what was done.
    """
    if _has_nothing_to_undo(stores, job):
        keep_for, notify = timedelta(seconds=settings.retry_window_s), settings.webhook_url is not None
        cancelled = stores.jobs.cancel_unclaimed(job.job_id, keep_for=keep_for, notify=notify)
        if cancelled is not None:
            log.info("cancelled unclaimed", job_id=job.job_id, document_id=job.document_id)
            return Cancellation(cancelled, ended=True)
    return Cancellation(stores.jobs.request_cancel(job.job_id), ended=False)


def _has_nothing_to_undo(stores: Stores, job: Job) -> bool:
    """Whether the document consists of its source and an unclaimed job: true for as long as the job is unclaimed.

    While the job is open no other job of the document begins, and a delete that comes later finds the job and asks
    for a sweep. One that came before may have found none: then the source goes with the job's collection.
    """
    if job.state is not JobState.QUEUED or job.lease.epoch:
        return False
    document = stores.catalog.known(job.document_id)
    if document is None or document.deleted_at is not None:
        return False
    return job.revision == 1 or not stores.jobs.was_worked_on(job.document_id)
