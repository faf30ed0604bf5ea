"""What must hold: in every state, at every step, and when everything has come to rest. See the contract, section 8."""

from functools import cache
from typing import Any

from ingest import ids
from ingest.errors import Category
from ingest.model import JobState, StageStatus
from tests.model.calls import Call
from tests.model.mongo import Record
from tests.model.programs import CHUNKS
from tests.model.world import Table, World

MOST_ATTEMPTS = 12
DESERVED = {Category.UNREADABLE, Category.CRASH}  # failures that an activity reported, or attempts that were used up


class Violation(Exception):  # reads as what happened, like the error tree
    """An invariant does not hold."""

    def after(self, schedule: list[str]) -> "Violation":
        """The same, with the steps that led to it."""
        steps = "\n".join(f"  {number:3} {step}" for number, step in enumerate(schedule, start=1))
        return Violation(f"{self}\n{steps}")


def ensure(condition: object, message: str) -> None:
    """Raise `Violation` unless it holds."""
    if not condition:
        raise Violation(message)


@cache
def manifest(document_id: str, revision: int) -> frozenset[str]:
    """The ids of a revision's chunks."""
    return frozenset(ids.chunk_ids(document_id, revision, len(CHUNKS)))


def rows(table: Table, document_id: str, revision: int) -> frozenset[str]:
    """The ids of a revision's rows in one store."""
    return frozenset(
        key for key, row in table.items() if (row["document_id"], row["revision"]) == (document_id, revision)
    )


def check_world(world: World) -> None:
    """What holds in every state."""
    for document in world.documents.values():
        shown = document["published_revision"]
        if shown is not None:
            whole = manifest(document["_id"], shown)
            ensure(document["deleted_at"] is None, "a deleted document is shown")
            ensure(rows(world.chunks, document["_id"], shown) == whole, f"readers see revision {shown} without chunks")
            ensure(rows(world.points, document["_id"], shown) == whole, f"readers see revision {shown} without points")
    opened = [job["document_id"] for job in world.jobs.values() if job["open"]]
    ensure(len(opened) == len(set(opened)), "two open jobs of one document")
    for job in world.jobs.values():
        check_job(job)


def check_job(job: Record) -> None:
    """What holds for every job in every state."""
    state, decided = JobState(job["state"]), job["stages"]["publish"]["status"] != StageStatus.PENDING
    cancelled = job["cancel_requested_at"] is not None
    ensure(not (cancelled and decided), "both the cancel and the publish have won")
    ensure(cancelled or state is not JobState.CANCELLED, "cancelled, although nobody was told so")
    ensure(decided or not state.published, "published without a decision")
    ensure(job["open"] or state.terminal, "closed before it has ended")
    at_work = any(attempt["ended_at"] is None for attempt in job["attempts"])
    ensure(not (at_work and state.terminal), "ended in the middle of an attempt")


def check_step(before: World, after: World, call: Call, epoch: int | None) -> None:
    """What holds at every step, by a supervisor whose claim has this epoch, or by anybody."""
    if after.jobs is before.jobs:
        return
    for key, job in before.jobs.items():
        now = after.jobs[key]
        if now is job:
            continue
        ensure(now["lease"]["epoch"] >= job["lease"]["epoch"], "the epoch fell")
        ensure(now["state"] == job["state"] or not JobState(job["state"]).terminal, "a terminal state changed")
        if call.takes_job:
            waits = job["available_at"] if job["state"] == JobState.QUEUED else job["lease"]["expires_at"]
            ensure(waits <= before.now, "a job was claimed that somebody holds")
            ensure(now["lease"]["epoch"] == job["lease"]["epoch"] + 1, "a claim did not raise the epoch by one")
        elif call.method == "find_one_and_update":
            ensure(epoch == job["lease"]["epoch"], f"a write of epoch {epoch} to a job of {job['lease']['epoch']}")
        if now["state"] != job["state"] and now["state"] in {JobState.CANCELLED, JobState.FAILED}:
            check_rolled_back(after, now)
            ensure(job["sweep_at"] in {None, now["sweep_at"]}, "ended, and a sweep that was asked for is put off")


def check_rolled_back(world: World, job: Record) -> None:
    """An attempt that ends without a publish leaves none of its rows."""
    for table in (world.chunks, world.points):
        left = [
            row
            for row in table.values()
            if (row["document_id"], row["revision"], row["epoch"])
            == (job["document_id"], job["revision"], job["lease"]["epoch"])
        ]
        ensure(not left, f"{job['state']}, and rows of it are left")


def check_end(world: World, users: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    """What holds when everything has come to rest. `users`: what each of them asked for, and was told."""
    for job in world.jobs.values():
        ensure(JobState(job["state"]).terminal, "an accepted job never ends")
        ensure(not job["open"], "a job is never collected")
        ensure(len(job["attempts"]) <= MOST_ATTEMPTS, "attempts without bound")
    for document in world.documents.values():
        check_document(world, document)
        for actions, answers in users:
            for action, answer in zip(actions, answers, strict=True):
                if action == "cancel" or (len(users) == 1 and action == actions[-1]):
                    check_promise(world, document, action, answer)


def check_document(world: World, document: Record) -> None:
    """What is left of a document when everything has come to rest."""
    key, shown = document["_id"], document["published_revision"]
    latest = max(world.jobs.values(), key=lambda job: int(job["revision"]))
    whole = manifest(key, shown) if shown is not None else frozenset()
    late = world.late if document["deleted_at"] is None else frozenset()
    ensure(world.chunks.keys() - late <= whole, "chunks are left that nobody sees")
    ensure({f"point {key}" for key in world.points.keys() - whole} <= late, "points are left that nobody sees")
    ensure(world.objects <= late, f"objects are left: {sorted(world.objects)}")
    if document["deleted_at"] is None:
        state, error = JobState(latest["state"]), latest["error"]
        ensure(error is None or error["category"] in DESERVED, f"failed, although nothing was wrong: {error}")
        ensure(not state.published or shown == latest["revision"], "succeeded, and readers do not see it")


def check_promise(world: World, document: Record, last: str, answer: Any) -> None:
    """What the answer to the last thing that was asked for promised."""
    if last == "delete" and answer == "deleted":
        ensure(document["deleted_at"] is not None, "deleted, and there again")
    if last in {"submit", "retry"} and answer in world.jobs:
        failed = world.jobs[answer]["state"] == JobState.FAILED and document["deleted_at"] is None
        ensure(failed or document["published_revision"] is not None, f"told that {answer} does it; nobody did")
    if last == "cancel":
        ended = world.jobs["job-1"]["state"]
        ensure((ended == JobState.CANCELLED) is (answer == "cancelling"), f"told {answer}, ended {ended}")
