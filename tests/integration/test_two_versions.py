"""A rolling upgrade: an old and a new version work on the same queue, and take each other's jobs over."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ingest.errors import Category
from ingest.model import Job, JobState, PipelineSpec
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.submission import submit
from tests.builders import an_upload, pipeline_named
from tests.checks import assert_invariants, chunk_texts
from tests.integration.engines import InlineEngine
from tests.integration.queue import claim, claim_next
from tests.pdfs import SCAN, pdf_of

STOPS = ("read_page", "cut", "store")  # where the first holder of a job gives it back
UNKNOWN = {"by": "a newer version", "since": 3}  # a field
PROSE = "The harbour master keeps the tide tables in a drawer beneath the window. "


@dataclass(frozen=True)
class Version:
    """A supervisor's claim loop, as one version of the code and the settings runs it."""

    name: str
    stores: Stores
    settings: Settings
    pipeline: PipelineSpec

    async def work(self, *stops: str | None) -> None:
        """Claim a job for each stop, and give it back at the first call of that name; None: bring it to its end."""
        for stop in stops:
            await self._attempt(await asyncio.to_thread(claim, self.stores.jobs, self.name), stop)

    async def _attempt(self, held: HeldJob, stop: str | None) -> None:
        async def before(call: str, _number: int) -> None:
            if call == stop:
                attempt.cancel()
                await asyncio.sleep(60)

        engine = InlineEngine(self.stores, self.settings, before)
        pipeline = Pipeline(held, self.stores, engine, self.pipeline, self.settings)
        attempt = asyncio.create_task(pipeline.run())
        await asyncio.wait({attempt})


@pytest.fixture
def old(stores: Stores, settings: Settings) -> Version:
    """Long chunks, in batches of two."""
    return Version("old", stores, settings.model_copy(update={"embedding_batch_chunks": 2}), pipeline_named("old"))


@pytest.fixture
def new(stores: Stores, settings: Settings) -> Version:
    """Short chunks, in batches of five; OCR is the old one's."""
    changed = {"embedding_batch_chunks": 5, "chunk_tokens": 60, "chunk_overlap_tokens": 10}
    pipeline = PipelineSpec(extract=pipeline_named("old").extract, chunk="chunk-new", embed="embed-new")
    return Version("new", stores, settings.model_copy(update=changed), pipeline)


def submit_one(directory: Path, by: Version, letter: str) -> Job:
    """A document of text pages and a scan, submitted through this version's interface; its letter is all its own."""
    upload = an_upload(directory, pdf_of([f"{letter}. {PROSE * 12}", SCAN, PROSE * 9]))
    return submit(by.stores, upload, tenant="default", pipeline=by.pipeline).job


def texts(stores: Stores, job: Job) -> list[str]:
    """What readers see, but for the document's letter."""
    first, *others = chunk_texts(stores, job.document_id)
    return [first[1:], *others]


async def test_two_versions_take_each_others_jobs_over(
    old: Version, new: Version, stores: Stores, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    """Begun by one, given back in the middle, ended by the other: exact, and by the pipeline that the job then names.

    What neither knows of a job or a document, because a third version has written it, is still there afterwards.
    """
    undisturbed = {}
    for version, letter in ((old, "x"), (new, "y")):
        job = submit_one(tmp_path, version, letter)
        await version.work(None)
        undisturbed[version.name] = texts(stores, job)
    assert undisturbed["old"] != undisturbed["new"]
    by_old = [submit_one(tmp_path, old, letter) for letter in "abc"]
    by_new = [submit_one(tmp_path, new, letter) for letter in "def"]
    database["jobs"].update_many({}, {"$set": {"novelty": UNKNOWN, "stages.extract.novelty": UNKNOWN}})
    database["documents"].update_many({}, {"$set": {"novelty": UNKNOWN}})
    await old.work(*STOPS)
    await new.work(*STOPS)
    await new.work(None, None, None)
    await old.work(None, None, None)
    for job, ender in [*((job, new) for job in by_old), *((job, old) for job in by_new)]:
        ended = stores.jobs.job("default", job.job_id)
        assert ended.state is JobState.SUCCEEDED, ended.error
        assert [attempt.outcome for attempt in ended.attempts] == ["released", "succeeded"]
        assert [attempt.holder == ender.name for attempt in ended.attempts] == [False, True]
        assert ended.pipeline == ender.pipeline
        assert texts(stores, job) == undisturbed[ender.name]
    assert_invariants(stores)
    for record in database["jobs"].find():
        assert record["novelty"] == record["stages"]["extract"]["novelty"] == UNKNOWN
    assert all(record["novelty"] == UNKNOWN for record in database["documents"].find())


async def test_a_word_of_a_newer_version_is_read_by_an_older_one(
    old: Version, stores: Stores, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    """A category of errors that it does not know stops neither its claims nor its answers."""
    job = submit_one(tmp_path, old, "a")
    error = {"category": "gravity", "message": "It fell.", "retryable": True, "stage": None, "page_number": None}
    attempt = {"number": 1, "epoch": 0, "holder": "newer", "started_at": job.created_at, "units_at_start": 0}
    attempt |= {"ended_at": job.created_at, "outcome": "requeued", "error": error}
    database["jobs"].update_one({"_id": job.job_id}, {"$set": {"attempts": [attempt]}})
    await old.work(None)
    ended = stores.jobs.job("default", job.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert ended.attempts[0].error is not None
    assert ended.attempts[0].error.category is Category.INTERNAL


def test_a_job_that_an_older_version_cannot_read_is_left_to_the_newer_one(
    old: Version, stores: Stores, database: Database[dict[str, Any]], tmp_path: Path
) -> None:
    """It is not claimed, and hides no other job: neither its state nor its priority ends the claim loop."""
    unreadable, plain = (submit_one(tmp_path, old, letter) for letter in "ab")
    change = {"stages.extract.status": "paused", "priority": "urgent"}
    database["jobs"].update_one({"_id": unreadable.job_id}, {"$set": change})
    waiting = [ticket.job_id for ticket in stores.jobs.waiting(limit=10)]
    assert sorted(waiting) == sorted([unreadable.job_id, plain.job_id])
    held = [stores.jobs.claim("old", job_id) for job_id in waiting]
    assert [one.job.job_id for one in held if one is not None] == [plain.job_id]
    assert claim_next(stores.jobs, "old") is None
    left = database["jobs"].find_one({"_id": unreadable.job_id})
    assert left is not None
    assert (left["state"], left["lease"]["epoch"]) == (JobState.QUEUED, 0)
