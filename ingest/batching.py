"""Embedding batches of several documents together: a forward pass costs almost the same for one text as for twenty.

Whatever waits when the model becomes free is one group, up to as many chunks as one full batch has: a lone batch never
waits for company. The texts of a group are sorted by length over all its documents and read in passes of at most
FANFOLD_EMBEDDING_BATCH_TOKENS. While the model computes a group, the next one is read and tokenised on other threads.

Each batch ends by itself: it is committed when its last row is there, and its error or its cancel is no other's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ingest.activities import Activities
from ingest.model import Chunk, Revision
from ingest.settings import Settings
from ingest.stages.embedding import Embedder, ForwardPass

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Unit:
    """One batch of one document, while it waits for its vectors."""

    chunks: list[Chunk]
    vectors: NDArray[np.float32]
    missing: int  # rows that are not there yet
    ended: asyncio.Future[None]  # its vectors are complete, its own error is known, or nobody wants it any more


Row = tuple[Unit, int]  # a chunk, by its place in its batch


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, and whose rows are in it."""

    rows: list[Row]
    work: ForwardPass

    @property
    def units(self) -> list[Unit]:
        """Whose rows these are."""
        return list(dict.fromkeys(unit for unit, _ in self.rows))

    @property
    def wanted(self) -> list[Row]:
        """The rows that somebody still waits for."""
        return _wanted(self.rows)


class Batcher:
    """Embeds with one model, one forward pass at a time. All methods run on one event loop."""

    def __init__(
        self,
        activities: Activities,
        embedder: Embedder,
        settings: Settings,
        *,
        guard: Callable[[], AbstractContextManager[object]] = nullcontext,
        observe: Callable[[float], None] = lambda _fill: None,
    ) -> None:
        """`guard` is entered around every forward pass; `observe` is told its share of the token budget."""
        self._activities = activities
        self._embedder = embedder
        self._settings = settings
        self._guard = guard
        self._observe = observe
        self._waiting: deque[Unit] = deque()
        self._arrived = asyncio.Event()
        self._tokenising = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._running: tuple[Pass, asyncio.Future[NDArray[np.float32]]] | None = None
        self._working: asyncio.Task[None] | None = None

    async def embed(self, revision: Revision, batch: int) -> None:
        """Embed one batch of chunks and commit its vectors, unless they are. Raises this batch's own error.

        Cancelling this drops its rows. When the cancellation returns, nothing of it runs or will be written.
        """
        chunks = await asyncio.to_thread(self._activities.chunks_to_embed, revision, batch)
        if not chunks:
            return
        vectors = await self._vectors_of(chunks)
        await _to_its_end(asyncio.to_thread(self._activities.commit_vectors, revision, batch, vectors))

    def close(self) -> None:
        """Stop; what waits is never embedded."""
        if self._working is not None:
            self._working.cancel()
        self._tokenising.shutdown(wait=False, cancel_futures=True)
        self._computing.shutdown(wait=False, cancel_futures=True)

    async def _vectors_of(self, chunks: list[Chunk]) -> NDArray[np.float32]:
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        rows = np.empty((len(chunks), self._embedder.dimension), dtype=np.float32)
        unit = Unit(chunks, rows, len(chunks), asyncio.get_running_loop().create_future())
        self._waiting.append(unit)
        self._arrived.set()
        try:
            await asyncio.wait({unit.ended, self._working}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            unit.ended.cancel()
            if self._running is not None and unit in self._running[0].units:
                await asyncio.wait({self._running[1]})
            raise
        (unit.ended if unit.ended.done() else self._working).result()
        return rows

    async def _work(self) -> None:
        """Group after group: the next one is made ready while this one is computed."""
        following = asyncio.create_task(self._next_group())
        try:
            while True:
                passes = deque(await following)
                following = asyncio.create_task(self._next_group())
                while passes:
                    await self._compute(passes)
        finally:
            following.cancel()

    async def _next_group(self) -> list[Pass]:
        """Take what waits, as much of it as is one full batch, or wait for the first that comes."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        group = [self._waiting.popleft()]
        left = self._settings.embedding_batch_chunks - len(group[0].chunks)
        while self._waiting and len(self._waiting[0].chunks) <= left:
            group.append(self._waiting.popleft())
            left -= len(group[-1].chunks)
        return await self._tokenise([(unit, place) for unit in group for place in range(len(unit.chunks))])

    async def _tokenise(self, rows: Sequence[Row]) -> list[Pass]:
        """Passes over the rows that are still wanted. What cannot be tokenised together is tried unit by unit."""
        wanted = _wanted(rows)
        chunks = [unit.chunks[place] for unit, place in wanted]
        try:
            passes = await self._on(self._tokenising, self._tokenised, chunks)
        except Exception as error:  # noqa: BLE001  # whatever a tokeniser raises is the error of the text it met
            return await self._separately(wanted, error)
        return [Pass([wanted[position] for position in one.positions], one) for one in passes]

    def _tokenised(self, chunks: Sequence[Chunk]) -> list[ForwardPass]:
        return self._embedder.tokenise(
            [chunk.text for chunk in chunks],
            [chunk.token_count for chunk in chunks],
            budget=self._settings.embedding_batch_tokens,
        )

    async def _compute(self, passes: deque[Pass]) -> None:
        """The next pass. Rows that nobody wants any more leave it, and all that follow, before it begins."""
        if any(len(one.wanted) < len(one.rows) for one in passes):
            rows = [row for one in passes for row in one.wanted]
            passes.clear()
            passes.extend(await self._tokenise(rows))
            return
        one = passes.popleft()
        running = asyncio.ensure_future(self._on(self._computing, self._forward, one.work))
        self._running = one, running
        try:
            vectors = await running
        except Exception as error:  # noqa: BLE001  # whatever the model raises is the error of the text it met
            passes.extendleft(reversed(await self._separately(one.rows, error)))
        else:
            self._observe(one.work.tokens / self._settings.embedding_batch_tokens)
            _deliver(one.rows, vectors)
        finally:
            self._running = None

    def _forward(self, work: ForwardPass) -> NDArray[np.float32]:
        with self._guard():
            return self._embedder.forward(work)

    async def _separately(self, rows: Sequence[Row], error: Exception) -> list[Pass]:
        """After an error that may be any unit's: passes of one unit each; where there is one only, it is its error."""
        units = list(dict.fromkeys(unit for unit, _ in rows))
        if len(units) == 1:
            if not units[0].ended.done():
                units[0].ended.set_exception(error)
            return []
        return [one for unit in units for one in await self._tokenise([row for row in rows if row[0] is unit])]

    @staticmethod
    async def _on(threads: ThreadPoolExecutor, call: Callable[..., T], argument: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call, argument)


def _wanted(rows: Sequence[Row]) -> list[Row]:
    return [(unit, place) for unit, place in rows if not unit.ended.done()]


def _deliver(rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
    """Give each unit its rows; one that has them all has ended."""
    for (unit, place), vector in zip(rows, vectors, strict=True):
        unit.vectors[place] = vector
        unit.missing -= 1
        if unit.missing == 0 and not unit.ended.done():
            unit.ended.set_result(None)


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await it; a cancellation waits until it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
