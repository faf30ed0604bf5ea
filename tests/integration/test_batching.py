"""Batches of several documents share forward passes, and nothing else: each has its own vectors, error and end."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.activities import Activities
from ingest.batching import Batcher
from ingest.checkpoints import Checkpoints
from ingest.errors import ObjectMissing
from ingest.model import Chunk, Revision
from ingest.settings import Settings
from ingest.stages.embedding import Embedder, ForwardPass
from ingest.stages.models import embedding_model_path
from ingest.stores import Stores
from tests.conftest import PIPELINE

MANY = 1_000
WORDS = [
    "the",
    "keeper",
    "writes",
    "down",
    "wind",
    "glass",
    "and",
    "sea",
    "at",
    "every",
    "change",
    "of",
    "watch",
    "before",
    "the",
    "lamp",
    "is",
    "lit",
    "again",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """The real model."""
    return Embedder.load(embedding_model_path("all-MiniLM-L6-v2"), revision="main", precision="float32", threads=1)


@dataclass
class Model:
    """The real model, watched, held up or made to fail; under test is what shares a pass."""

    real: Embedder
    passes: list[list[str]] = field(default_factory=list)  # the texts of each pass that began
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # a pass takes one
    poison: str = "no text is so"
    computing: int = 0

    @property
    def dimension(self) -> int:
        """See `Embedder`."""
        return self.real.dimension

    def tokenise(self, texts: list[str], counts: list[int], *, budget: int) -> list[ForwardPass]:
        """See `Embedder`; remembers the texts."""
        passes = self.real.tokenise(texts, counts, budget=budget)
        for one in passes:
            one.features["texts"] = [texts[position] for position in one.positions]
        return passes

    def forward(self, one: ForwardPass) -> NDArray[np.float32]:
        """See `Embedder`; waits for the gate."""
        self.computing += 1
        assert self.computing == 1, "one forward pass at a time"
        texts = one.features["texts"]
        self.passes.append(texts)
        assert self.gate.acquire(timeout=20)
        self.computing -= 1
        if any(self.poison in text for text in texts):
            raise RuntimeError(f"cannot read {len(texts)} texts")
        features = {name: value for name, value in one.features.items() if name != "texts"}
        return self.real.forward(ForwardPass(one.positions, one.tokens, features))


@dataclass
class Desk:
    """Documents whose chunks are cut, and what embeds them."""

    stores: Stores
    activities: Activities
    settings: Settings
    model: Model
    batcher: Batcher
    fills: list[float]

    def document(self, name: str, *sizes: int, words: int = 8) -> Revision:
        """A document with batches of so many chunks."""
        revision = Revision("default", name * 32, 1, PIPELINE)
        texts = [f"{name} {index} " + " ".join(WORDS[: words + index % 5]) for index in range(sum(sizes))]
        chunks = [Chunk(index, text, 1, 1, len(text.split())) for index, text in enumerate(texts)]
        self.checkpoints(revision).write_chunks(chunks, batch_size=max(sizes))
        return revision

    def checkpoints(self, revision: Revision) -> Checkpoints:
        """What the document has."""
        return Checkpoints(self.stores.objects, revision.document_id, PIPELINE)

    def embed(self, revision: Revision, batch: int = 0) -> asyncio.Task[None]:
        """Ask for a batch."""
        return asyncio.create_task(self.batcher.embed(revision, batch))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when it holds."""
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110  # what it waits for happens on other threads
                await asyncio.sleep(0.01)

    async def waiting(self, count: int) -> None:
        """Return when so many batches wait to be taken into a group."""
        await self.until(lambda: len(self.batcher._waiting) == count)

    async def began(self, count: int = 1) -> None:
        """Return when so many forward passes have begun."""
        await self.until(lambda: len(self.model.passes) == count)

    async def occupied(self) -> list[asyncio.Task[None]]:
        """A pass runs, and a group of one is tokenised: whatever is asked for now waits."""
        first = self.embed(self.document("f", 1))
        await self.began()
        second = self.embed(self.document("9", 1))
        await asyncio.sleep(0.2)  # for its chunks to be read
        await self.waiting(0)
        return [first, second]


@pytest.fixture
async def desk(stores: Stores, settings: Settings, embedder: Embedder) -> AsyncIterator[Desk]:
    """Nothing asked for yet; the model waits for the gate."""
    small = settings.model_copy(update={"embedding_batch_chunks": 16, "embedding_batch_tokens": 256})
    activities, model, fills = Activities(stores, small), Model(embedder), list[float]()
    made: Any = model
    batcher = Batcher(activities, made, small, observe=fills.append)
    yield Desk(stores, activities, small, model, batcher, fills)
    model.gate.release(MANY)
    batcher.close()


async def test_what_waits_shares_passes_and_each_gets_its_own_vectors(desk: Desk, embedder: Embedder) -> None:
    """Eight documents of one or two chunks in one pass, sorted by length; rows are those of `encode_document`."""
    first = await desk.occupied()
    revisions = [desk.document(name, 1 + number % 2, words=4 + number) for number, name in enumerate("abcde01")]
    tasks = [desk.embed(revision) for revision in revisions]
    await desk.waiting(len(tasks))
    desk.model.gate.release(MANY)
    await asyncio.gather(*first, *tasks)
    assert [len(texts) for texts in desk.model.passes] == [1, 1, 10]
    lengths = [len(text.split()) for text in desk.model.passes[-1]]
    assert lengths == sorted(lengths, reverse=True)
    for revision in revisions:
        texts = [chunk.text for chunk in desk.checkpoints(revision).read_chunks(0)]
        expected = embedder.model.encode_document(texts, normalize_embeddings=True)
        np.testing.assert_allclose(desk.checkpoints(revision).read_vectors(0), expected, atol=1e-5)


async def test_a_group_is_not_more_than_a_full_batch_and_a_pass_not_more_than_the_budget(desk: Desk) -> None:
    """So a batch waits for one group before its own, however many wait; the fill says how full each pass was."""
    tasks = await desk.occupied()
    tasks += [desk.embed(desk.document(name, 8)) for name in "abcde"]
    await desk.waiting(5)
    desk.model.gate.release(MANY)
    await asyncio.gather(*tasks)
    documents = [{text[0] for text in texts} for texts in desk.model.passes]
    assert max(map(len, documents)) == 2
    assert all(0 < fill <= 1 for fill in desk.fills)
    assert len(desk.fills) == len(desk.model.passes)
    assert max(desk.fills) > 0.7


async def test_a_batchs_error_is_no_others(desk: Desk) -> None:
    """A text at which the model fails, and chunks that are gone: the neighbours in group and pass are committed."""
    desk.model.poison = "b 0 "
    tasks = {name: desk.embed(desk.document(name, 3)) for name in "abc"}
    tasks["gone"] = desk.embed(Revision("default", "0" * 32, 1, PIPELINE))
    desk.model.gate.release(MANY)
    ended = dict(zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True))
    assert isinstance(ended["b"], RuntimeError)
    assert isinstance(ended["gone"], ObjectMissing)
    assert (ended["a"], ended["c"]) == (None, None)
    assert not desk.checkpoints(desk.document("b", 3)).has_vectors(0)


async def test_a_cancelled_batch_leaves_between_passes(desk: Desk) -> None:
    """Its rows are in no pass that begins later, its neighbours get theirs, and it writes nothing."""
    first = await desk.occupied()
    tasks = [desk.embed(desk.document(name, 8, words=12)) for name in "ab"]
    await desk.waiting(2)
    desk.model.gate.release(2)
    await desk.began(3)
    tasks[0].cancel()
    await asyncio.sleep(0.1)
    desk.model.gate.release(MANY)
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    await asyncio.gather(*first, tasks[1])
    documents = [{text[0] for text in texts} for texts in desk.model.passes]
    assert documents[:3] == [{"f"}, {"9"}, {"a", "b"}]
    assert documents[3:]
    assert all(others == {"b"} for others in documents[3:])
    assert not desk.checkpoints(desk.document("a", 8)).has_vectors(0)


async def test_a_cancellation_returns_when_the_pass_with_its_rows_is_over(desk: Desk) -> None:
    """Nothing of a cancelled batch runs any more: neither its pass, nor one after it."""
    task = desk.embed(desk.document("a", 16, words=16))
    await desk.began()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=0.3)
    assert not done
    desk.model.gate.release(MANY)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.model.computing == 0
    await desk.embed(desk.document("b", 1))
    assert [{text[0] for text in texts} for texts in desk.model.passes] == [{"a"}, {"b"}]


async def test_the_next_group_is_tokenised_while_the_model_computes(desk: Desk) -> None:
    """Its rows are ready when the pass ends."""
    first = desk.embed(desk.document("a", 1))
    await desk.began()
    tokenised = threading.Event()
    real = desk.model.real

    @dataclass(frozen=True)
    class Watched(Embedder):
        def tokenise(self, *args: Any, **kwargs: Any) -> list[ForwardPass]:
            passes = real.tokenise(*args, **kwargs)
            tokenised.set()
            return passes

    desk.model.real = Watched(real.model)
    second = desk.embed(desk.document("b", 1))
    assert await asyncio.to_thread(tokenised.wait, 20)
    assert not first.done()
    desk.model.gate.release(MANY)
    await asyncio.gather(first, second)


async def test_what_is_committed_is_not_embedded_again(desk: Desk) -> None:
    """Not even a forward pass."""
    desk.model.gate.release(MANY)
    revision = desk.document("a", 4, 4)
    await desk.embed(revision, 1)
    passes = len(desk.model.passes)
    await desk.embed(revision, 1)
    assert len(desk.model.passes) == passes


async def test_the_guard_is_around_forward_passes_only(desk: Desk) -> None:
    """Entered once a pass, never twice at a time: it is a timer of which a process has one."""
    inside = list[str]()

    @contextmanager
    def guard() -> Iterator[None]:
        assert not inside
        inside.append("a pass")
        yield
        inside.clear()

    desk.batcher._guard = guard
    tasks = [desk.embed(desk.document(name, 16, words=10)) for name in "abc"]
    await desk.began()
    assert inside
    desk.model.gate.release(MANY)
    await asyncio.gather(*tasks)
    assert not inside
    assert len(desk.model.passes) >= 3
