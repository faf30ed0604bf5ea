"""What the metrics say of the queue is what is in it."""

from datetime import timedelta
from typing import Any

from pymongo.database import Database

from ingest.model import JobState
from ingest.stores.jobs import JobStore
from tests.builders import KEEP_NOTHING
from tests.integration.queue import claim, insert


def submit(jobs: JobStore, document_id: str) -> str:
    """A queued job; its id."""
    return insert(jobs, document_id).job_id


def test_an_empty_queue_has_no_age(jobs: JobStore) -> None:
    """Zero of everything, not an error."""
    backlog = jobs.backlog()
    assert (set(backlog.jobs.values()), backlog.oldest_s) == ({0}, 0.0)


def test_jobs_are_counted_as_users_see_them(jobs: JobStore) -> None:
    """Each open job once, in its shown state; those that have ended in none."""
    for name in ("a", "b", "c", "d"):
        submit(jobs, name)
    held = claim(jobs)
    held.settle(JobState.SUCCEEDED)
    held.close(keeping=KEEP_NOTHING, sweep_at=None)
    claim(jobs)
    jobs.request_cancel(submit(jobs, "e"))
    assert jobs.backlog().jobs == {JobState.QUEUED: 2, JobState.RUNNING: 1, JobState.CANCELLING: 1}


def test_the_age_is_that_of_the_job_that_could_have_been_claimed_first(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """By the database's clock; a job that waits for its next attempt is not late."""
    long_ago, later = submit(jobs, "a"), submit(jobs, "b")
    for job_id, wait in ((long_ago, timedelta(minutes=-5)), (later, timedelta(minutes=5))):
        database["jobs"].update_one({"_id": job_id}, {"$set": {"available_at": jobs.now() + wait}})
    assert 300 <= jobs.backlog().oldest_s < 360
    database["jobs"].update_one({"_id": long_ago}, {"$set": {"available_at": jobs.now() + timedelta(minutes=5)}})
    assert jobs.backlog().oldest_s == 0.0
