"""The queue: jobs in MongoDB, and the only code that writes them.

A job is claimed, never handed out: one `find_one_and_update` raises its epoch, counts the attempt and sets the lease.
From then on every write goes through the `HeldJob` that the claim returned, and matches only while the epoch and the
holder in the database are still its own; otherwise it raises `LeaseLost` and has changed nothing. That filter, not the
lease's clock, is what makes a late writer harmless (Kleppmann, "How to do distributed locking", 2016: fencing tokens).
"""

import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING, ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ingest.errors import CancelRequested, LeaseLost, NotFound
from ingest.faults import fault_point
from ingest.model import (
    RELEASED,
    Attempt,
    FailedPage,
    Failure,
    Job,
    JobState,
    Lease,
    PipelineSpec,
    Stage,
    StageRecord,
    StageStatus,
)
from ingest.stores.mongo import mongo_errors

CLAIM_CANDIDATES = 16
PUBLISHED = tuple(state for state in JobState if state.published)


class JobStore:
    """Jobs of every tenant. Submitting, reading and asking for a cancel need no lease; all else does."""

    def __init__(self, database: Database[dict[str, Any]], *, lease_ttl_s: float, job_timeout_s: float) -> None:
        self._jobs = database["jobs"]
        self._lease_ttl = timedelta(seconds=lease_ttl_s)
        self._job_timeout = timedelta(seconds=job_timeout_s)

    def prepare(self) -> None:
        """Create the indexes where they are missing; safe to repeat and to race."""
        with mongo_errors():
            self._jobs.create_index(
                [("document_id", ASCENDING)],
                unique=True,
                partialFilterExpression={"open": True},
                name="one_open_job_a_document",
            )
            self._jobs.create_index([("document_id", ASCENDING), ("revision", ASCENDING)], unique=True)
            self._jobs.create_index([("open", ASCENDING), ("state", ASCENDING), ("available_at", ASCENDING)])
            self._jobs.create_index([("tenant", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)])

    @fault_point("jobs.now")
    def now(self) -> datetime:
        """The database's clock: the only one by which leases and waits are judged."""
        with mongo_errors():
            local_time: datetime = self._jobs.database.client.admin.command("hello")["localTime"]
        return local_time.replace(tzinfo=UTC)

    @fault_point("jobs.insert")
    def insert(self, *, tenant: str, document_id: str, revision: int, pipeline: PipelineSpec) -> Job | None:
        """Add a queued job, durable on return; None when the document has an open job or this revision already."""
        now = self.now()
        record = {
            "_id": str(uuid.uuid4()),
            "document_id": document_id,
            "tenant": tenant,
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
        }
        with mongo_errors():
            try:
                self._jobs.insert_one(record)
            except DuplicateKeyError:
                return None
        return Job.model_validate(record)

    @fault_point("jobs.job")
    def job(self, tenant: str, job_id: str) -> Job:
        """The tenant's job. Raises `NotFound`."""
        with mongo_errors():
            found = self._jobs.find_one({"_id": job_id, "tenant": tenant})
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        return Job.model_validate(found)

    @fault_point("jobs.latest")
    def latest(self, document_id: str) -> Job | None:
        """The document's newest job, which is the open one if any is."""
        with mongo_errors():
            found = self._jobs.find_one({"document_id": document_id}, sort=[("revision", DESCENDING)])
        return None if found is None else Job.model_validate(found)

    def open_jobs(self) -> Iterator[Job]:
        """Every job that holds its document: waiting, running, or settled and not yet collected."""
        with mongo_errors():
            yield from (Job.model_validate(record) for record in self._jobs.find({"open": True}))

    @fault_point("jobs.find")
    def find(
        self,
        tenant: str,
        *,
        limit: int,
        state: JobState | None = None,
        document_id: str | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[Job]:
        """The tenant's jobs, newest first, from the one behind (`created_at`, id) `before`."""
        condition: dict[str, Any] = {"tenant": tenant} | _shown_as(state)
        if document_id is not None:
            condition["document_id"] = document_id
        if before is not None:
            created_at, job_id = before
            older = [{"created_at": {"$lt": created_at}}, {"created_at": created_at, "_id": {"$lt": job_id}}]
            condition["$or"] = older
        with mongo_errors():
            found = self._jobs.find(condition).sort([("created_at", DESCENDING), ("_id", DESCENDING)]).limit(limit)
            return [Job.model_validate(record) for record in found]

    @fault_point("jobs.claim")
    def claim(self, holder: str) -> "HeldJob | None":
        """Take the job that has waited longest: a queued one, or one whose holder's lease has run out.

        Exactly one claimer gets it; None when nothing is claimable. A settled job that is not collected yet is
        claimable too, and keeps its terminal state.
        """
        now = self.now()
        claimable = [
            {"state": JobState.QUEUED, "available_at": {"$lte": now}},
            {"state": {"$ne": JobState.QUEUED}, "lease.expires_at": {"$lte": now}},
        ]
        with mongo_errors():
            candidates = self._jobs.find({"open": True, "$or": claimable}).sort("available_at", ASCENDING)
            for candidate in candidates.limit(CLAIM_CANDIDATES):
                held = self._claim_one(Job.model_validate(candidate), holder, now)
                if held is not None:
                    return held
        return None

    def _claim_one(self, seen: Job, holder: str, now: datetime) -> "HeldJob | None":
        epoch = seen.lease.epoch + 1
        change: dict[str, Any] = {
            "lease": {"holder": holder, "epoch": epoch, "expires_at": now + self._lease_ttl},
            "updated_at": now,
        }
        if not seen.state.terminal:
            change |= _next_attempt(seen, holder, epoch, now)
            change["state"] = JobState.RUNNING
            change["deadline_at"] = seen.deadline_at or now + self._job_timeout
        unchanged = {
            "_id": seen.job_id,
            "open": True,
            "state": seen.state,
            "lease.epoch": seen.lease.epoch,
            "lease.expires_at": seen.lease.expires_at,
        }
        claimed = self._jobs.find_one_and_update(
            unchanged,
            {"$set": change},
            return_document=ReturnDocument.AFTER,
        )
        return None if claimed is None else HeldJob(self, Job.model_validate(claimed))

    def write_held(self, job_id: str, lease: Lease, update: Mapping[str, Any], only_if: Mapping[str, Any]) -> Job:
        """The one door for writes to a claimed job: a MongoDB update, fenced by the lease of the claim.

        Raises `LeaseLost` when the job's epoch or holder is not that any more, also after the holder gave it back
        itself, or when `only_if` does not match.
        """
        change = {**update, "$set": {**update.get("$set", {}), "updated_at": self.now()}}
        fence = {**only_if, "_id": job_id, "lease.epoch": lease.epoch, "lease.holder": lease.holder}
        with mongo_errors():
            written = self._jobs.find_one_and_update(fence, change, return_document=ReturnDocument.AFTER)
        if written is None:
            raise LeaseLost(f"Job {job_id} is not held under epoch {lease.epoch} any more.")
        return Job.model_validate(written)

    @property
    def lease_ttl(self) -> timedelta:
        """How long a silent holder keeps a job."""
        return self._lease_ttl

    def lease_end(self) -> datetime:
        """When a lease that is granted or renewed now runs out."""
        return self.now() + self._lease_ttl


class HeldJob:
    """A claimed job: the right to write to it until another claim raises the epoch.

    Every method raises `LeaseLost` when that has happened; `job` is the record as of the last write.
    """

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self._lease = job.lease  # the claim's, whatever is written to the record later
        self.job = job

    @fault_point("jobs.renew")
    def renew(self) -> Job:
        """Push the lease's end away; the returned record shows a cancel request, if there is one."""
        return self._write({"lease.expires_at": self._store.lease_end()})

    @fault_point("jobs.repin")
    def repin(self, pipeline: PipelineSpec) -> None:
        """Record the pipeline that this attempt really runs."""
        self._write({"pipeline": pipeline.model_dump()})

    @fault_point("jobs.start_stage")
    def start_stage(self, stage: Stage) -> None:
        """The stage's work begins, or goes on after a crash (its first start is kept)."""
        started_at = self.job.stages[stage].started_at or self._store.now()
        self._write({f"stages.{stage}.status": StageStatus.RUNNING, f"stages.{stage}.started_at": started_at})

    @fault_point("jobs.finish_stage")
    def finish_stage(self, stage: Stage, checkpoint: str | None = None) -> None:
        """The stage's output is durable, under `checkpoint` if it has one."""
        self._write(
            {
                f"stages.{stage}.status": StageStatus.DONE,
                f"stages.{stage}.finished_at": self._store.now(),
                f"stages.{stage}.checkpoint": checkpoint,
            }
        )

    @fault_point("jobs.report")
    def report(self, counts: Mapping[str, int]) -> None:
        """Raise the counters of `Progress`; they never fall."""
        self._update({"$max": {f"progress.{name}": count for name, count in counts.items()}})

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
            f"stages.{Stage.PUBLISH}.started_at": self._store.now(),
        }
        try:
            self._write(decision, state=JobState.RUNNING, cancel_requested_at=None)
        except LeaseLost:
            if self.renew().cancel_requested_at is not None:
                raise CancelRequested("The job was cancelled before it was published.") from None
            raise

    @fault_point("jobs.settle")
    def settle(self, state: JobState, error: Failure | None = None) -> None:
        """Reach a terminal state. A published job stays open until `close`, for collection; the others close here."""
        failure = None if error is None else error.model_dump()
        change: dict[str, Any] = {"state": state, "error": failure, "open": state.published}
        for stage, record in self.job.stages.items():
            if record.status is StageStatus.RUNNING:
                change |= {
                    f"stages.{stage}.status": StageStatus.FAILED,
                    f"stages.{stage}.finished_at": self._store.now(),
                }
        self._write(change | self._attempt_end(state, error), state=JobState.RUNNING)

    @fault_point("jobs.requeue")
    def requeue(self, error: Failure, *, delay_s: float) -> None:
        """Give the job back for another attempt after `delay_s` seconds; the error is the attempt's."""
        available_at = self._store.now() + timedelta(seconds=delay_s)
        change = {
            "state": JobState.QUEUED,
            "available_at": available_at,
            "lease.holder": None,
            "lease.expires_at": available_at,
        }
        self._write(change | self._attempt_end("requeued", error), state=JobState.RUNNING)

    @fault_point("jobs.release")
    def release(self) -> None:
        """Give the job back untouched, for whoever claims it next: the supervisor is shutting down."""
        now = self._store.now()
        change = {"state": JobState.QUEUED, "available_at": now, "lease.holder": None, "lease.expires_at": now}
        self._write(change | self._attempt_end(RELEASED, None), state=JobState.RUNNING)

    @fault_point("jobs.close")
    def close(self) -> None:
        """Nothing of a published job is left to do: let the document have another one."""
        self._write({"open": False, "lease.holder": None}, state={"$in": PUBLISHED})

    def _attempt_end(self, outcome: str, error: Failure | None) -> dict[str, Any]:
        last = len(self.job.attempts) - 1
        return {
            f"attempts.{last}.ended_at": self._store.now(),
            f"attempts.{last}.outcome": outcome,
            f"attempts.{last}.error": None if error is None else error.model_dump(),
        }

    def _write(self, change: Mapping[str, Any], **only_if: Any) -> Job:
        return self._update({"$set": change}, **only_if)

    def _update(self, update: Mapping[str, Any], **only_if: Any) -> Job:
        self.job = self._store.write_held(self.job.job_id, self._lease, update, only_if)
        return self.job


def _next_attempt(seen: Job, holder: str, epoch: int, now: datetime) -> dict[str, Any]:
    """The fields that record a new attempt, and the end of one that never said it ended."""
    number = len(seen.attempts)
    attempt = Attempt(number=number + 1, epoch=epoch, holder=holder, started_at=now, units_at_start=seen.progress.units)
    change: dict[str, Any] = {f"attempts.{number}": attempt.model_dump()}
    if seen.attempts and seen.attempts[-1].ended_at is None:
        change[f"attempts.{number - 1}.ended_at"] = now
        change[f"attempts.{number - 1}.outcome"] = "lost"
    return change


def _shown_as(state: JobState | None) -> dict[str, Any]:
    """The filter for jobs that users see in this state."""
    if state is None:
        return {}
    if state is JobState.CANCELLING:
        return {"state": {"$in": [JobState.QUEUED, JobState.RUNNING]}, "cancel_requested_at": {"$ne": None}}
    if state.terminal:
        return {"state": state}
    return {"state": state, "cancel_requested_at": None}
