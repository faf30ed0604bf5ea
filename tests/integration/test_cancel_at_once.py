"""A job that nobody has claimed, of a document that nobody has worked on, is cancelled in one write; no other is."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.database import Database

from ingest import ids
from ingest.cancellation import Cancellation, cancel
from ingest.deletion import delete
from ingest.errors import WorkerCrashed
from ingest.model import Job, JobState
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.submission import retry
from serve import schemas
from serve.schemas import JobView
from tests.builders import at_once
from tests.checks import assert_invariants, assert_nothing_left
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, failing
from tests.integration.queue import claim, claim_next, collect_and_close, insert
from tests.integration.web import Web
from tests.pdfs import pdf_of

DatabaseOf = Database[dict[str, Any]]
ROUNDS = 10


def cancel_latest(bench: Bench, job: Job, **changes: Any) -> Cancellation:
    """Cancel the job as its record is now."""
    settings = bench.settings.model_copy(update=changes)
    return cancel(bench.stores, settings, bench.stores.jobs.job("default", job.job_id))


def sweep_now(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """Its time has come: a supervisor opens, claims and collects it."""
    past = stores.jobs.now() - timedelta(seconds=1)
    database["jobs"].update_one({"_id": job.job_id}, {"$set": {"sweep_at": past}})
    assert stores.jobs.reopen_due() == 1
    held = claim(stores.jobs, "sweeper")
    collect_and_close(stores, held)


def test_it_is_cancelled_and_closed_at_once(bench: Bench) -> None:
    """No attempt, nothing to claim; the source stays for a retry, and a sweep is due when the time for one is over."""
    job = bench.submit()
    cancellation = cancel_latest(bench, job)
    ended = bench.stores.jobs.job("default", job.job_id)
    assert cancellation == Cancellation(ended, ended=True)
    assert (ended.state, ended.open, ended.attempts, ended.notify_at) == (JobState.CANCELLED, False, [], None)
    assert ended.cancel_requested_at == ended.updated_at
    assert ended.sweep_at == ended.updated_at + timedelta(seconds=bench.settings.retry_window_s)
    assert claim_next(bench.stores.jobs, "late") is None
    assert bench.stores.jobs.claim_ending("late", limit=9) == []
    assert bench.stores.objects.exists(ids.source_key(job.document_id))
    assert_invariants(bench.stores)


def test_again_it_changes_nothing_and_ends_nothing(bench: Bench) -> None:
    """The second request shows the first one's end, and is not the one that ended the job."""
    job = bench.submit()
    first = cancel_latest(bench, job)
    assert cancel_latest(bench, job) == Cancellation(first.job, ended=False)
    assert cancel(bench.stores, bench.settings, job) == Cancellation(first.job, ended=False)  # read before the first


def test_what_it_keeps_is_swept_when_no_retry_can_come_any_more(bench: Bench, database: DatabaseOf) -> None:
    """The source goes, the job stays as it ended, and is not swept again."""
    job = bench.submit()
    cancel_latest(bench, job)
    sweep_now(bench.stores, database, job)
    swept = bench.stores.jobs.job("default", job.job_id)
    assert (swept.state, swept.attempts, swept.open, swept.sweep_at) == (JobState.CANCELLED, [], False, None)
    assert_nothing_left(bench.stores, job.document_id, 1)
    assert_invariants(bench.stores)


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_of_claim_and_cancel_at_the_same_moment_exactly_one_wins(bench: Bench, round_number: int) -> None:
    """Either the job is ended and never claimed, or it is claimed and its holder finds the request."""
    job = bench.submit()

    def claim_or_cancel(number: int) -> Any:
        return (
            cancel(bench.stores, bench.settings, job) if number else claim_next(bench.stores.jobs, f"h {round_number}")
        )

    held, cancellation = at_once(2, claim_or_cancel)
    record = bench.stores.jobs.job("default", job.job_id)
    assert cancellation.ended is (held is None)
    assert record.cancel_requested_at is not None
    assert (record.state, len(record.attempts), record.lease.epoch) == (
        (JobState.CANCELLED, 0, 0) if held is None else (JobState.RUNNING, 1, 1)
    )


async def test_the_same_bytes_get_a_new_job_right_after(bench: Bench) -> None:
    """Its source is there; cancelled unclaimed too, and retried, the document is published in the end."""
    first = bench.submit()
    cancel_latest(bench, first)
    second = bench.submit()
    assert (second.revision, second.state) == (2, JobState.QUEUED)
    assert cancel_latest(bench, second).ended
    third = retry(bench.stores, bench.stores.jobs.job("default", second.job_id), pipeline=PIPELINE).job
    ended = await bench.run(bench.claim())
    assert (ended.job_id, ended.state) == (third.job_id, JobState.SUCCEEDED)
    bench.assert_published_exactly(ended)
    assert_invariants(bench.stores)


async def test_a_job_that_waits_for_its_next_attempt_is_rolled_back_instead(bench: Bench) -> None:
    """Queued, and claimed before: it is `cancelling` until the next claim has undone what the first one did."""
    job = bench.submit()
    waiting = await bench.run(bench.claim(), failing("store", 0, WorkerCrashed("It died.")))
    assert waiting.state is JobState.QUEUED
    cancellation = cancel_latest(bench, job)
    assert (cancellation.ended, cancellation.job.shown_state) == (False, JobState.CANCELLING)
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.CANCELLED
    bench.assert_no_rows(ended)
    assert_invariants(bench.stores)


async def test_a_document_that_was_worked_on_is_looked_at_first(bench: Bench) -> None:
    """What an earlier job kept for a retry is gone when the retry, though unclaimed, says `cancelled`."""
    bench.settings = bench.settings.model_copy(update={"max_attempts": 1, "retry_delay_s": 0})
    bench.submit()
    for outcome in (JobState.QUEUED, JobState.FAILED):  # with progress, then without
        failed = await bench.run(bench.claim(), failing("cut", 0, WorkerCrashed("It died.")))
        assert failed.state is outcome
    assert bench.stores.objects.keys(ids.checkpoint_prefix(failed.document_id))
    again = retry(bench.stores, failed, pipeline=PIPELINE).job
    cancellation = cancel_latest(bench, again)
    assert (cancellation.ended, cancellation.job.shown_state) == (False, JobState.CANCELLING)
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.CANCELLED
    assert bench.stores.objects.keys(ids.checkpoint_prefix(failed.document_id)) == []
    assert_invariants(bench.stores)


def test_a_delete_afterwards_sweeps_the_document(bench: Bench) -> None:
    """At once, not when the time for a retry is over."""
    job = bench.submit()
    cancel_latest(bench, job)
    delete(bench.stores, "default", job.document_id)
    assert bench.stores.jobs.reopen_due() == 1
    collect_and_close(bench.stores, bench.claim("sweeper"))
    assert_nothing_left(bench.stores, job.document_id, 1)


async def test_a_delete_that_found_no_job_is_obeyed_too(bench: Bench) -> None:
    """Tombstone first, the job a moment later: cancelled the ordinary way, whose collection leaves nothing."""
    job = bench.submit()
    bench.stores.catalog.tombstone("default", job.document_id, deleted_at=bench.stores.jobs.now())
    assert not cancel_latest(bench, job).ended
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.CANCELLED
    assert_nothing_left(bench.stores, job.document_id, 1)


def test_the_webhook_is_told(bench: Bench) -> None:
    """As of every end; without a webhook nobody is."""
    job = bench.submit()
    cancel_latest(bench, job, webhook_url=SecretStr("http://receiver.example"))
    told = bench.stores.jobs.take_notice(again_in=timedelta(seconds=30))
    assert told is not None
    assert (told.job_id, JobView.of(told).state) == (job.job_id, JobState.CANCELLED)


def test_others_are_untouched(bench: Bench) -> None:
    """Cancelling by the dozen leaves the one that runs and the one that waits as they were."""
    bench.submit()
    held = bench.claim()
    waiting = insert(bench.stores.jobs, "waiting")
    for number in range(12):
        other = insert(bench.stores.jobs, f"other {number}")
        assert bench.stores.jobs.cancel_unclaimed(other.job_id, keep_for=timedelta(), notify=False) is not None
    assert held.look().lease.epoch == 1
    assert bench.stores.jobs.job("default", waiting.job_id) == waiting


def test_over_http_it_is_answered_with_200_and_counted_once(stores: Stores, settings: Settings) -> None:
    """`cancelled` in the answer, in the job and as the one event of its stream; 200 again; nobody counts it twice."""
    web = Web(stores, settings)
    client = web.client()
    submitted = client.post("/v1/documents", files={"file": ("a.pdf", pdf_of(["Ahoy."]))}).json()
    path = f"/v1/jobs/{submitted['job_id']}"
    answers = [client.post(f"{path}/cancel") for _ in range(2)]
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "cancelled")] * 2
    assert client.get(path).json() == answers[0].json()
    assert [job.job_id for job in web.reported] == [submitted["job_id"]]
    events = client.get(f"{path}/events").text
    assert events.count("event: state") == 1
    assert '"state":"cancelled"' in events
    assert client.get("/v1/jobs", params={"state": "cancelled"}).json()["jobs"] == [answers[0].json()]
    again = client.post("/v1/documents", files={"file": ("a.pdf", pdf_of(["Ahoy."]))})
    assert Path(again.headers["location"]).name == again.json()["job_id"]


def test_over_http_many_are_cancelled_in_one_call(stores: Stores, settings: Settings) -> None:
    """One answer each, in their order, as each would have got it alone; what is refused is its own."""
    web = Web(stores, settings)
    client = web.client()
    files = [{"file": (f"{name}.pdf", pdf_of([name]))} for name in ("held", "waiting", "done")]
    held, waiting, done = [client.post("/v1/documents", files=file).json()["job_id"] for file in files]
    assert claim_next(stores.jobs, "supervisor") is not None
    client.post(f"/v1/jobs/{done}/cancel")
    answer = client.post("/v1/jobs/cancel", json={"job_ids": [held, "unknown", waiting, done]})
    assert answer.status_code == 207
    told = [
        (one["job_id"], one["status"], (one["job"] or one["problem"]).get("state")) for one in answer.json()["jobs"]
    ]
    assert told == [
        (held, 202, "cancelling"),
        ("unknown", 404, None),
        (waiting, 200, "cancelled"),
        (done, 200, "cancelled"),
    ]
    assert {job.job_id for job in web.reported} == {waiting, done}
    assert client.post("/v1/jobs/cancel", json={"job_ids": []}).status_code == 422
    assert client.post("/v1/jobs/cancel", json={"job_ids": ["x"] * (schemas.MAX_CANCELS + 1)}).status_code == 422


def test_an_id_that_is_no_text_is_refused(stores: Stores, settings: Settings) -> None:
    """Half of a surrogate pair, which JSON can write and no store can hold: 422, not an error of ours."""
    client = Web(stores, settings).client(**{"Content-Type": "application/json"})
    answer = client.post("/v1/jobs/cancel", content=rb'{"job_ids": ["\ud800"]}')
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:fanfold:invalid-request")
    assert "not Unicode" in answer.json()["detail"]


def test_over_http_a_claimed_job_is_cancelling(stores: Stores, settings: Settings) -> None:
    """202, and whoever holds it will report its end."""
    web = Web(stores, settings)
    client = web.client()
    submitted = client.post("/v1/documents", files={"file": ("a.pdf", pdf_of(["Ahoy."]))}).json()
    assert claim_next(stores.jobs, "supervisor") is not None
    answer = client.post(f"/v1/jobs/{submitted['job_id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelling")
    assert web.reported == []
