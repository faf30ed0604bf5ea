"""The way of a document, top to bottom. Read `Pipeline._ingest` as the table of contents.

Runs in the supervisor, as one coroutine a job. It decides and records; the work itself is done by an `Engine`, in other
processes, and the outcome is what the stores say, never what a worker said. Whoever loses the lease stops at once and
cleans nothing up, because the next holder is already at work.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

import structlog

from ingest import revisions
from ingest.checkpoints import Checkpoints
from ingest.collection import Kept, collect, collect_objects
from ingest.endings import all_done
from ingest.errors import (
    AttemptsExhausted,
    CancelRequested,
    DocumentGone,
    FanfoldError,
    InputError,
    LeaseLost,
    NodeOutOfMemory,
    PageUnreadable,
    StoreError,
    TooManyFailedPages,
    WorkError,
    WorkTimeout,
)
from ingest.failures import failed_page, failure_of
from ingest.model import ChunkPlan, FailedPage, Failure, Inspection, JobState, Keeping, PipelineSpec, Revision, Stage
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.telemetry import get_logger
from ingest.tenure import Tenure

PAGE_TRIES = 2  # a page that fails is tried once more, in another process, before it is given up
MAX_DELAY_DOUBLINGS = 6
GONE = "The document was deleted, or sent again, before this version was published."

log = get_logger()


class Engine(Protocol):
    """Runs `ingest.activities` somewhere else. Raises the activity's own error, or the `WorkError` that ended it.

    Cancelling a call stops the work: when the cancellation returns, nothing of it runs any more. While a call waits for
    its turn among other jobs' it says so by `worktime.waiting`. `alone` asks for a node that no other page shares, so
    that a `NodeOutOfMemory` is this work's own doing.
    """

    def at_hand(self) -> int:
        """How many pages or batches of one job it is worth asking for at a time, at least one: no more are held."""

    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """See `Activities.inspect`. A `WorkError` names the page that the work had come to, if it had."""

    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """See `Activities.read_page`."""

    async def cut(self, revision: Revision) -> ChunkPlan:
        """See `Activities.cut`."""

    async def embed(self, revision: Revision, batch: int, size: int) -> None:
        """See `Batcher.embed`; the batch has so many chunks."""

    async def store(self, revision: Revision, batch: int) -> None:
        """See `Activities.store`."""


class Pipeline:
    """One attempt at one claimed job."""

    def __init__(
        self, held: HeldJob, stores: Stores, engine: Engine, pipeline: PipelineSpec, settings: Settings
    ) -> None:
        self._tenure = Tenure(held, settings)
        self._stores = stores
        self._engine = engine
        self._pipeline = pipeline
        self._settings = settings

    async def run(self) -> None:
        """Bring the job as far as it can go: to a terminal state, back to the queue, or (lease lost) nowhere.

        Never raises for what a document or a store does; a cancellation of this coroutine releases the job.
        """
        try:
            await self._attempt()
        except asyncio.CancelledError:
            with suppress(LeaseLost, StoreError):  # then the lease runs out instead
                await self._tenure.write(self._tenure.held.release)
            raise

    def hint(self) -> None:
        """Somebody says that a cancel was asked for: look at once."""
        self._tenure.hint()

    async def _attempt(self) -> None:
        try:
            await self._tenure.while_held(self._ingest())
        except Exception as error:  # noqa: BLE001  # the boundary: whatever stopped the attempt is recorded in the job
            try:
                await self._tenure.while_held(self._end(error), limited=False)
            except (LeaseLost, StoreError, WorkTimeout) as failed:
                log.warning("attempt could not be ended; the next claim goes on", error=failed.message)

    async def _ingest(self) -> None:
        if not self._tenure.job.state.terminal:
            await self._supersede()
            if self._decided_by_other_settings:
                await self._show_as_decided()
            else:
                await self._prepare()
                inspection = await self._extract()
                plan = await self._embed()
                await self._store(plan)
                await self._publish(inspection, plan)
        await self._collect()

    async def _supersede(self) -> None:
        """See to it that no earlier attempt publishes any more, before anything that it made is removed."""
        job = self._tenure.job
        await self._tenure.ask(self._stores.catalog.advance, job.document_id, job.revision, epoch=job.lease.epoch)

    async def _prepare(self) -> None:
        """Refuse what cannot go on; record which pipeline really runs."""
        job = self._tenure.job
        if job.publish_decided:  # nothing may stop it any more, but that nobody wants it
            document = await self._tenure.ask(self._stores.catalog.known, job.document_id)
            if document is None or document.deleted_at is not None:
                raise DocumentGone(GONE)
            return
        if job.cancel_requested_at is not None:
            raise CancelRequested("The job was cancelled.")
        if job.stalled_attempts > self._settings.max_attempts:
            raise AttemptsExhausted("Every attempt died without getting any further. See the attempts for where.")
        if job.pipeline.fingerprint != self._pipeline.fingerprint:
            if job.may_have_rows:
                await self._tenure.ask(revisions.roll_back, self._stores, self._revision)  # they are of other chunks
            await self._tenure.write(self._tenure.held.repin, self._pipeline)

    async def _extract(self) -> Inspection:
        """Text pages in bulk with the inspection; every other page as a unit of work of its own."""
        await self._start(Stage.EXTRACT)
        inspection = await self._inspect()
        failed = {page.page_number: page for page in self._tenure.job.failed_pages}
        for page_number, reason in inspection.unreadable_pages:
            failed[page_number] = failed_page(page_number, PageUnreadable(reason))
        committed = await self._tenure.ask(self._checkpoints.committed_pages)
        waiting = [number for number in inspection.ocr_pages if number not in committed and number not in failed]
        done = inspection.page_count - len(waiting)
        self._tenure.counts |= {"pages_total": inspection.page_count, "pages_done": done}
        await self._tenure.write(self._tenure.held.set_pace, self._tenure.counts, done)

        async def read(page_number: int) -> None:
            error = await self._read_page(page_number)
            if error is not None:
                failed[page_number] = failed_page(page_number, error)
                if self._too_many(failed, inspection.page_count):  # then the others need not be tried
                    await self._give_up(failed, inspection.page_count)
            self._tenure.counts["pages_done"] += 1

        await all_done((read(page_number) for page_number in waiting), self._engine.at_hand)
        await self._give_up(failed, inspection.page_count)
        await self._finish(Stage.EXTRACT, self._checkpoints.inspection_key)
        return inspection

    async def _inspect(self) -> Inspection:
        """Route every page. One that ends the process that reads its text layer is left to OCR, and its limits."""
        distrusted: frozenset[int] = frozenset()
        alone = False
        while True:
            try:
                return await self._tenure.work(self._engine.inspect, self._revision, distrusted, alone=alone)
            except WorkError as error:
                innocent = _may_be_innocent(error, alone=alone)
                alone = isinstance(error, NodeOutOfMemory)
                if innocent:
                    log.warning("inspection goes on alone", page_number=error.page_number, error=error.message)
                    continue
                if error.page_number is None or error.page_number in distrusted:
                    raise
                log.warning("text layer distrusted", page_number=error.page_number, error=error.message)
                distrusted |= {error.page_number}

    async def _read_page(self, page_number: int) -> WorkError | None:
        """OCR one page; the error that made it be given up, if it was.

        A node that ran out of memory is held against the page only if it was alone there; until then it may have been
        the neighbour of the one that took the memory.
        """
        tries_left, alone = PAGE_TRIES, False
        while True:
            try:
                await self._tenure.work(self._engine.read_page, self._revision, page_number, alone=alone)
            except WorkError as error:
                tries_left -= not _may_be_innocent(error, alone=alone)
                alone = isinstance(error, NodeOutOfMemory)
                log.warning("page failed", page_number=page_number, error=error.message, tries_left=tries_left)
                if not error.retryable or tries_left == 0:
                    return error
            else:
                return None

    async def _give_up(self, failed: dict[int, FailedPage], page_count: int) -> None:
        """Record the failed pages before anything is made without them, or refuse to make it."""
        pages = [failed[page_number] for page_number in sorted(failed)]
        if pages != self._tenure.job.failed_pages:
            await self._tenure.write(self._tenure.held.record_failed_pages, pages)
        if self._too_many(failed, page_count):
            raise TooManyFailedPages(
                f"{len(pages)} of {page_count} pages could not be read. Page {pages[0].page_number}: {pages[0].message}"
            )

    def _too_many(self, failed: Collection[int], page_count: int) -> bool:
        """Whether the document fails for them. One that was decided to be published was judged before."""
        most = self._settings.max_failed_page_ratio * page_count
        return len(failed) > most and not self._tenure.job.publish_decided

    async def _embed(self) -> ChunkPlan:
        """Cut the text into chunks, and embed them batch by batch."""
        await self._start(Stage.EMBED)
        plan = await self._tenure.work(self._engine.cut, self._revision)
        self._tenure.counts |= {"chunks_total": plan.chunk_count, "chunks_embedded": 0}
        await self._tenure.write(
            self._tenure.held.set_pace, self._tenure.counts, self._tenure.job.progress.chunks_embedded
        )

        async def embed(batch: int, size: int) -> None:
            await self._tenure.work(self._engine.embed, self._revision, batch, size)
            self._tenure.counts["chunks_embedded"] += size

        await all_done((embed(batch, size) for batch, size in enumerate(plan.batch_sizes)), self._engine.at_hand)
        await self._finish(Stage.EMBED, self._checkpoints.vectors_prefix)
        return plan

    async def _store(self, plan: ChunkPlan) -> None:
        """Write chunks and points under this revision and epoch, where no reader sees them."""
        await self._start(Stage.STORE)
        self._tenure.counts["chunks_stored"] = 0
        for batch, size in enumerate(plan.batch_sizes):
            await self._tenure.work(self._engine.store, self._revision, batch)
            self._tenure.counts["chunks_stored"] += size
        await self._finish(Stage.STORE)

    async def _publish(self, inspection: Inspection, plan: ChunkPlan) -> None:
        """Read both stores back, decide, then make the revision visible all at once."""
        self._enter(Stage.PUBLISH)
        await self._tenure.ask(revisions.confirm, self._stores, self._revision, plan.chunk_count)
        await self._tenure.flush()
        await self._tenure.write(self._tenure.held.decide_publish)
        await self._show(page_count=inspection.page_count, chunk_count=plan.chunk_count)

    @property
    def _decided_by_other_settings(self) -> bool:
        """Whether an earlier attempt has decided to publish what this process could not make."""
        job = self._tenure.job
        return job.publish_decided and job.pipeline.fingerprint != self._pipeline.fingerprint

    async def _show_as_decided(self) -> None:
        """Publish what was verified before it was decided on: its rows are as they were, in their own collection."""
        self._enter(Stage.PUBLISH)
        job = self._tenure.job
        chunk_ids = await self._tenure.ask(self._stores.catalog.chunk_ids, job.document_id, job.revision)
        await self._show(page_count=job.progress.pages_total, chunk_count=len(chunk_ids))

    async def _show(self, *, page_count: int, chunk_count: int) -> None:
        """Make the revision visible, and end the job."""
        revision = self._revision
        published = await self._tenure.ask(
            self._stores.catalog.publish, revision, page_count=page_count, chunk_count=chunk_count
        )
        if not published:
            raise DocumentGone(GONE)
        await self._finish(Stage.PUBLISH)
        complete = not self._tenure.job.failed_pages
        await self._settle(JobState.SUCCEEDED if complete else JobState.PARTIALLY_SUCCEEDED)
        log.info("published", revision=revision.number, chunks=chunk_count)

    async def _collect(self) -> None:
        """Remove what nobody needs any more, then let the document have another job. A delete meanwhile is obeyed."""
        keeping = Keeping(source=self._settings.keep_source, pages=self._settings.keep_pages)
        closed = False
        while not closed:
            sweep_at = await self._tenure.ask(
                collect,
                self._stores,
                self._tenure.job,
                keeping=keeping,
                retry_window=timedelta(seconds=self._settings.retry_window_s),
                still_ours=self._tenure.check_held,
            )
            closed = await self._tenure.write(self._tenure.held.close, keeping=keeping, sweep_at=sweep_at)

    async def _end(self, error: Exception) -> None:
        """End an attempt that was stopped, by what the database says of the job now: a reply may have been lost."""
        if isinstance(error, LeaseLost):
            log.warning("lease lost", reason=error.message)
            return
        log.warning(
            "attempt stopped", stage=self._tenure.stage, error=str(error), exc_info=not isinstance(error, FanfoldError)
        )
        job = await self._tenure.write(self._tenure.held.look)
        failure = failure_of(error, self._tenure.stage)
        if job.state.terminal:
            log.warning("collection is not finished; the next claim goes on", error=failure.message)
        elif job.publish_decided and not isinstance(error, DocumentGone):
            await self._requeue(failure)  # it is, or will be, visible: nothing is rolled back any more
        else:
            try:
                await self._end_unpublished(error, failure)
            except CancelRequested:
                await self._settle_unpublished(JobState.CANCELLED)

    async def _end_unpublished(self, error: Exception, failure: Failure) -> None:
        """Try again, or fail; raises `CancelRequested` where a cancel was asked for, until the very last write."""
        if self._tenure.job.cancel_requested_at is not None:
            raise CancelRequested("The job was cancelled.")
        if failure.retryable and not isinstance(error, InputError) and self._may_try_again():
            await self._requeue(failure)
        else:
            await self._settle_unpublished(JobState.FAILED, failure)

    def _may_try_again(self) -> bool:
        """Whether time and attempts are left. What is wrong with the document itself does not come here."""
        job = self._tenure.job
        return self._tenure.in_time and job.stalled_attempts < self._settings.max_attempts

    async def _requeue(self, failure: Failure) -> None:
        doublings = min(self._tenure.job.stalled_attempts, MAX_DELAY_DOUBLINGS)
        await self._tenure.write(
            self._tenure.held.requeue, failure, delay_s=self._settings.retry_delay_s * 2**doublings
        )

    async def _settle_unpublished(self, state: JobState, failure: Failure | None = None) -> None:
        """Roll this revision back, verify that nothing is left, and only then reach the terminal state."""
        if self._tenure.job.may_have_rows:
            await self._tenure.ask(revisions.roll_back, self._stores, self._revision)
        if state is JobState.CANCELLED:
            document_id, only_source = self._tenure.job.document_id, Kept(source=True)
            await self._tenure.ask(collect_objects, self._stores, document_id, only_source, self._tenure.check_held)
        await self._settle(state, failure)
        await self._collect()

    async def _settle(self, state: JobState, failure: Failure | None = None) -> None:
        notify = self._settings.webhook_url is not None
        await self._tenure.write(self._tenure.held.settle, state, failure, notify=notify)

    @property
    def _revision(self) -> Revision:
        job = self._tenure.job
        missing = tuple(page.page_number for page in job.failed_pages)
        return Revision(
            tenant=job.tenant,
            document_id=job.document_id,
            number=job.revision,
            pipeline=job.pipeline,
            missing_pages=missing,
            epoch=job.lease.epoch,
            priority=job.priority,
            job_id=job.job_id,
            attempt=len(job.attempts),
        )

    @property
    def _checkpoints(self) -> Checkpoints:
        revision = self._revision
        return Checkpoints(self._stores.objects, revision.document_id, revision.pipeline, revision.missing_pages)

    def _enter(self, stage: Stage) -> None:
        self._tenure.enter(stage)
        structlog.contextvars.bind_contextvars(stage=stage)

    async def _start(self, stage: Stage) -> None:
        self._enter(stage)
        await self._tenure.write(self._tenure.held.start_stage, stage)

    async def _finish(self, stage: Stage, checkpoint: str | None = None) -> None:
        await self._tenure.flush()
        await self._tenure.write(self._tenure.held.finish_stage, stage, checkpoint)


def _may_be_innocent(error: WorkError, *, alone: bool) -> bool:
    """Whether work beside this one may have brought the error about."""
    return isinstance(error, NodeOutOfMemory) and not alone
