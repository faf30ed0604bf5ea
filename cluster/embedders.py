"""A supervisor's embedders: how many there are, who gets which batch, and what the end of one means.

The first starts with the first document's inspection, more while batches wait, up to FANFOLD_EMBEDDERS; one that has no
work for FANFOLD_EMBEDDER_IDLE_S is ended. Only an embedder that has its model is given work, so that one that finds no
place holds nothing up; meanwhile Ray's autoscaler sees it as demand.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.composition import Blueprint
from cluster.embedder_actor import EmbedderActor
from cluster.metrics import EMBEDDERS
from cluster.work import OVERTIME_S, SOFT_STOP_S, meaning_of, within
from ingest.errors import FanfoldError, WorkerCrashed, WorkTimeout
from ingest.model import Revision
from ingest.telemetry import get_logger
from ingest.worktime import waiting

BATCHES_IN_HAND = 4  # full batches that one embedder has: one is computed, others are read, tokenised or written
STOP_SHARED_S = 10.0  # a cancelled batch may wait so long for a forward pass that others share
STARTS = 3  # that fail in a row before those who wait are told
TICK_S = 5.0
START_AGAIN_S = 60.0  # after one that failed while others work
START_S = 60.0  # one that was started for nobody yet has at least so long to load its model
log = get_logger()


@dataclass(eq=False, slots=True)
class Turn:
    """A batch that waits for an embedder, or has one."""

    document_id: str
    chunks: int
    alone: bool  # its process died: it shares none any more
    given: asyncio.Future["Embedder"]


@dataclass(eq=False, slots=True)
class Embedder:
    """An actor, and the batches that it has."""

    actor: Any
    loaded: bool = False  # whether its model is there
    turns: set[Turn] = field(default_factory=set)
    idle: asyncio.TimerHandle | None = None  # ends it, unless work comes first

    @property
    def chunks(self) -> int:
        """What it has in hand."""
        return sum(turn.chunks for turn in self.turns)


class EmbedderPool:
    """None to FANFOLD_EMBEDDERS actors. All methods run on one event loop."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._settings = blueprint.settings
        self._in_hand = BATCHES_IN_HAND * blueprint.settings.embedding_batch_chunks
        self._embedders: list[Embedder] = []
        self._waiting: list[Turn] = []
        self._loading: set[asyncio.Task[None]] = set()
        self._failures = 0  # of starts, in a row
        self._failed_at = 0.0
        self._ticking: asyncio.TimerHandle | None = None

    def warm_up(self) -> None:
        """Start an embedder, unless there is one; returns at once, while its model loads."""
        if not self._embedders:
            self._start()

    async def embed(self, revision: Revision, batch: int, chunks: int) -> None:
        """Embed one batch of so many chunks. Raises the batch's own error, or what ended it.

        A batch whose embedder dies is tried once more, alone in its process: it may have been another batch's fault.
        Cancelling this drops the batch, or ends the actor that does not let go of it.
        """
        for alone in (False, True):
            async with self._turn(revision.document_id, chunks, alone=alone) as embedder:
                started_at = time.monotonic()
                try:
                    await self._run(embedder, revision, batch)
                except (RayError, FanfoldError) as error:
                    meaning = meaning_of(error, overtime=time.monotonic() - started_at >= self._settings.page_timeout_s)
                    if isinstance(error, RayTaskError) and isinstance(meaning, FanfoldError):
                        raise meaning from None
                    self._end(embedder, f"ended: {meaning}")  # it is dead, or nobody knows what state it is in
                    if alone:
                        raise meaning from None
                else:
                    return

    async def _run(self, embedder: Embedder, revision: Revision, batch: int) -> None:
        """Wait for the batch, as long as the process answers: it ends itself when a forward pass takes too long."""
        call = embedder.actor.embed.options(name="embed").remote(revision, batch)
        running = _future(call)
        try:
            while not await within(running, self._settings.page_timeout_s + OVERTIME_S):
                if not await within(_future(embedder.actor.ping.remote()), OVERTIME_S):
                    raise WorkTimeout("The embedder did not answer any more and was stopped.")
        except asyncio.CancelledError:
            ray.cancel(call)
            if not await within(running, STOP_SHARED_S if len(embedder.turns) > 1 else SOFT_STOP_S):
                self._end(embedder, "does not stop")
            raise
        running.result()

    @asynccontextmanager
    async def _turn(self, document_id: str, chunks: int, *, alone: bool) -> AsyncIterator[Embedder]:
        turn = Turn(document_id, chunks, alone, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            self._hand_out()
            with self._patience():
                embedder = await turn.given
            yield embedder
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            for embedder in self._embedders:
                if turn in embedder.turns:
                    embedder.turns.remove(turn)
                    self._let_idle(embedder)
            self._hand_out()

    def _patience(self) -> AbstractContextManager[None]:
        """How a batch waits: for other jobs', which its job's limits do not count, or for a model, which they do."""
        return waiting() if any(embedder.loaded for embedder in self._embedders) else nullcontext()

    def _hand_out(self) -> None:
        """Give what waits to whoever has room, each document in turn; start more embedders for the rest."""
        self._waiting = [turn for turn in self._waiting if not turn.given.done()]
        at_work = Counter[str]()
        for embedder in self._embedders:
            for turn in embedder.turns:
                at_work[turn.document_id] += turn.chunks
        while self._waiting:
            turn = min(self._waiting, key=lambda turn: (not turn.alone, at_work[turn.document_id]))
            if not self._give(turn):
                break
            self._waiting.remove(turn)
            at_work[turn.document_id] += turn.chunks
        self._scale()

    def _give(self, turn: Turn) -> bool:
        """Give it to the one with the least work of those that have room; whether there was one."""
        ready = [embedder for embedder in self._embedders if embedder.loaded and self._has_room(embedder, turn)]
        if not ready:
            return False
        embedder = min(ready, key=lambda embedder: embedder.chunks)
        embedder.turns.add(turn)
        if embedder.idle is not None:
            embedder.idle.cancel()
            embedder.idle = None
        turn.given.set_result(embedder)
        return True

    def _has_room(self, embedder: Embedder, turn: Turn) -> bool:
        if not embedder.turns:
            return True
        shares = not turn.alone and not any(other.alone for other in embedder.turns)
        return shares and embedder.chunks + turn.chunks <= self._in_hand

    def _scale(self) -> None:
        """While batches wait: as many embedders as have all there is in hand, and not more than there may be."""
        failing = self._failures > 0 and time.monotonic() - self._failed_at < START_AGAIN_S
        if not self._waiting or (failing and self._embedders):
            return
        chunks = sum(turn.chunks for turn in self._waiting) + sum(embedder.chunks for embedder in self._embedders)
        for _ in range(min(self._settings.embedders, -(-chunks // self._in_hand)) - len(self._embedders)):
            self._start()

    def _start(self) -> None:
        embedder = Embedder(self._start_actor())
        self._embedders.append(embedder)
        self._let_idle(embedder)
        loading = asyncio.create_task(self._load(embedder))
        self._loading.add(loading)
        loading.add_done_callback(self._loading.discard)
        self._report()

    def _start_actor(self) -> Any:
        actor: Any = EmbedderActor
        return actor.options(num_gpus=self._settings.embedder_gpus).remote(self._blueprint)

    async def _load(self, embedder: Embedder) -> None:
        """Give it work once its model is there; if it does not come, another one is started instead."""
        try:
            await self._loading_of(embedder)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next is started, or those who wait are told
            if embedder in self._embedders:
                self._not_loaded(embedder, meaning_of(error, overtime=False))
            return
        if embedder in self._embedders:
            embedder.loaded = True
            self._failures = 0
            self._let_idle(embedder)
            self._report()
            self._hand_out()

    async def _loading_of(self, embedder: Embedder) -> None:
        """Return when it has its place and its model; it may take as long as an attempt may stall."""
        loading = _future(embedder.actor.load.remote())
        if not await within(loading, self._settings.stall_timeout_s):
            raise WorkTimeout("It found no place, or did not load its model, within FANFOLD_STALL_TIMEOUT_S.")
        loading.result()

    def _not_loaded(self, embedder: Embedder, why: Exception) -> None:
        """Another one is started for those who wait; when none of several came up, they are told why."""
        self._end(embedder, f"was not started: {why}")
        self._failures += 1
        self._failed_at = time.monotonic()
        if self._failures >= STARTS and not self._embedders:
            reason = why.message if isinstance(why, FanfoldError) else "See the log of `EmbedderActor`."
            for turn in self._waiting:
                if not turn.given.done():
                    turn.given.set_exception(WorkerCrashed(f"No embedder can be started. {reason}"))
        self._hand_out()

    def _let_idle(self, embedder: Embedder) -> None:
        """End it when it has had nothing to do for long, unless it loads and is waited for."""
        if embedder.idle is not None:
            embedder.idle.cancel()
        embedder.idle = None
        if not embedder.turns:
            idle_s = self._settings.embedder_idle_s if embedder.loaded else max(START_S, self._settings.embedder_idle_s)
            embedder.idle = asyncio.get_running_loop().call_later(idle_s, self._end_idle, embedder)

    def _end_idle(self, embedder: Embedder) -> None:
        if self._waiting:
            self._let_idle(embedder)
        else:
            self._end(embedder, "has nothing to do")

    def _end(self, embedder: Embedder, why: str) -> None:
        """End the actor, whatever it is at; what it had is tried elsewhere, or fails, by itself."""
        if embedder not in self._embedders:
            return
        log.info("embedder ended", why=why, batches=len(embedder.turns))
        self._embedders.remove(embedder)
        if embedder.idle is not None:
            embedder.idle.cancel()
        ray.kill(embedder.actor)
        self._report()

    def _tick(self) -> None:
        """Report, and look after those who wait: what was to start an embedder for them may have failed."""
        self._report()
        self._hand_out()

    def _report(self) -> None:
        """How many actors have their model, and how many are loading it: at each change, and again and again.

        Ray exports a value once for each time that it is set: one that is set only when it changes goes out of sight.
        """
        if self._ticking is not None:
            self._ticking.cancel()
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        loaded = sum(embedder.loaded for embedder in self._embedders)
        EMBEDDERS.set(loaded, state="loaded")
        EMBEDDERS.set(len(self._embedders) - loaded, state="loading")


def _future(reference: Any) -> asyncio.Future[Any]:
    """Its outcome; an error that comes when nobody waits any more is none."""
    future: asyncio.Future[Any] = asyncio.wrap_future(reference.future())
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future
