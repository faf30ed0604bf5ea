"""A supervisor's embedder actors: started on first use, one batch each at a time, replaced when they do not answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from cluster import tasks
from cluster.composition import Blueprint
from cluster.metrics import EMBEDDERS
from cluster.nodes import cluster_cpus
from cluster.work import OVERTIME_S, SOFT_STOP_S, meaning_of
from ingest.errors import FanfoldError, WorkTimeout
from ingest.model import Revision
from ingest.telemetry import get_logger

LOOK_AGAIN_S = 0.5  # Ray answers at once that an actor is being started again
log = get_logger()


@dataclass(slots=True)
class Embedder:
    """One place in the pool, and the actor that has it now."""

    actor: Any
    loaded: bool = False  # whether its model is there: until then no batch's limit counts
    since: float = field(default_factory=time.monotonic)  # when it began to load


class EmbedderPool:
    """So many actors as FANFOLD_EMBEDDERS says."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._idle: asyncio.Queue[Embedder] | None = None
        self._all: list[Embedder] = []

    def start(self) -> asyncio.Queue[Embedder]:
        """Start the actors, unless they run; returns at once, while their models load."""
        if self._idle is None:
            self._idle = asyncio.Queue()
            self._all = [Embedder(self._start_actor()) for _ in range(self._blueprint.settings.embedders)]
            for embedder in self._all:
                self._idle.put_nowait(embedder)
            self._report()
        return self._idle

    async def embed(self, revision: Revision, batch: int) -> None:
        """Embed one batch of chunks on the next idle actor. Raises the work's own error, or what ended it.

        Cancelling this stops the batch: between two forward passes, or with its actor.
        """
        async with self._idle_embedder() as embedder:
            started_at = time.monotonic()
            try:
                if not embedder.loaded:
                    await self._load(embedder)
                    started_at = time.monotonic()
                await self._run(
                    embedder,
                    embedder.actor.embed.options(name=f"embed {revision.title} batch {batch}").remote(revision, batch),
                )
            except (RayError, FanfoldError) as error:
                embedder.loaded, embedder.since = False, time.monotonic()  # if it died, another one loads in its place
                self._report()
                overtime = time.monotonic() - started_at >= self._limit_s
                raise meaning_of(error, overtime=overtime) from None

    async def _load(self, embedder: Embedder) -> None:
        """Wait for its model, also while Ray starts an actor that died again.

        An actor that does not come up for as long as an attempt may stall is replaced.
        """
        while not embedder.loaded:
            left_s = embedder.since + self._blueprint.settings.stall_timeout_s - time.monotonic()
            ready = asyncio.wrap_future(embedder.actor.ready.remote().future())
            done, _ = await asyncio.wait({ready}, timeout=max(left_s, self._limit_s))
            if done and not isinstance(ready.exception(), ActorUnavailableError):
                embedder.loaded = ready.result()
                self._report()
            elif done and left_s > 0:
                await asyncio.sleep(LOOK_AGAIN_S)
            else:
                self._replace(embedder)

    async def _run(self, embedder: Embedder, reference: Any) -> None:
        """Wait for the batch; one that takes too long, or is not wanted any more, ends with its actor if need be."""
        running = asyncio.wrap_future(reference.future())
        try:
            done, _ = await asyncio.wait({running}, timeout=self._limit_s + OVERTIME_S)
        except asyncio.CancelledError:
            ray.cancel(reference)
            done, _ = await asyncio.wait({running}, timeout=SOFT_STOP_S)
            if not done:
                self._replace(embedder)
            raise
        if not done:
            self._replace(embedder)
            raise WorkTimeout(f"Embedding took longer than {self._limit_s:g} seconds and was stopped.")
        running.result()

    @property
    def _limit_s(self) -> float:
        return self._blueprint.settings.page_timeout_s

    @asynccontextmanager
    async def _idle_embedder(self) -> AsyncIterator[Embedder]:
        idle = self.start()
        embedder = await idle.get()
        try:
            yield embedder
        finally:
            idle.put_nowait(embedder)

    def _start_actor(self) -> Any:
        settings = self._blueprint.settings
        actor: Any = tasks.EmbedderActor
        threads = max(1, cluster_cpus() // settings.embedders)
        return actor.options(num_gpus=settings.embedder_gpus).remote(self._blueprint, threads)

    def _replace(self, embedder: Embedder) -> None:
        """End the actor and whatever it is stuck in; a new one takes its place."""
        log.warning("an embedder did not answer and is replaced")
        ray.kill(embedder.actor)
        embedder.actor, embedder.loaded, embedder.since = self._start_actor(), False, time.monotonic()
        self._report()

    def _report(self) -> None:
        """How many actors have their model, and how many are loading it."""
        loaded = sum(embedder.loaded for embedder in self._all)
        EMBEDDERS.set(loaded, state="loaded")
        EMBEDDERS.set(len(self._all) - loaded, state="loading")
