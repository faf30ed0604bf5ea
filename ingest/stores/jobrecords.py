"""Jobs as MongoDB holds them: a new one, a new attempt at one, and which of them are shown in a state."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from ingest.model import Attempt, Job, JobState, PipelineSpec, Stage, StageRecord
from ingest.telemetry import get_logger
from ingest.turns import RANKS, Priority, Ticket

log = get_logger()

MOST_ATTEMPTS = 100  # without progress, in a job's record; FANFOLD_MAX_ATTEMPTS are fewer
TICKET = {"tenant": 1, "priority": 1, "available_at": 1, "lease.expires_at": 1}  # the fields of a ticket


def new_job(  # noqa: PLR0913  # what a job is made of
    now: datetime,
    *,
    tenant: str,
    document_id: str,
    revision: int,
    pipeline: PipelineSpec,
    filename: str,
    priority: Priority,
) -> dict[str, Any]:
    """The record of a job that waits to be claimed."""
    return {
        "_id": str(uuid.uuid4()),
        "document_id": document_id,
        "tenant": tenant,
        "filename": filename,
        "priority": priority,
        "revision": revision,
        "state": JobState.QUEUED,
        "stages": {stage: StageRecord().model_dump() for stage in Stage},
        "progress": {},
        "attempts": [],
        "lease": {"holder": None, "epoch": 0, "expires_at": now},
        "cancel_requested_at": None,
        "error": None,
        "failed_pages": [],
        "pipeline": pipeline.model_dump(),
        "available_at": now,
        "deadline_at": None,
        "created_at": now,
        "updated_at": now,
        "open": True,
        "notify_at": None,
        "notices": 0,
        "sweep_at": None,
    }


def next_attempt(seen: Job, holder: str, epoch: int, now: datetime) -> dict[str, Any]:
    """The fields that record a new attempt, and the end of one that never said it ended.

    A job that cannot even be ended, because a store refuses its rollback, is claimed again and again: its record does
    not grow for ever.
    """
    units, number = seen.progress.units, len(seen.attempts)
    attempt = Attempt(number=number + 1, epoch=epoch, holder=holder, started_at=now, units_at_start=units)
    last = seen.attempts[-1] if seen.attempts else None
    if last is not None and seen.stalled_attempts >= MOST_ATTEMPTS:
        again = attempt.model_copy(update={"number": number, "worked_s": last.worked_s})
        return {f"attempts.{number - 1}": again.model_dump()}
    change: dict[str, Any] = {f"attempts.{number}": attempt.model_dump()}
    if last is not None and last.ended_at is None:
        change[f"attempts.{number - 1}.ended_at"] = seen.updated_at  # its last sign of life
        change[f"attempts.{number - 1}.outcome"] = "lost"
    return change


def readable(record: Mapping[str, Any]) -> Job | None:
    """The job; None where a newer version has written what this one does not know: it is left to that version."""
    try:
        return Job.model_validate(record)
    except ValidationError as error:
        log.warning("a job of a newer version is left alone", job_id=record["_id"], errors=error.error_count())
        return None


def ticket_of(record: Mapping[str, Any]) -> Ticket:
    """The ticket that a record, read with `TICKET`, stands for."""
    rank = RANKS.get(record.get("priority", ""), Priority.NORMAL.rank)  # other versions have none, or others
    return Ticket(rank, record["available_at"], record["_id"], record["tenant"])


def shown_as(state: JobState | None) -> dict[str, Any]:
    """The filter for jobs that users see in this state."""
    if state is None:
        return {}
    if state is JobState.CANCELLING:
        return {"state": {"$in": [JobState.QUEUED, JobState.RUNNING]}, "cancel_requested_at": {"$ne": None}}
    if state.terminal:
        return {"state": state}
    return {"state": state, "cancel_requested_at": None}
