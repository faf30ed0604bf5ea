"""The eight failures of a naive background job, each a test of its name (7 is in tests/crash/test_stuck_page.py).

Each runs on Fanfold, where it must pass, and on the pipeline that everybody writes first, where it must fail: so the
tests are seen to be able to fail.
"""

import asyncio
import hashlib
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from pymongo.database import Database

from ingest.errors import StoreMismatch
from ingest.model import Job, JobState
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.submission import Upload, submit
from tests.conftest import PIPELINE
from tests.integration.engines import InlineEngine
from tests.integration.naive import COLLECTION, NaivePipeline, Trouble
from tests.integration.queue import claim_next
from tests.pdfs import SCAN, pdf_of

PAGES = 6
TEXT = "The harbour master keeps the tide tables in a drawer beneath the window. "


class Killed(BaseException):
    """Stands for SIGKILL."""


class Broken(StoreMismatch):
    """A step that fails once."""


class Subject(Protocol):
    """A pipeline under test: one document, driven by hand."""

    pages_read: Counter[int]

    def submit(self, data: bytes) -> None:
        """Hand the document in; when this returns, it was accepted."""

    def work(self, trouble: Trouble) -> None:
        """A worker does what there is to do. `trouble` is called before each page, chunk and point batch."""

    def retry(self) -> None:
        """What an operator does after a failure."""

    def restart(self) -> None:
        """The worker's process is gone; another one starts."""

    def cancel(self) -> None:
        """Ask for the job to stop."""

    def state(self) -> str:
        """What users are told."""

    def chunks(self) -> list[str]:
        """The texts in MongoDB."""

    def points(self) -> int:
        """How many points are in Qdrant."""


class Naive:
    """The naive pipeline as a subject."""

    def __init__(self, database: Database[dict[str, Any]], directory: Path) -> None:
        self._pipeline = NaivePipeline(database, directory)
        self._job_id = ""
        self.pages_read = self._pipeline.pages_read

    def submit(self, data: bytes) -> None:
        """See `Subject`."""
        self._job_id = self._pipeline.submit(data)

    def work(self, trouble: Trouble) -> None:
        """See `Subject`."""
        self._pipeline.work(trouble)

    def retry(self) -> None:
        """See `Subject`."""
        self._pipeline.retry(self._job_id)

    def restart(self) -> None:
        """See `Subject`."""
        self._pipeline.queue.clear()
        self._pipeline.states.clear()

    def cancel(self) -> None:
        """See `Subject`."""
        self._pipeline.cancel(self._job_id)

    def state(self) -> str:
        """See `Subject`."""
        return self._pipeline.states.get(self._job_id, "unknown")

    def chunks(self) -> list[str]:
        """See `Subject`."""
        return [chunk["text"] for chunk in self._pipeline.chunks.find()]

    def points(self) -> int:
        """See `Subject`."""
        return self._pipeline.qdrant.count(COLLECTION).count


class Fanfold:
    """Fanfold's pipeline as a subject, on the real stores; OCR and the model are stood in for."""

    def __init__(self, database: Database[dict[str, Any]], stores: Stores, settings: Settings, directory: Path) -> None:
        self._database, self._stores, self._directory = database, stores, directory
        self._settings = settings.model_copy(update={"retry_delay_s": 0.0, "embedding_batch_chunks": 2})
        self._job_id = ""
        self.pages_read: Counter[int] = Counter()

    def submit(self, data: bytes) -> None:
        """See `Subject`."""
        path = self._directory / "upload.pdf"
        path.write_bytes(data)
        upload = Upload(path, "upload.pdf", hashlib.sha256(data).hexdigest(), len(data))
        self._job_id = submit(self._stores, upload, tenant="default", pipeline=PIPELINE).job.job_id
        path.unlink()

    def work(self, trouble: Trouble) -> None:
        """See `Subject`."""
        names = {"read_page": "page", "embed": "chunk", "store": "point"}

        async def before(call: str, number: int) -> None:
            if call in names:
                await asyncio.to_thread(trouble, names[call], number)
            if call == "read_page":
                self.pages_read[number] += 1

        while (held := claim_next(self._stores.jobs, "worker")) is not None:
            engine = InlineEngine(self._stores, self._settings, before)
            asyncio.run(Pipeline(held, self._stores, engine, PIPELINE, self._settings).run())

    def retry(self) -> None:
        """Nothing to do: a failed attempt goes back to the queue by itself."""

    def restart(self) -> None:
        """See `Subject`."""
        past = self._stores.jobs.now() - timedelta(seconds=1)
        self._database["jobs"].update_many({}, {"$set": {"lease.expires_at": past}})

    def cancel(self) -> None:
        """See `Subject`."""
        self._stores.jobs.request_cancel(self._job_id)

    def state(self) -> str:
        """See `Subject`."""
        return self._job().state

    def chunks(self) -> list[str]:
        """See `Subject`."""
        return [chunk["text"] for chunk in self._database["chunks"].find()]

    def points(self) -> int:
        """See `Subject`."""
        return self._stores.vectors.count()

    def _job(self) -> Job:
        return self._stores.jobs.job("default", self._job_id)


@pytest.fixture(
    params=[
        "fanfold",
        pytest.param(
            "naive", marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason="the naive pipeline fails")
        ),
    ]
)
def subject(
    request: pytest.FixtureRequest,
    database: Database[dict[str, Any]],
    stores: Stores,
    settings: Settings,
    tmp_path: Path,
) -> Subject:
    """Fanfold, and then the pipeline that everybody writes first."""
    if request.param == "naive":
        return Naive(database, tmp_path)
    return Fanfold(database, stores, settings, tmp_path)


DOCUMENT = pdf_of([f"Page {number}. {TEXT * 12}" if number % 2 else SCAN for number in range(1, PAGES + 1)])


def once(step: str, number: int, error: BaseException) -> Trouble:
    """Raise the error the first time that this step comes."""
    left = [error]

    def trouble(given: str, given_number: int) -> None:
        if (given, given_number) == (step, number) and left:
            raise left.pop()

    return trouble


def no_trouble(_step: str, _number: int) -> None:
    """Everything works."""


def test_1_a_retry_does_not_duplicate_what_was_written(subject: Subject) -> None:
    """After a failure in the middle of storing, and the same file again: every text is there once, with one point."""
    subject.submit(DOCUMENT)
    subject.work(once("point", 1, Broken("Once.")))
    subject.submit(DOCUMENT)
    subject.work(no_trouble)
    assert len(subject.chunks()) == len(set(subject.chunks())) == subject.points()
    assert subject.state() == JobState.SUCCEEDED


def test_2_the_source_outlives_what_a_retry_needs(subject: Subject) -> None:
    """A failure after the last page was read, and then a success: the file was still there."""
    subject.submit(DOCUMENT)
    subject.work(once("chunk", 1, Broken("Once.")))
    subject.retry()
    subject.work(no_trouble)
    assert subject.state() == JobState.SUCCEEDED
    assert any("page 6" in text for text in subject.chunks())


def test_3_ids_are_the_same_in_every_attempt(subject: Subject) -> None:
    """Two ingestions of the same bytes write the same rows, not others beside them."""
    subject.submit(DOCUMENT)
    subject.work(no_trouble)
    texts = sorted(subject.chunks())
    subject.submit(DOCUMENT)
    subject.work(no_trouble)
    assert sorted(subject.chunks()) == texts
    assert subject.points() == len(texts)


def test_4_one_late_failure_does_not_run_everything_again(subject: Subject) -> None:
    """No page that was read before the failure is read again after it."""
    subject.submit(DOCUMENT)
    subject.work(once("page", 6, Broken("Once.")))
    subject.retry()
    subject.work(no_trouble)
    assert subject.state() == JobState.SUCCEEDED
    assert set(subject.pages_read.values()) == {1}


def test_5_an_accepted_job_does_not_vanish_with_its_worker(subject: Subject) -> None:
    """The worker's process dies in the middle; the next one finds the job and finishes it."""
    subject.submit(DOCUMENT)
    with pytest.raises(Killed):
        subject.work(once("page", 4, Killed()))
    subject.restart()
    subject.work(no_trouble)
    assert subject.state() == JobState.SUCCEEDED


def test_6_cancel_cancels(subject: Subject) -> None:
    """A cancel in the middle of storing: the state says so, and nothing is left in either store."""
    subject.submit(DOCUMENT)

    def cancel_then_go_on(step: str, number: int) -> None:
        if (step, number) == ("point", 1):
            subject.cancel()
            threading.Event().wait(1.5)

    subject.work(cancel_then_go_on)
    assert subject.state() == JobState.CANCELLED
    assert subject.chunks() == []
    assert subject.points() == 0


def test_8_partial_writes_are_not_orphaned_across_two_stores(subject: Subject) -> None:
    """When it is said to be over after a failure between the stores, both hold the same, whole document."""
    subject.submit(DOCUMENT)
    subject.work(once("point", 1, Broken("Once.")))
    assert len(subject.chunks()) == subject.points()
    assert subject.state() == JobState.SUCCEEDED
