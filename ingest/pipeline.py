"""The way of a document, top to bottom. Read `Pipeline._ingest` as the table of contents.

Runs in the supervisor, as one coroutine a job. It decides and records; the work itself is done by an `Engine`, in other
processes, and the outcome is what the stores say, never what a worker said. Whoever loses the lease stops at once and
cleans nothing up, because the next holder is already at work.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from ingest import revisions
from ingest.checkpoints import Checkpoints
from ingest.errors import (
    AttemptsExhausted,
    CancelRequested,
    DocumentGone,
    FanfoldError,
    InputError,
    LeaseLost,
    PageUnreadable,
    StoreError,
    StoreUnavailable,
    TooManyFailedPages,
    WorkError,
    WorkTimeout,
)
from ingest.failures import failed_page, failure_of
from ingest.model import ChunkPlan, FailedPage, Failure, Inspection, JobState, PipelineSpec, Revision, Stage
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.jobs import HeldJob
from ingest.telemetry import get_logger

PAGE_TRIES = 2  # a page that fails is tried once more, alone in its process, before it is given up
HEARTBEAT_S = 0.5
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
RENEWALS_PER_TTL = 4
MAX_DELAY_DOUBLINGS = 6
STOP_BEFORE_TTL = 0.8  # share of the lease after which a holder that could not renew stops itself

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()


class Engine(Protocol):
    """Runs `ingest.activities` somewhere else. Raises the activity's own error, or the `WorkError` that ended it.

    Cancelling a call stops the work: when the cancellation returns, nothing of it runs any more.
    """

    async def inspect(self, revision: Revision) -> Inspection:
        """See `Activities.inspect`."""

    async def read_page(self, revision: Revision, page_number: int) -> None:
        """See `Activities.read_page`."""

    async def cut(self, revision: Revision) -> ChunkPlan:
        """See `Activities.cut`."""

    async def embed(self, revision: Revision, batch: int) -> None:
        """See `Activities.embed`."""

    async def store(self, revision: Revision, batch: int) -> None:
        """See `Activities.store`."""


class Pipeline:
    """One attempt at one claimed job."""

    def __init__(
        self, held: HeldJob, stores: Stores, engine: Engine, pipeline: PipelineSpec, settings: Settings
    ) -> None:
        self._held = held
        self._stores = stores
        self._engine = engine
        self._pipeline = pipeline
        self._settings = settings
        self._writing = asyncio.Lock()  # one write to the job at a time, so that `held.job` is always the newest
        self._counts: dict[str, int] = {}
        self._stage: Stage | None = None

    async def run(self) -> None:
        """Bring the job as far as it can go: to a terminal state, back to the queue, or (lease lost) nowhere.

        Never raises for what a document or a store does; a cancellation of this coroutine releases the job.
        """
        try:
            await self._while_held(self._ingest())
        except asyncio.CancelledError:
            await self._write(self._held.release)
            raise
        except Exception as error:  # noqa: BLE001  # the boundary: whatever stopped the attempt is recorded in the job
            try:
                await self._while_held(self._end(error), limited=False)
            except (LeaseLost, StoreError) as failed:
                log.warning("attempt could not be ended; the next claim goes on", error=failed.message)

    async def _ingest(self) -> None:
        if not self._held.job.state.terminal:
            await self._prepare()
            inspection = await self._extract()
            plan = await self._embed()
            await self._store(plan)
            await self._publish(inspection, plan)
        await self._collect()

    async def _prepare(self) -> None:
        """Refuse what cannot go on; record which pipeline really runs."""
        job = self._held.job
        if job.publish_decided:  # nothing may stop it any more
            return
        if job.cancel_requested_at is not None:
            raise CancelRequested("The job was cancelled.")
        if job.stalled_attempts > self._settings.max_attempts:
            raise AttemptsExhausted("Every attempt died without getting any further. See the attempts for where.")
        if job.pipeline.fingerprint != self._pipeline.fingerprint:
            await self._ask(revisions.roll_back, self._stores, self._revision)  # rows of other chunks, or none
            await self._write(self._held.repin, self._pipeline)
        await self._ask(self._stores.catalog.advance, job.document_id, job.revision)

    async def _extract(self) -> Inspection:
        """Text pages in bulk with the inspection; every other page as a unit of work of its own."""
        await self._start(Stage.EXTRACT)
        inspection = await self._patiently(self._engine.inspect, self._revision)
        failed = {page.page_number: page for page in self._held.job.failed_pages}
        for page_number, reason in inspection.unreadable_pages:
            failed[page_number] = failed_page(page_number, PageUnreadable(reason))
        committed = await self._ask(self._checkpoints.committed_pages)
        waiting = [number for number in inspection.ocr_pages if number not in committed and number not in failed]
        self._counts |= {"pages_total": inspection.page_count, "pages_done": inspection.page_count - len(waiting)}

        async def read(page_number: int) -> None:
            error = await self._read_page(page_number)
            if error is not None:
                failed[page_number] = failed_page(page_number, error)
            self._counts["pages_done"] += 1

        await _all(read(page_number) for page_number in waiting)
        await self._give_up(failed, inspection.page_count)
        await self._finish(Stage.EXTRACT, self._checkpoints.inspection_key)
        return inspection

    async def _read_page(self, page_number: int) -> WorkError | None:
        """OCR one page; the error that made it be given up, if it was."""
        for tries_left in reversed(range(PAGE_TRIES)):
            try:
                await self._patiently(self._engine.read_page, self._revision, page_number)
            except WorkError as error:
                log.warning("page failed", page_number=page_number, error=error.message, tries_left=tries_left)
                if not error.retryable or tries_left == 0:
                    return error
            else:
                return None
        raise AssertionError("unreachable: the last try returns")

    async def _give_up(self, failed: dict[int, FailedPage], page_count: int) -> None:
        """Record the failed pages before anything is made without them, or refuse to make it."""
        pages = [failed[page_number] for page_number in sorted(failed)]
        if pages != self._held.job.failed_pages:
            await self._write(self._held.record_failed_pages, pages)
        if len(pages) > self._settings.max_failed_page_ratio * page_count:
            raise TooManyFailedPages(
                f"{len(pages)} of {page_count} pages could not be read. Page {pages[0].page_number}: {pages[0].message}"
            )

    async def _embed(self) -> ChunkPlan:
        """Cut the text into chunks, and embed them batch by batch."""
        await self._start(Stage.EMBED)
        plan = await self._patiently(self._engine.cut, self._revision)
        self._counts |= {"chunks_total": plan.chunk_count, "chunks_embedded": 0}

        async def embed(batch: int, size: int) -> None:
            await self._patiently(self._engine.embed, self._revision, batch)
            self._counts["chunks_embedded"] += size

        await _all(embed(batch, size) for batch, size in enumerate(plan.batch_sizes))
        await self._finish(Stage.EMBED, self._checkpoints.vectors_prefix)
        return plan

    async def _store(self, plan: ChunkPlan) -> None:
        """Write chunks and points under this revision, where no reader sees them; skip batches that are there."""
        await self._start(Stage.STORE)
        missing = await self._ask(revisions.missing_chunks, self._stores, self._revision, plan.chunk_count)
        self._counts["chunks_stored"] = 0
        first = 0
        for batch, size in enumerate(plan.batch_sizes):
            if not missing.isdisjoint(range(first, first + size)):
                await self._patiently(self._engine.store, self._revision, batch)
            self._counts["chunks_stored"] += size
            first += size
        await self._finish(Stage.STORE)

    async def _publish(self, inspection: Inspection, plan: ChunkPlan) -> None:
        """Read both stores back, decide, then make the revision visible all at once."""
        self._stage = Stage.PUBLISH
        revision = self._revision
        await self._ask(revisions.verify, self._stores, revision, plan.chunk_count)
        await self._flush()
        await self._write(self._held.decide_publish)
        published = await self._ask(
            self._stores.catalog.publish,
            revision.document_id,
            revision.number,
            page_count=inspection.page_count,
            chunk_count=plan.chunk_count,
        )
        if not published:
            raise DocumentGone("The document was deleted, or sent again, before this version was published.")
        await self._finish(Stage.PUBLISH)
        complete = not self._held.job.failed_pages
        await self._write(self._held.settle, JobState.SUCCEEDED if complete else JobState.PARTIALLY_SUCCEEDED)
        log.info("published", revision=revision.number, chunks=plan.chunk_count)

    async def _collect(self) -> None:
        """Remove what nobody needs any more. A document with failed pages keeps what a retry of them needs."""
        complete = self._held.job.state is JobState.SUCCEEDED
        await self._ask(revisions.collect_rows, self._stores, self._revision)
        if complete:
            keep_source = self._settings.keep_source
            await self._ask(
                revisions.discard_objects, self._stores, self._revision.document_id, keep_source=keep_source
            )
        await self._write(self._held.close)

    async def _end(self, error: Exception) -> None:
        """End an attempt that was stopped, by what the database says of the job now: a reply may have been lost."""
        if isinstance(error, LeaseLost):
            log.warning("lease lost", reason=error.message)
            return
        log.warning("attempt stopped", error=str(error), exc_info=not isinstance(error, FanfoldError))
        job = await self._write(self._held.renew)
        failure = failure_of(error, self._stage)
        if job.state.terminal:
            log.warning("collection is not finished; the next claim goes on")
        elif job.publish_decided and not isinstance(error, DocumentGone):
            await self._requeue(failure)  # it is, or will be, visible: nothing is rolled back any more
        elif isinstance(error, CancelRequested):
            await self._settle_unpublished(JobState.CANCELLED)
        elif failure.retryable and not isinstance(error, InputError) and self._may_try_again():
            await self._requeue(failure)
        else:
            await self._settle_unpublished(JobState.FAILED, failure, discard=not failure.retryable)

    def _may_try_again(self) -> bool:
        """Whether time and attempts are left. What is wrong with the document itself does not come here."""
        job = self._held.job
        in_time = job.deadline_at is None or job.updated_at < job.deadline_at
        return in_time and job.stalled_attempts < self._settings.max_attempts

    async def _requeue(self, failure: Failure) -> None:
        doublings = min(self._held.job.stalled_attempts, MAX_DELAY_DOUBLINGS)
        await self._write(self._held.requeue, failure, delay_s=self._settings.retry_delay_s * 2**doublings)

    async def _settle_unpublished(
        self, state: JobState, failure: Failure | None = None, *, discard: bool = True
    ) -> None:
        """Roll this revision back, verify that nothing is left, and only then reach the terminal state."""
        await self._ask(revisions.roll_back, self._stores, self._revision)
        if discard:
            await self._ask(revisions.discard_objects, self._stores, self._revision.document_id)
        await self._write(self._held.settle, state, failure)
        log.info("settled", state=state, category=None if failure is None else failure.category)

    async def _while_held(self, work: Coroutine[Any, Any, None], *, limited: bool = True) -> None:
        """Do the work for as long as the lease is ours and (if `limited`) no cancel is asked for and time is left."""
        tasks = {asyncio.create_task(work), asyncio.create_task(self._heartbeat(limited=limited))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()

    async def _heartbeat(self, *, limited: bool) -> None:
        """Write progress and renew the lease; stops by itself before the lease can have run out unrenewed."""
        ttl = self._settings.lease_ttl_s
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(min(HEARTBEAT_S, ttl / RENEWALS_PER_TTL))
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(renewed_at + STOP_BEFORE_TTL * ttl - asked_at):
                    await self._flush()
                    if asked_at - renewed_at >= ttl / RENEWALS_PER_TTL:
                        await self._write(self._held.renew)
                        renewed_at = asked_at
            except TimeoutError:
                raise LeaseLost("The lease could not be renewed in time.") from None
            except StoreUnavailable as error:
                log.warning("heartbeat missed", error=error.message)
            if limited:
                self._check_limits()

    def _check_limits(self) -> None:
        job = self._held.job
        if job.cancel_requested_at is not None and not job.publish_decided:
            raise CancelRequested("The job was cancelled.")
        if job.deadline_at is not None and job.updated_at >= job.deadline_at and not job.publish_decided:
            raise WorkTimeout("The job took longer than FANFOLD_JOB_TIMEOUT_S allows.")

    @property
    def _revision(self) -> Revision:
        job = self._held.job
        missing = tuple(page.page_number for page in job.failed_pages)
        return Revision(job.tenant, job.document_id, job.revision, job.pipeline, missing)

    @property
    def _checkpoints(self) -> Checkpoints:
        revision = self._revision
        return Checkpoints(self._stores.objects, revision.document_id, revision.pipeline, revision.missing_pages)

    async def _start(self, stage: Stage) -> None:
        self._stage = stage
        await self._write(self._held.start_stage, stage)

    async def _finish(self, stage: Stage, checkpoint: str | None = None) -> None:
        await self._flush()
        await self._write(self._held.finish_stage, stage, checkpoint)

    async def _flush(self) -> None:
        """Make the counters durable, if they rose since the last time."""
        known = self._held.job.progress.model_dump()
        risen = {name: count for name, count in self._counts.items() if count > known[name]}
        if risen:
            await self._write(self._held.report, risen)

    async def _write(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._writing:
            return await self._ask(write, *args, **kwargs)

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a store from a thread, for as long as it takes to answer."""
        return await self._patiently(asyncio.to_thread, call, *args, **kwargs)

    async def _patiently(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work again, with growing pauses, while a store does not answer: an outage is no fault of the job's.

        Everything that comes here may be repeated. Raises `StoreUnavailable` after FANFOLD_OUTAGE_TIMEOUT_S.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=FIRST_PAUSE_S),
            stop=stop_after_delay(self._settings.outage_timeout_s),
            before_sleep=_log_outage,
            reraise=True,
        )
        return await retrying(work, *args, **kwargs)


def _log_outage(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("a store does not answer; waiting", error=str(error), tries=state.attempt_number)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Await them all; the first that fails cancels the others, and its error is raised."""

    async def run(one: Awaitable[None]) -> None:
        await one

    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(run(one))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
