"""What the actors do, in production's words: a supervisor's attempt, a sweep, what users ask for."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ingest import ids
from ingest.cancellation import cancel
from ingest.checkpoints import Checkpoints
from ingest.deletion import delete
from ingest.errors import Conflict, NotFound
from ingest.model import ChunkPlan, Inspection, Job, Revision
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.catalog import Catalog
from ingest.stores.clock import Clock
from ingest.stores.jobs import JobStore
from ingest.stores.receipts import ReceiptStore
from ingest.stores.roster import Roster
from ingest.stores.vectors import VectorStore
from ingest.submission import Upload, retry, submit
from ingest.tenure import Tenure
from tests.builders import TENANT, pipeline_named, some_chunks
from tests.model.calls import Replay, ask
from tests.model.mongo import Database, Objects, Qdrant
from tests.model.world import START

LEASE_TTL_S = 8.0
RETRY_WINDOW_S = 10_000.0
CHUNKS = some_chunks(2)
PIPELINE = pipeline_named("p")
JOB = "job-1"
JOBS = (JOB, "job-2")  # no scenario comes to more
MUTED = SimpleNamespace(info=lambda *_, **__: None, warning=lambda *_, **__: None)
REFUSED = (Conflict, NotFound)  # what a user may be told instead of "accepted"
Program = Callable[[], Any]


class ModelTenure(Tenure):
    """Production's, without a clock that runs: the heartbeat may come before any call, or not at all."""

    async def while_held(self, work: Coroutine[Any, Any, None], *, limited: bool = True) -> None:
        """The work, with heartbeats between its calls."""
        self._limited = limited
        await work

    def check_held(self) -> None:
        """Production's, by the clock as it is now."""
        _look_at_clock()
        super().check_held()

    async def write(self, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Production's, perhaps after a heartbeat."""
        await self._beat()
        return await super().write(write, *args, **kwargs)

    async def work(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Production's, perhaps after a heartbeat."""
        await self._beat()
        return await super().work(work, *args, **kwargs)

    async def _beat(self) -> None:
        """What the heartbeat does, if its time comes: stop a holder whose lease may have run out, renew, look."""
        while not self._writing.locked() and ask("beat", "comes"):
            _look_at_clock()
            super().check_held()
            await self._report(look=True)
            if self._limited:
                self._check_limits()

    async def _report(self, *, look: bool) -> None:
        """Production's, whose own writes are not preceded by another heartbeat."""
        renewal_due = Replay.running.clock - self.held.renewed_at >= LEASE_TTL_S / 4
        await super().write(self.held.renew if renewal_due or not look else self.held.look)

    async def _patiently(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return await work(*args, **kwargs)


class ModelEngine:
    """Each activity is one atomic step, but for storing: chunks, then points, by production's own stores."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def at_hand(self) -> int:
        """There is one batch."""
        return 1

    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """One page, with a text layer."""
        assert not distrusted
        assert not alone
        ask("engine", "make", self._checkpoints(revision).inspection_key, ids.source_key(revision.document_id))
        return Inspection(page_count=1, ocr_pages=(), unreadable_pages=())

    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """Never called: there is nothing to OCR."""
        raise AssertionError(revision, page_number, alone)

    async def cut(self, revision: Revision) -> ChunkPlan:
        """All chunks in one batch."""
        checkpoints = self._checkpoints(revision)
        ask("engine", "make", checkpoints.chunks_key, checkpoints.inspection_key)
        return ChunkPlan(batch_sizes=(len(CHUNKS),))

    async def embed(self, revision: Revision, batch: int, size: int) -> None:
        """One batch."""
        checkpoints = self._checkpoints(revision)
        ask("engine", "make", f"{checkpoints.vectors_prefix}{batch}", checkpoints.chunks_key)

    async def store(self, revision: Revision, batch: int) -> None:
        """Upsert the chunks, upsert the points."""
        ask("engine", "read", f"{self._checkpoints(revision).vectors_prefix}{batch}")
        self._stores.catalog.upsert_chunks(revision, CHUNKS)
        self._stores.vectors.upsert(revision, CHUNKS, np.zeros((len(CHUNKS), 1), dtype=np.float32))

    def _checkpoints(self, revision: Revision) -> Checkpoints:
        return Checkpoints(self._stores.objects, revision.document_id, revision.pipeline, revision.missing_pages)


class Programs:
    """What the actors of one exploration run."""

    def __init__(self, upload: Upload, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._upload = upload
        self._document_id = ids.document_id(TENANT, upload.sha256)
        self._settings = Settings(
            data_dir=Path("/nowhere"), lease_ttl_s=LEASE_TTL_S, retry_delay_s=0, retry_window_s=RETRY_WINDOW_S
        )
        database = cast("Any", Database())
        self._stores = Stores(
            jobs=JobStore(database, lease_ttl_s=LEASE_TTL_S, job_timeout_s=self._settings.job_timeout_s),
            catalog=Catalog(database),
            vectors=VectorStore(cast("Any", Qdrant("fanfold-model-1")), "fanfold-model-1"),
            objects=cast("Any", Objects()),
            receipts=ReceiptStore(database),
            roster=Roster(database),
        )

    def attempt(self, holder: str) -> Program:
        """A supervisor's way with one job: claim the first that it can, and run the pipeline."""

        def program() -> None:
            _look_at_clock()
            for job_id in JOBS:  # a ticket is a hint: it may come to try any of them at any time
                held = self._stores.jobs.claim(holder, job_id)
                if held is not None:
                    Replay.running.held = held
                    pipeline = Pipeline(held, self._stores, ModelEngine(self._stores), PIPELINE, self._settings)
                    self._loop.run_until_complete(pipeline.run())
                    return

        return program

    def sweep(self) -> Program:
        """A supervisor opens what is due."""
        return self._stores.jobs.reopen_due

    def user(self, *actions: str) -> Program:
        """A user asks for one thing after another; what each answer was."""

        def program() -> tuple[str, ...]:
            answers: list[str] = []  # a variable: what a function knows must be seen in it, see `actors.py`
            for action in actions:
                answers.append(self._answer(action))  # noqa: PERF401
            return tuple(answers)

        return program

    def _answer(self, action: str) -> str:
        try:
            return str(getattr(self, f"_{action}")())
        except REFUSED as error:
            return type(error).__name__

    def _submit(self) -> str:
        return submit(self._stores, self._upload, tenant=TENANT, pipeline=PIPELINE).job.job_id

    def _cancel(self) -> str:
        job = cancel(self._stores, self._settings, self._stores.jobs.job(TENANT, JOB)).job
        return "too late" if job.cancel_requested_at is None else "cancelling"

    def _delete(self) -> str:
        delete(self._stores, TENANT, self._document_id)
        return "deleted"

    def _retry(self) -> str:
        return retry(self._stores, self._stores.jobs.job(TENANT, JOB), pipeline=PIPELINE).job.job_id


def _look_at_clock() -> None:
    Replay.running.clock = ask("clock", "monotonic")


def _update_and_read(collection: Any, condition: Any, update: Any, _then: Any) -> Any:
    """One step: what others do between the two calls is as if they did it right after, when the holder looks again."""
    return collection.find_one_and_update(condition, update, return_document=True)


async def _at_once(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


class JobsByRecord:
    """`Job.model_validate`, once for each record: records and jobs are values."""

    def __init__(self) -> None:
        self._validate = Job.model_validate
        self._known: dict[int, tuple[Any, Job]] = {}

    def __call__(self, record: Any) -> Job:
        """The job of a record."""
        if id(record) not in self._known:
            self._known[id(record)] = record, self._validate(record)
        return self._known[id(record)][1]


@contextmanager
def modelled() -> Iterator[pytest.MonkeyPatch]:
    """Production's clocks, threads, pauses and random ids are the model's."""
    clock = SimpleNamespace(monotonic=lambda: Replay.running.clock, sleep=lambda _seconds: ask("user", "waits"))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("ingest.tenure", "ingest.stores.held", "ingest.stores.jobs", "ingest.submission"):
            patch.setattr(f"{module}.time", clock)
        patch.setattr("ingest.worktime.time", SimpleNamespace(monotonic=lambda: 0.0))  # no limits are explored
        for module in ("ingest.tenure", "ingest.pipeline", "ingest.cancellation"):
            patch.setattr(f"{module}.log", MUTED)
        patch.setattr("ingest.pipeline.Tenure", ModelTenure)
        patch.setattr("ingest.submission.datetime", SimpleNamespace(now=lambda _zone: START))
        patch.setattr("ingest.stores.jobrecords.uuid", SimpleNamespace(uuid4=lambda: ask("user", "new_id")))
        patch.setattr(Clock, "now", Clock._look)  # so that what is asked depends on nothing but answers
        patch.setattr("ingest.stores.clock.READ_AGAIN_S", 0)
        patch.setattr("ingest.stores.jobs.update_and_read", _update_and_read)
        patch.setattr(Job, "model_validate", JobsByRecord())
        patch.setattr(asyncio, "to_thread", _at_once)
        yield patch
