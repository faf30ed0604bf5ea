"""What the end of an attempt, or of a job, adds to the metrics, read from the job's record."""

from cluster.metrics import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    CANCEL_SECONDS,
    JOBS_ENDED,
    LEASE_LOSSES,
    RETRIES,
    ROLLBACKS,
    STAGE_SECONDS,
)
from ingest.model import Job, JobState, StageStatus

LOST, REQUEUED = "lost", "requeued"  # of an attempt's `outcome`, see `HeldJob`


def outcome_of(job: Job) -> str:
    """How the job's last attempt ended, as far as its holder knows: `lost` when it could not write that any more."""
    return job.attempts[-1].outcome or LOST


def attempt_ended(job: Job, *, seconds: float) -> None:
    """Count an attempt, and its job if that has ended with it."""
    outcome, error = outcome_of(job), job.attempts[-1].error
    category = "" if error is None else error.category
    ATTEMPTS.inc(outcome=outcome, category=category)
    ATTEMPT_SECONDS.observe(seconds)
    if outcome == LOST:
        LEASE_LOSSES.inc()
    elif outcome == REQUEUED:
        RETRIES.inc(category=category)
    elif job.state.terminal:
        job_ended(job)


def job_ended(job: Job) -> None:
    """Count a job, in the process that has ended it: a supervisor's, or an HTTP replica's that cancelled it at once."""
    JOBS_ENDED.inc(state=job.state)
    if not job.state.published and job.may_have_rows:
        ROLLBACKS.inc(state=job.state)
    ended_at = job.attempts[-1].ended_at if job.attempts else job.updated_at
    if job.state is JobState.CANCELLED and job.cancel_requested_at is not None and ended_at is not None:
        CANCEL_SECONDS.observe(max(0.0, (ended_at - job.cancel_requested_at).total_seconds()))
    for stage, record in job.stages.items():
        if record.status is StageStatus.DONE and record.started_at is not None and record.finished_at is not None:
            STAGE_SECONDS.observe((record.finished_at - record.started_at).total_seconds(), stage=stage)
