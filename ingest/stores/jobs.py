"""The queue: jobs in MongoDB, and the only code that writes them.

A job is claimed, never handed out: one compare-and-set raises its epoch, counts the attempt and sets the lease.
From then on every write goes through the `HeldJob` that the claim returned, and matches only while the epoch and the
holder in the database are still its own; otherwise it raises `LeaseLost` and has changed nothing. That filter, not the
lease's clock, is what makes a late writer harmless (Kleppmann, "How to do distributed locking", 2016: fencing tokens).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ingest.errors import LeaseLost, NotFound, StoreError
from ingest.faults import fault_point
from ingest.model import Job, JobState, Lease, PipelineSpec, Stage, StageStatus
from ingest.stores.clock import Clock
from ingest.stores.held import HeldJob
from ingest.stores.jobrecords import TICKET, new_job, next_attempt, readable, shown_as, ticket_of
from ingest.stores.mongo import mongo_errors, update_and_read
from ingest.turns import Priority, Ticket

CLAIM_CANDIDATES = 16
WAITING = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
WITH_WORK: Mapping[str, Any] = {"state": {"$in": [JobState.QUEUED, JobState.RUNNING]}, "cancel_requested_at": None}
WITHOUT_WORK: tuple[Mapping[str, Any], ...] = (  # open jobs that are to be cancelled, or have ended: only collected
    {"state": JobState.QUEUED, "cancel_requested_at": {"$gt": BEFORE_ALL}},
    {"state": JobState.RUNNING, "cancel_requested_at": {"$gt": BEFORE_ALL}},
    {"state": {"$in": [state for state in JobState if state.terminal]}},
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to be done."""

    jobs: Mapping[JobState, int]  # by the state that users see, of those that have not ended
    oldest_s: float  # how long the job that has waited longest could have been claimed; 0 when none waits


class JobStore:
    """Jobs of every tenant. Submitting, reading and asking for a cancel need no lease; all else does."""

    def __init__(self, database: Database[dict[str, Any]], *, lease_ttl_s: float, job_timeout_s: float) -> None:
        self._jobs = database["jobs"]
        self._clock = Clock(database)
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
            self._jobs.create_index([("open", ASCENDING), ("state", ASCENDING), ("cancel_requested_at", ASCENDING)])
            self._jobs.create_index([("tenant", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)])
            self._jobs.create_index([("open", ASCENDING), ("sweep_at", ASCENDING)])
            self._jobs.create_index([("notify_at", ASCENDING)])

    @fault_point("jobs.now")
    def now(self) -> datetime:
        """The database's clock: the only one by which leases and waits are judged."""
        return self._clock.now()

    @fault_point("jobs.insert")
    def insert(  # noqa: PLR0913  # what a job is made of
        self,
        *,
        tenant: str,
        document_id: str,
        revision: int,
        pipeline: PipelineSpec,
        filename: str = "",
        priority: Priority = Priority.NORMAL,
    ) -> Job | None:
        """Add a queued job, durable on return; None when the document has an open job or this revision already."""
        record = new_job(
            self.now(),
            tenant=tenant,
            document_id=document_id,
            revision=revision,
            pipeline=pipeline,
            filename=filename,
            priority=priority,
        )
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
            found = self._newest(document_id)
        return None if found is None else Job.model_validate(found)

    def _newest(self, document_id: str) -> Mapping[str, Any] | None:
        return self._jobs.find_one({"document_id": document_id}, sort=[("revision", DESCENDING)])

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
        condition: dict[str, Any] = {"tenant": tenant} | shown_as(state)
        if document_id is not None:
            condition["document_id"] = document_id
        if before is not None:
            created_at, job_id = before
            older = [{"created_at": {"$lt": created_at}}, {"created_at": created_at, "_id": {"$lt": job_id}}]
            condition["$or"] = older
        with mongo_errors():
            found = self._jobs.find(condition).sort([("created_at", DESCENDING), ("_id", DESCENDING)]).limit(limit)
            return [Job.model_validate(record) for record in found]

    @fault_point("jobs.count_waiting")
    def count_waiting(self, limit: int, *, tenant: str | None = None) -> int:
        """How many jobs wait to be claimed, of one tenant or of all, counted no further than `limit`."""
        waiting = {"open": True, "state": JobState.QUEUED} | ({} if tenant is None else {"tenant": tenant})
        with mongo_errors():
            return self._jobs.count_documents(waiting, limit=limit)

    def backlog(self) -> Backlog:
        """How much is to be done, of all tenants. Nothing is decided by it."""
        now = self.now()
        waiting = {"open": True, "state": JobState.QUEUED, "available_at": {"$lte": now}}
        with mongo_errors():
            jobs = {state: self._jobs.count_documents({"open": True, **shown_as(state)}) for state in WAITING}
            oldest = self._jobs.find_one(waiting, {"available_at": 1}, sort=[("available_at", ASCENDING)])
        waited = timedelta() if oldest is None else now - oldest["available_at"]
        return Backlog(jobs=jobs, oldest_s=waited.total_seconds())

    @fault_point("jobs.request_cancel")
    def request_cancel(self, job_id: str) -> Job:
        """Ask for the job to stop; its record afterwards. Needs no lease, and may be repeated.

        Exactly one of this and `HeldJob.decide_publish` wins: the record shows a cancel request, or that it came too
        late. A job that waits becomes claimable at once, so that its rollback does not wait with it.
        """
        undecided = {
            "_id": job_id,
            "state": {"$in": [JobState.QUEUED, JobState.RUNNING]},
            "cancel_requested_at": None,
            f"stages.{Stage.PUBLISH}.status": StageStatus.PENDING,
        }
        now = self.now()
        request = {
            "$set": {"cancel_requested_at": now},
            "$min": {"available_at": now},
            "$max": {"updated_at": now},
        }
        with mongo_errors():
            self._jobs.update_one(undecided, request)
            found = self._jobs.find_one({"_id": job_id})
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        return Job.model_validate(found)

    @fault_point("jobs.cancel_unclaimed")
    def cancel_unclaimed(self, job_id: str, *, keep_for: timedelta, notify: bool) -> Job | None:
        """End a job that nobody has claimed yet as `cancelled`, and close it, all in one write; its record then.

        None, and nothing changed, when it was claimed, or asked to stop, before. Exactly one of this and `claim` wins.
        The caller knows that there is nothing to undo. A sweep comes after `keep_for`; `notify`: the webhook is told.
        """
        now = self.now()
        end = {
            "state": JobState.CANCELLED,
            "cancel_requested_at": now,
            "open": False,
            "sweep_at": now + keep_for,
            "notify_at": now if notify else None,
            "updated_at": now,
        }
        unclaimed = {"_id": job_id, "lease.epoch": 0, "cancel_requested_at": None}
        with mongo_errors():
            if not self._jobs.update_one(unclaimed, {"$set": end}).matched_count:
                return None
            return Job.model_validate(self._jobs.find_one({"_id": job_id}))

    @fault_point("jobs.was_worked_on")
    def was_worked_on(self, document_id: str) -> bool:
        """Whether any job of the document was ever attempted."""
        with mongo_errors():
            return self._jobs.find_one({"document_id": document_id, "attempts": {"$ne": []}}) is not None

    @fault_point("jobs.request_sweep")
    def request_sweep(self, job_id: str) -> None:
        """Ask for what is left of the job's document to be looked at as soon as nobody holds it."""
        with mongo_errors():
            self._jobs.update_one({"_id": job_id}, {"$set": {"sweep_at": self.now()}})

    @fault_point("jobs.reopen_due")
    def reopen_due(self) -> int:
        """Open the closed jobs whose sweep is due, so that they are claimed and collected once more; how many.

        A job that is not its document's newest any more has nothing left to sweep: the newer one sees to it.
        """
        due = {"open": False, "sweep_at": {"$lte": self.now()}}
        reopened = 0
        with mongo_errors():
            for record in self._jobs.find(due).sort("sweep_at", ASCENDING).limit(CLAIM_CANDIDATES):
                seen = {"_id": record["_id"], "open": False, "sweep_at": record["sweep_at"]}
                newest = self._newest(record["document_id"])
                if newest is None or newest["_id"] != record["_id"]:
                    self._jobs.update_one(seen, {"$set": {"sweep_at": None}})
                    continue
                with suppress(DuplicateKeyError):  # the document has got a newer job in this moment
                    reopened += self._jobs.update_one(seen, {"$set": {"open": True}}).modified_count
        return reopened

    @fault_point("jobs.take_notice")
    def take_notice(self, *, again_in: timedelta) -> Job | None:
        """The job whose end the webhook must hear of next, counted as tried; due again if the taker dies."""
        now = self.now()
        taken = {"$set": {"notify_at": now + again_in}, "$inc": {"notices": 1}}
        with mongo_errors():
            due = self._jobs.find({"notify_at": {"$lte": now}}).sort("notify_at", ASCENDING)
            for record in due.limit(CLAIM_CANDIDATES):
                if readable(record) is None:
                    continue
                seen = {"_id": record["_id"], "notify_at": record["notify_at"]}
                found = update_and_read(self._jobs, seen, taken, {})
                return None if found is None else Job.model_validate(found)
        return None

    @fault_point("jobs.postpone_notice")
    def postpone_notice(self, job_id: str, pause: timedelta) -> None:
        """It did not arrive: try again after the pause."""
        with mongo_errors():
            self._jobs.update_one({"_id": job_id}, {"$set": {"notify_at": self.now() + pause}})

    @fault_point("jobs.end_notice")
    def end_notice(self, job_id: str) -> None:
        """It arrived, or is given up."""
        with mongo_errors():
            self._jobs.update_one({"_id": job_id}, {"$set": {"notify_at": None}})

    @fault_point("jobs.waiting")
    def waiting(self, *, limit: int, since: datetime | None = None) -> list[Ticket]:
        """The queued jobs, those first that have waited longest; with `since`, only those that came after it.

        Also those that wait for another attempt, until their `available_at`.
        """
        queued: dict[str, Any] = {"open": True, "state": JobState.QUEUED}
        if since is not None:
            queued["available_at"] = {"$gt": since}
        with mongo_errors():
            found = self._jobs.find(queued, TICKET).sort("available_at", ASCENDING).limit(limit)
            return [ticket_of(record) for record in found]

    @fault_point("jobs.abandoned")
    def abandoned(self) -> list[Ticket]:
        """The jobs that were claimed, have work, and whose holder's lease has run out: all but `claim_ending`'s."""
        now = self.now()
        with mongo_errors():  # the lease is looked at here: one range of an index then serves every server
            found = self._jobs.find({"open": True, "state": JobState.RUNNING, "cancel_requested_at": None}, TICKET)
            return [ticket_of(record) for record in found if record["lease"]["expires_at"] <= now]

    @fault_point("jobs.claim")
    def claim(self, holder: str, job_id: str, *, for_work: bool = False) -> HeldJob | None:
        """Take this job: a queued one, or one whose holder's lease has run out.

        Exactly one claimer gets it; None when it is not claimable. A settled job that is not collected yet is
        claimable too, and keeps its terminal state; `for_work`, it is left to `claim_ending`.
        """
        claimed_at, now = time.monotonic(), self.now()
        with mongo_errors():
            found = self._jobs.find_one({"_id": job_id, "open": True, **(WITH_WORK if for_work else {})})
            return self._take(found, holder, now=now, claimed_at=claimed_at)

    @fault_point("jobs.claim_ending")
    def claim_ending(self, holder: str, *, limit: int) -> list[HeldJob]:
        """Take jobs that only have to be rolled back or collected, so many at the most, each as `claim` would.

        One of each kind after the other: a thousand cancels hold no delete up.
        """
        held: list[HeldJob] = []
        kinds = [self._claim({"open": True, **kind}, holder, limit=limit) for kind in WITHOUT_WORK]
        try:
            while kinds and len(held) < limit:
                one = next(kinds[0], None)
                kinds = kinds[1:] if one is None else [*kinds[1:], kinds[0]]
                held += [] if one is None else [one]
        except StoreError:
            if not held:  # those that were claimed are to be worked on
                raise
        return held

    def _claim(self, condition: Mapping[str, Any], holder: str, *, limit: int) -> Iterator[HeldJob]:
        """Take the claimable ones of these jobs, one after the other, those first that have waited longest."""
        claimed_at, now = time.monotonic(), self.now()
        with mongo_errors():
            for record in self._jobs.find(condition).sort("available_at", ASCENDING):
                if limit <= 0:
                    return
                held = self._take(record, holder, now=now, claimed_at=claimed_at)
                if held is not None:
                    limit -= 1
                    yield held

    def _take(
        self, record: Mapping[str, Any] | None, holder: str, *, now: datetime, claimed_at: float
    ) -> HeldJob | None:
        """Claim the job as it was found; None when it is not claimable, or another claimer was first."""
        seen = None if record is None else readable(record)
        claimed = None if seen is None or not seen.claimable(now) else self._claim_one(seen, holder, now)
        return None if claimed is None else HeldJob(self, claimed, claimed_at=claimed_at)

    def _claim_one(self, seen: Job, holder: str, now: datetime) -> Job | None:
        epoch = seen.lease.epoch + 1
        change: dict[str, Any] = {
            "lease": {"holder": holder, "epoch": epoch, "expires_at": now + self._lease_ttl},
            "updated_at": now,
        }
        if not seen.state.terminal:
            change |= next_attempt(seen, holder, epoch, now)
            change["state"] = JobState.RUNNING
            change["deadline_at"] = now + self._job_timeout - seen.worked
        unchanged = {
            "_id": seen.job_id,
            "open": True,
            "state": seen.state,
            "lease.epoch": seen.lease.epoch,
            "lease.expires_at": seen.lease.expires_at,
        }
        claimed = update_and_read(self._jobs, unchanged, {"$set": change}, {"lease.epoch": epoch})
        return None if claimed is None else Job.model_validate(claimed)

    def write_held(self, job_id: str, lease: Lease, update: Mapping[str, Any], only_if: Mapping[str, Any]) -> Job:
        """The one door for writes to a claimed job: a MongoDB update, fenced by the lease of the claim.

        Raises `LeaseLost` when the job's epoch or holder is not that any more, also after the holder gave it back
        itself, or when `only_if` does not match; and when the next holder has claimed the job since the write.
        """
        stamp = {"updated_at": self.now()}  # never falls, though each process has an estimate of the clock of its own
        change = {**update, "$max": {**update.get("$max", {}), **stamp}}
        fence = {**only_if, "_id": job_id, "lease.epoch": lease.epoch, "lease.holder": lease.holder}
        with mongo_errors():
            written = update_and_read(self._jobs, fence, change, {"lease.epoch": lease.epoch})
        if written is None:
            raise LeaseLost(f"Job {job_id} is not held under epoch {lease.epoch} any more.")
        return Job.model_validate(written)

    def read_held(self, job_id: str, lease: Lease) -> Job:
        """The record of a claimed job. Raises `LeaseLost` as `write_held` does."""
        with mongo_errors():
            found = self._jobs.find_one({"_id": job_id, "lease.epoch": lease.epoch, "lease.holder": lease.holder})
        if found is None:
            raise LeaseLost(f"Job {job_id} is not held under epoch {lease.epoch} any more.")
        return Job.model_validate(found)

    @property
    def lease_ttl(self) -> timedelta:
        """How long a silent holder keeps a job."""
        return self._lease_ttl

    def renewal(self, worked: timedelta | None) -> dict[str, Any]:
        """What a renewal of the lease sets now, for a job at work since so long; None for one that has ended."""
        now = self.now()
        deadline = {} if worked is None else {"deadline_at": now + self._job_timeout - worked}
        return {"lease.expires_at": now + self._lease_ttl, **deadline}
