"""The pipeline's `Engine` on Ray: one task a page, one actor call a batch, and what Ray's errors mean."""

import asyncio
from typing import Any

from cluster import tasks
from cluster.composition import Blueprint
from cluster.embedders import EmbedderPool
from cluster.gate import Gate
from cluster.metrics import PAGES
from cluster.nodes import largest_node_cpus
from cluster.scheduler import FairScheduler, Owner
from cluster.work import Work
from ingest.errors import FanfoldError, WorkerCrashed, WorkError
from ingest.faults import fault_point
from ingest.model import ChunkPlan, Inspection, Revision, Route
from ingest.settings import INSPECT_START_FACTOR

NEXT = 16  # pages or batches of a job that wait for a turn, beyond what could run
READ = "read"  # outcome of a page; otherwise its error's category


class RayEngine:
    """See `ingest.pipeline.Engine`."""

    def __init__(self, blueprint: Blueprint, scheduler: FairScheduler) -> None:
        self._blueprint = blueprint
        self._scheduler = scheduler
        self._embedders = EmbedderPool(blueprint)
        self._gate = Gate()

    def at_hand(self) -> int:
        """As many as all slots of the cluster take, and the next."""
        return self._scheduler.slots + NEXT

    @fault_point("ray.inspect", error=WorkerCrashed)
    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """See `Activities.inspect`. An embedder's model loads meanwhile."""
        self._embedders.warm_up()
        limit_s = self._blueprint.settings.page_timeout_s
        async with self._scheduler.slot(_owner(revision)):
            await self._gate.passed()
            task = tasks.on_cpu.options(name=_name("inspect", alone), num_cpus=await _cpus(alone))
            values = task.remote(tasks.inspect, self._blueprint, revision, distrusted)
            work = Work(values, limit_s=limit_s, first_limit_s=INSPECT_START_FACTOR * limit_s)
            try:
                inspection: Inspection = await self._result(work, alone)
            except WorkError as error:
                raise _at_page(error, work.last) from error
        _count_inspected(inspection)
        return inspection

    @fault_point("ray.read_page", error=WorkerCrashed)
    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """See `Activities.read_page`."""
        async with self._scheduler.slot(_owner(revision)):
            await self._gate.passed()
            task = tasks.on_cpu.options(name=_name("ocr", alone), num_cpus=await _cpus(alone))
            values = task.remote(tasks.read_page, self._blueprint, revision, page_number)
            work = Work(values, limit_s=self._blueprint.settings.page_timeout_s)
            try:
                await self._result(work, alone)
            except FanfoldError as error:
                PAGES.inc(route=Route.OCR, outcome=error.category)
                raise
            PAGES.inc(route=Route.OCR, outcome=READ)

    @fault_point("ray.cut", error=WorkerCrashed)
    async def cut(self, revision: Revision) -> ChunkPlan:
        """See `Activities.cut`."""
        plan: ChunkPlan = await self._step(tasks.cut.remote(self._blueprint, revision)).result()
        return plan

    @fault_point("ray.embed", error=WorkerCrashed)
    async def embed(self, revision: Revision, batch: int, size: int) -> None:
        """See `Batcher.embed`."""
        await self._embedders.embed(revision, batch, size)

    @fault_point("ray.store", error=WorkerCrashed)
    async def store(self, revision: Revision, batch: int) -> None:
        """See `Activities.store`."""
        await self._step(tasks.store.remote(self._blueprint, revision, batch)).result()

    async def _result(self, work: Work, alone: bool) -> Any:
        """What the work ends with. One that is to be alone gets a node as soon as those at work have left one."""
        if not alone:
            return await work.result()
        async with self._gate.shut_until(work.begun, longest_s=self._blueprint.settings.page_timeout_s):
            return await work.result()

    def _step(self, values: Any) -> Work:
        return Work(values, limit_s=self._blueprint.settings.stage_timeout_s)


def _owner(revision: Revision) -> Owner:
    return Owner(revision.tenant, revision.priority, revision.document_id)


def _count_inspected(inspection: Inspection) -> None:
    """The pages that need no OCR: read from their text layer, or blank; and those that nobody can read."""
    unreadable = len(inspection.unreadable_pages)
    PAGES.inc(inspection.page_count - len(inspection.ocr_pages) - unreadable, route=Route.TEXT, outcome=READ)
    PAGES.inc(unreadable, route=Route.TEXT, outcome=Route.UNREADABLE)


def _at_page(error: WorkError, last: int | Inspection | None) -> WorkError:
    """The same error, with the page that the work had come to, if it was at one."""
    if error.page_number is not None or not isinstance(last, int):
        return error
    return type(error)(error.message, page_number=last)


def _name(kind: str, alone: bool) -> str:
    """What Ray calls the task: one of a few names, for each is a time series of its own (docs/adr/0019)."""
    return f"{kind} alone" if alone else kind


async def _cpus(alone: bool) -> int:
    """How many a task takes: all of a node, to be alone on it."""
    return await asyncio.to_thread(largest_node_cpus) if alone else 1
