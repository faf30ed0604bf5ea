"""Engines for pipeline tests: the real activities in this process, with OCR and embedding stood in for.

What is under test is the pipeline and the stores; models are not.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np

from ingest.activities import Activities
from ingest.batching import Batcher
from ingest.checkpoints import Checkpoints
from ingest.model import ChunkPlan, Inspection, Page, Revision, Route
from ingest.settings import Settings
from ingest.stores import Stores

Hook = Callable[[str, int], Awaitable[None]]


async def no_hook(_call: str, _number: int) -> None:
    """Let everything pass."""


def inspection_of(activities: Activities, revision: Revision, distrusted: frozenset[int] = frozenset()) -> Inspection:
    """What inspecting the document ends with."""
    *_, inspection = activities.inspect(revision, distrusted)
    assert isinstance(inspection, Inspection)
    return inspection


def embed(activities: Activities, revision: Revision, batch: int) -> None:
    """Embed one batch with the real model."""

    async def alone() -> None:
        batcher = Batcher(activities, activities.load_embedder(threads=1), Settings())
        await batcher.embed(revision, batch)
        batcher.close()

    asyncio.run(alone())


class InlineEngine:
    """Runs activities on threads of this process, counts the calls, and lets a hook interfere before each."""

    def __init__(self, stores: Stores, settings: Settings, before: Hook = no_hook) -> None:
        self.calls: Counter[str] = Counter()
        self._stores = stores
        self._activities = Activities(stores, settings)
        self.before = before

    def at_hand(self) -> int:
        """More than any document of these tests has."""
        return 1_000

    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """The real one."""
        await self._call("inspect alone" if alone else "inspect", len(distrusted))
        return await asyncio.to_thread(lambda: inspection_of(self._activities, revision, distrusted))

    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """A stand-in for OCR: a sentence that names the page."""
        await self._call("read_page alone" if alone else "read_page", page_number)
        text = f"This is what stands on page {page_number}."
        self._checkpoints(revision).write_page(Page(page_number, Route.OCR, text))

    async def cut(self, revision: Revision) -> ChunkPlan:
        """The real one."""
        await self._call("cut", 0)
        return await asyncio.to_thread(self._activities.cut, revision)

    async def embed(self, revision: Revision, batch: int, size: int) -> None:
        """A stand-in for the model: vectors that depend on nothing but the text."""
        await self._call("embed", batch)
        chunks = self._checkpoints(revision).read_chunks(batch)
        seeds = [sum(chunk.text.encode()) for chunk in chunks]
        vectors = np.stack([np.random.default_rng(seed).normal(size=384).astype(np.float32) for seed in seeds])
        self._checkpoints(revision).write_vectors(batch, vectors)

    async def store(self, revision: Revision, batch: int) -> None:
        """The real one."""
        await self._call("store", batch)
        await asyncio.to_thread(self._activities.store, revision, batch)

    async def _call(self, name: str, number: int) -> None:
        self.calls[name] += 1
        await self.before(name, number)

    def _checkpoints(self, revision: Revision) -> Checkpoints:
        return Checkpoints(self._stores.objects, revision.document_id, revision.pipeline, revision.missing_pages)
