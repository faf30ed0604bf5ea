"""One embedder: a process that holds the embedding model, on a GPU where it was given one."""

import asyncio
from functools import partial

import ray

from cluster.composition import Blueprint, activities
from cluster.metrics import BATCH_FILL
from cluster.nodes import own_cpus
from cluster.tasks import watchdog
from ingest.batching import Batcher
from ingest.model import Revision


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class EmbedderActor:
    """Embeds whatever batches it is given at a time together, see `Batcher`. Its forward passes have a limit.

    One that dies stays dead: its pool starts another where one is wanted.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._batcher: Batcher | None = None

    async def load(self) -> None:
        """Load the model. Raises `ConfigurationError`."""
        settings = self._blueprint.settings
        work = await asyncio.to_thread(activities, self._blueprint)
        threads = max(1, await asyncio.to_thread(own_cpus) // settings.embedders)
        embedder = await asyncio.to_thread(partial(work.load_embedder, threads=threads))
        guard = partial(watchdog, settings.page_timeout_s)
        self._batcher = Batcher(work, embedder, settings, guard=guard, observe=BATCH_FILL.observe)

    async def ping(self) -> bool:
        """Whether the process answers: it does, when this returns."""
        return True

    async def embed(self, revision: Revision, batch: int) -> None:
        """See `Batcher.embed`."""
        assert self._batcher is not None, "loaded before it is given work"
        await self._batcher.embed(revision, batch)
