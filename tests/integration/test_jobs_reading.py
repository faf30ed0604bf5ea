"""Reading the queue, and the one decision between publish and cancel, against a real server."""

from typing import Any

import pytest
from pymongo.database import Database

from ingest.errors import CancelRequested, LeaseLost, NotFound
from ingest.model import JobState
from ingest.stores.jobs import JobStore
from tests.builders import KEEP_NOTHING, NOON, TENANT, at_once
from tests.integration.queue import claim, insert


def ask_for_cancel(jobs: JobStore, job_id: str) -> bool:
    """Ask for it; whether that was in time."""
    return jobs.request_cancel(job_id).cancel_requested_at is not None


def test_a_job_is_known_to_its_tenant_only(jobs: JobStore) -> None:
    """Another tenant's job is `NotFound`, exactly like one that never was."""
    job = insert(jobs, "mine", tenant="a")
    insert(jobs, "theirs", tenant="b")
    assert jobs.job("a", job.job_id) == job
    for tenant, job_id in (("b", job.job_id), ("a", "nonsense")):
        with pytest.raises(NotFound):
            jobs.job(tenant, job_id)
    assert [found.document_id for found in jobs.find("b", limit=10)] == ["theirs"]
    assert jobs.find("b", limit=10, document_id="mine") == []


def test_a_cancel_that_came_first_stops_the_publish(jobs: JobStore) -> None:
    """`decide_publish` raises `CancelRequested` and decides nothing."""
    insert(jobs)
    held = claim(jobs)
    assert ask_for_cancel(jobs, held.job.job_id)
    with pytest.raises(CancelRequested):
        held.decide_publish()
    assert not jobs.job(TENANT, held.job.job_id).publish_decided


def test_a_cancel_after_the_decision_comes_too_late(jobs: JobStore) -> None:
    """Once publishing is decided it stays decided, also for the next holder who finishes it."""
    insert(jobs)
    held = claim(jobs)
    held.decide_publish()
    assert held.job.publish_decided
    assert not ask_for_cancel(jobs, held.job.job_id)
    held.release()
    again = claim(jobs, "b")
    again.decide_publish()
    assert again.job.cancel_requested_at is None


@pytest.mark.parametrize("round_number", range(6))
def test_of_publish_and_cancel_at_the_same_moment_exactly_one_wins(
    jobs: JobStore, database: Database[dict[str, Any]], round_number: int
) -> None:
    """Whichever is first decides: never published and cancelled, never neither."""
    insert(jobs, f"d{round_number}")
    held = claim(jobs)

    def decide() -> bool:
        try:
            held.decide_publish()
        except CancelRequested:
            return False
        return True

    calls = (decide, lambda: ask_for_cancel(jobs, held.job.job_id))
    decided, cancelled = at_once(2, lambda number: calls[number]())
    assert decided != cancelled
    assert jobs.job(TENANT, held.job.job_id).publish_decided is decided


def test_an_overtaken_holder_is_told_so_and_not_that_it_was_cancelled(
    jobs: JobStore, database: Database[dict[str, Any]]
) -> None:
    """A holder that lost its lease must not roll back: a cancel of the job is the next holder's business."""
    insert(jobs)
    overtaken = claim(jobs)
    database["jobs"].update_one({"_id": overtaken.job.job_id}, {"$set": {"lease.expires_at": NOON}})
    claim(jobs, "b")
    assert ask_for_cancel(jobs, overtaken.job.job_id)
    with pytest.raises(LeaseLost):
        overtaken.decide_publish()


def test_a_renewal_shows_a_cancel_request(jobs: JobStore) -> None:
    """The heartbeat learns of a cancel from the database, whatever faster hint there is."""
    insert(jobs)
    held = claim(jobs)
    assert held.renew().cancel_requested_at is None
    ask_for_cancel(jobs, held.job.job_id)
    assert held.renew().shown_state is JobState.CANCELLING


def test_paging_visits_every_job_once_however_old(jobs: JobStore, database: Database[dict[str, Any]]) -> None:
    """25 jobs of the same millisecond, four a page: newest first by (created_at, id), none twice, none left out."""
    wanted = {insert(jobs, f"d{number}").job_id for number in range(25)}
    database["jobs"].update_many({}, {"$set": {"created_at": NOON}})
    seen: list[str] = []
    before = None
    while page := jobs.find(TENANT, limit=4, before=before):
        assert len(page) <= 4
        seen += [job.job_id for job in page]
        before = (page[-1].created_at, page[-1].job_id)
        insert(jobs, f"new {len(seen)}")  # what is added meanwhile is newer, and does not disturb
    assert seen == sorted(wanted, reverse=True)


def test_lists_are_newest_first_and_by_document(jobs: JobStore) -> None:
    """All revisions of a document, the newest first; another document's jobs are not among them."""
    first = insert(jobs, "d")
    insert(jobs, "other")
    for _ in range(2):
        held = claim(jobs)
        held.settle(JobState.CANCELLED)
        held.close(keeping=KEEP_NOTHING, sweep_at=None)
    second = insert(jobs, "d", revision=2)
    assert [job.job_id for job in jobs.find(TENANT, limit=9, document_id="d")] == [second.job_id, first.job_id]
    assert [job.job_id for job in jobs.find(TENANT, limit=1)] == [second.job_id]


def test_lists_by_state_are_by_the_state_that_is_shown(jobs: JobStore) -> None:
    """A job appears in exactly the list of its shown state: one that is being cancelled is `cancelling` only."""
    for number in range(5):
        insert(jobs, f"d{number}")
    claim(jobs).settle(JobState.SUCCEEDED)
    claim(jobs).settle(JobState.FAILED)
    claim(jobs)
    asked = claim(jobs).job
    ask_for_cancel(jobs, asked.job_id)
    shown = {job.job_id: job.shown_state for job in jobs.find(TENANT, limit=9)}
    assert shown[asked.job_id] is JobState.CANCELLING
    for state in JobState:
        listed = {job.job_id for job in jobs.find(TENANT, limit=9, state=state)}
        assert listed == {job_id for job_id, its in shown.items() if its is state}
