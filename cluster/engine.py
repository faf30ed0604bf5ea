"""The pipeline's `Engine` on Ray: one task a page, one actor call a batch, and what Ray's errors mean."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import (
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

from cluster import tasks
from cluster.composition import Blueprint
from cluster.scheduler import FairScheduler
from ingest.errors import FanfoldError, OutOfMemory, WorkerCrashed, WorkTimeout
from ingest.faults import fault_point
from ingest.model import ChunkPlan, Inspection, Revision
from ingest.telemetry import get_logger

STOP_TIMEOUT_S = 10.0
SHOWN_ID = 8  # characters of a document id in Ray's dashboard
log = get_logger()


class EmbedderPool:
    """A supervisor's embedder actors, started on first use; each does one batch at a time."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._idle: asyncio.Queue[Any] | None = None

    def start(self) -> asyncio.Queue[Any]:
        """Start the actors, unless they run; returns at once, while their models load."""
        if self._idle is None:
            self._idle = asyncio.Queue()
            for _ in range(self._blueprint.settings.embedders):
                self._idle.put_nowait(self._start_one())
        return self._idle

    @asynccontextmanager
    async def embedder(self) -> AsyncIterator[Any]:
        """An idle embedder, for the length of the block."""
        idle = self.start()
        actor = await idle.get()
        try:
            yield actor
        finally:
            idle.put_nowait(actor)

    def _start_one(self) -> Any:
        settings = self._blueprint.settings
        cpus = cluster_cpus()
        actor: Any = tasks.EmbedderActor
        return actor.options(num_gpus=settings.embedder_gpus).remote(
            self._blueprint, max(1, cpus // settings.embedders)
        )


class RayEngine:
    """See `ingest.pipeline.Engine`."""

    def __init__(self, blueprint: Blueprint, scheduler: FairScheduler) -> None:
        self._blueprint = blueprint
        self._scheduler = scheduler
        self._embedders = EmbedderPool(blueprint)

    @fault_point("ray.inspect", error=WorkerCrashed)
    async def inspect(self, revision: Revision) -> Inspection:
        """See `Activities.inspect`. The embedders' models load meanwhile."""
        self._embedders.start()
        task = tasks.inspect.options(name=f"inspect {_shown(revision)}")
        inspection: Inspection = await self._result(task.remote(self._blueprint, revision))
        return inspection

    @fault_point("ray.read_page", error=WorkerCrashed)
    async def read_page(self, revision: Revision, page_number: int) -> None:
        """See `Activities.read_page`."""
        task = tasks.read_page.options(name=f"ocr {_shown(revision)} page {page_number}")
        async with self._scheduler.slot(revision.document_id):
            await self._result(task.remote(self._blueprint, revision, page_number))

    @fault_point("ray.cut", error=WorkerCrashed)
    async def cut(self, revision: Revision) -> ChunkPlan:
        """See `Activities.cut`."""
        task = tasks.cut.options(name=f"cut {_shown(revision)}")
        plan: ChunkPlan = await self._result(task.remote(self._blueprint, revision))
        return plan

    @fault_point("ray.embed", error=WorkerCrashed)
    async def embed(self, revision: Revision, batch: int) -> None:
        """See `Activities.embed`."""
        async with self._embedders.embedder() as actor:
            await self._result(actor.embed.remote(revision, batch), stoppable=False)

    @fault_point("ray.store", error=WorkerCrashed)
    async def store(self, revision: Revision, batch: int) -> None:
        """See `Activities.store`."""
        task = tasks.store.options(name=f"store {_shown(revision)} batch {batch}")
        await self._result(task.remote(self._blueprint, revision, batch))

    async def _result(self, ref: Any, *, stoppable: bool = True) -> Any:
        started_at = time.monotonic()
        try:
            return await ref
        except asyncio.CancelledError:
            await _stop(ref, force=stoppable)
            raise
        except RayTaskError as error:
            if isinstance(error.cause, FanfoldError):
                raise error.cause from None
            raise
        except OutOfMemoryError as error:
            raise OutOfMemory("The worker used too much memory and was stopped.") from error
        except (WorkerCrashedError, TaskCancelledError, RayActorError) as error:
            limit_s = self._blueprint.settings.page_timeout_s
            if time.monotonic() - started_at >= limit_s:
                raise WorkTimeout(f"The work took longer than {limit_s:g} seconds and was stopped.") from error
            raise WorkerCrashed("The worker process died in the middle of the work.") from error


async def _stop(ref: Any, *, force: bool) -> None:
    """Stop the work behind the ref and wait until it has ended; an actor's call can only be waited for."""
    try:
        if force:
            ray.cancel(ref, force=True)
        await asyncio.wait_for(asyncio.wrap_future(ref.future()), STOP_TIMEOUT_S)
    except (RayError, FanfoldError, TimeoutError) as error:
        log.info("work stopped", how=type(error).__name__)


def cluster_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return max(1, int(resources.get("CPU", 1)))


def _shown(revision: Revision) -> str:
    return f"{revision.document_id[:SHOWN_ID]} r{revision.number}"
