"""A claimed job: the right to write to it until another claim raises the epoch.

Every transition that a holder can make is a method here. Each is one atomic write, fenced by the lease of the claim.
"""

import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from ingest.errors import CancelRequested, LeaseLost
from ingest.faults import fault_point
from ingest.model import (
    RELEASED,
    FailedPage,
    Failure,
    Job,
    JobState,
    Keeping,
    Lease,
    PipelineSpec,
    Stage,
    StageStatus,
)
from ingest.worktime import WorkTime

TERMINAL = tuple(state for state in JobState if state.terminal)


class Fence(Protocol):
    """The queue, as far as a holder needs it."""

    def now(self) -> datetime:
        """The database's clock."""

    def renewal(self, worked: timedelta | None) -> dict[str, Any]:
        """What a renewal of the lease sets now, for a job at work since so long; None for one that has ended."""

    def write_held(self, job_id: str, lease: Lease, update: Mapping[str, Any], only_if: Mapping[str, Any]) -> Job:
        """Write, if the job is still held under this lease. Raises `LeaseLost`."""

    def read_held(self, job_id: str, lease: Lease) -> Job:
        """Read, if the job is still held under this lease. Raises `LeaseLost`."""


class HeldJob:
    """A claimed job: the right to write to it until another claim raises the epoch.

    Every method raises `LeaseLost` when that has happened; `job` is the record as of the last write, `renewed_at` the
    monotonic instant from which the lease runs at the least: before the claim, or the last renewal, was asked for.
    """

    def __init__(self, queue: Fence, job: Job, *, claimed_at: float) -> None:
        self._queue = queue
        self._lease = job.lease  # the claim's, whatever is written to the record later
        self.job = job
        self._knowing = threading.Lock()
        self.renewed_at = claimed_at
        self.worktime = WorkTime()  # each write records it

    @fault_point("jobs.renew")
    def renew(self) -> Job:
        """Push the lease's end away; the returned record shows a cancel request, if there is one."""
        asked_at = time.monotonic()
        renewed = self._write(self._queue.renewal(None if self.job.state.terminal else self.worked))
        self.renewed_at = asked_at
        return renewed

    @fault_point("jobs.look")
    def look(self) -> Job:
        """Read the record, without renewing: it shows a cancel request, if there is one."""
        found = self._queue.read_held(self.job.job_id, self._lease)
        self._know(found)
        return found

    @fault_point("jobs.repin")
    def repin(self, pipeline: PipelineSpec) -> None:
        """Record the pipeline that this attempt really runs."""
        self._write({"pipeline": pipeline.model_dump()})

    @fault_point("jobs.start_stage")
    def start_stage(self, stage: Stage) -> None:
        """The stage's work begins, or goes on after a crash (its first start is kept)."""
        started_at = self.job.stages[stage].started_at or self._queue.now()
        self._write({f"stages.{stage}.status": StageStatus.RUNNING, f"stages.{stage}.started_at": started_at})

    @fault_point("jobs.finish_stage")
    def finish_stage(self, stage: Stage, checkpoint: str | None = None) -> None:
        """The stage's output is durable, under `checkpoint` if it has one."""
        self._write(
            {
                f"stages.{stage}.status": StageStatus.DONE,
                f"stages.{stage}.finished_at": self._queue.now(),
                f"stages.{stage}.checkpoint": checkpoint,
            }
        )

    @fault_point("jobs.report")
    def report(self, counts: Mapping[str, int]) -> None:
        """Raise the counters of `Progress`; they never fall."""
        self._update({"$max": _progress(counts)})

    @fault_point("jobs.set_pace")
    def set_pace(self, counts: Mapping[str, int], done: int) -> None:
        """Report, and measure from here, with `done` units done, how fast the running stage gets on."""
        self._update({"$max": _progress(counts), "$set": {"pace": {"since": self._queue.now(), "done": done}}})

    @fault_point("jobs.record_failed_pages")
    def record_failed_pages(self, failed_pages: list[FailedPage]) -> None:
        """Replace the list of pages that are given up."""
        self._write({"failed_pages": [page.model_dump() for page in failed_pages]})

    @fault_point("jobs.decide_publish")
    def decide_publish(self) -> None:
        """The compare-and-set after which the revision will be published, come what may.

        Raises `CancelRequested` when a cancel was first: exactly one of the two wins. A decision that an earlier
        attempt made stands.
        """
        if self.job.publish_decided:
            self.renew()
            return
        decision = {
            f"stages.{Stage.PUBLISH}.status": StageStatus.RUNNING,
            f"stages.{Stage.PUBLISH}.started_at": self._queue.now(),
        }
        self._write_uncancelled(decision)

    @fault_point("jobs.settle")
    def settle(self, state: JobState, error: Failure | None = None, *, notify: bool = False) -> None:
        """Reach a terminal state. The job stays open until `close`, for collection. `notify`: the webhook is told.

        Raises `CancelRequested` instead of failing: who was told that the job is cancelled must see it end so.
        """
        now = self._queue.now()
        change: dict[str, Any] = {"state": state, "error": None if error is None else error.model_dump()}
        if notify:
            change["notify_at"] = now
        for stage, record in self.job.stages.items():
            if record.status is StageStatus.RUNNING:
                change |= {f"stages.{stage}.status": StageStatus.FAILED, f"stages.{stage}.finished_at": now}
        change |= self._attempt_end(state, error, now)
        if state is JobState.FAILED:
            self._write_uncancelled(change)
        else:
            self._write(change, state=JobState.RUNNING)

    @fault_point("jobs.requeue")
    def requeue(self, error: Failure, *, delay_s: float) -> None:
        """Give the job back for another attempt after `delay_s` seconds; the error is the attempt's.

        Raises `CancelRequested` when there shall be none.
        """
        now = self._queue.now()
        available_at = now + timedelta(seconds=delay_s)
        change = {
            "state": JobState.QUEUED,
            "available_at": available_at,
            "lease.holder": None,
            "lease.expires_at": available_at,
        }
        self._write_uncancelled(change | self._stages_wait() | self._attempt_end("requeued", error, now))

    @fault_point("jobs.release")
    def release(self) -> None:
        """Give the job back untouched, for whoever claims it next: the supervisor is shutting down."""
        now = self._queue.now()
        change = {"state": JobState.QUEUED, "available_at": now, "lease.holder": None, "lease.expires_at": now}
        self._write(change | self._stages_wait() | self._attempt_end(RELEASED, None, now), state=JobState.RUNNING)

    @fault_point("jobs.close")
    def close(self, *, keeping: Keeping, sweep_at: datetime | None) -> bool:
        """Collected: let the document have another job, and look at what is left of this one again at `sweep_at`.

        What was to be kept is written down: fsck must not judge by the settings of whoever calls it.

        False, and nothing changed, when another sweep was asked for since the record was last read: it shows it now.
        """
        now = self._queue.now()
        change = {
            "open": False,
            "sweep_at": sweep_at,
            "keeping": keeping.model_dump(),
            "lease.holder": None,
            "lease.expires_at": now,
        }
        try:
            self._write(change, state={"$in": TERMINAL}, sweep_at=self.job.sweep_at)
        except LeaseLost:
            known = self.job.sweep_at
            if self.renew().sweep_at == known:
                raise
            return False
        return True

    @property
    def worked(self) -> timedelta:
        """How long the job was at work, in this attempt and in earlier ones."""
        earlier = sum(attempt.worked_s for attempt in self.job.attempts if attempt.epoch != self._lease.epoch)
        return timedelta(seconds=earlier + self.worktime.seconds)

    def _stages_wait(self) -> dict[str, Any]:
        """A job that waits is in no stage; that publishing is decided stays."""
        stages = self.job.stages.items()
        running = [stage for stage, record in stages if record.status is StageStatus.RUNNING]
        return {f"stages.{stage}.status": StageStatus.PENDING for stage in running if stage is not Stage.PUBLISH}

    def _attempt_end(self, outcome: str, error: Failure | None, now: datetime) -> dict[str, Any]:
        last = len(self.job.attempts) - 1
        return {
            f"attempts.{last}.ended_at": now,
            f"attempts.{last}.outcome": outcome,
            f"attempts.{last}.error": None if error is None else error.model_dump(),
        }

    def _write(self, change: Mapping[str, Any], **only_if: Any) -> Job:
        return self._update({"$set": change}, **only_if)

    def _write_uncancelled(self, change: Mapping[str, Any]) -> None:
        """Write, unless a cancel was asked for before: then raise `CancelRequested`, and nothing is changed."""
        try:
            self._write(change, state=JobState.RUNNING, cancel_requested_at=None)
        except LeaseLost:
            if self.look().cancel_requested_at is not None:
                raise CancelRequested("The job was cancelled.") from None
            raise

    def _update(self, update: Mapping[str, Any], **only_if: Any) -> Job:
        written = self._queue.write_held(self.job.job_id, self._lease, self._with_worktime(update), only_if)
        self._know(written)
        return written

    def _with_worktime(self, update: Mapping[str, Any]) -> Mapping[str, Any]:
        """The update, and how long the attempt has been at work; one that only collects what is left is none."""
        last = len(self.job.attempts) - 1
        if last < 0 or self.job.attempts[last].epoch != self._lease.epoch:
            return update
        return {**update, "$set": {**update.get("$set", {}), f"attempts.{last}.worked_s": self.worktime.seconds}}

    def _know(self, record: Job) -> None:
        """Keep the newest: a thread whose caller was cancelled may come back after the next one."""
        with self._knowing:
            if record.updated_at >= self.job.updated_at:
                self.job = record


def _progress(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"progress.{name}": count for name, count in counts.items()}
