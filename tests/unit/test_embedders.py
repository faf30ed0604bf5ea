"""The pool of embedders, over actors that do what the test says: who gets what, how many there are, who dies."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError

from cluster import embedders
from cluster.embedders import BATCHES_IN_HAND, STARTS, EmbedderPool
from ingest.errors import ConfigurationError, ObjectMissing, WorkerCrashed, WorkTimeout
from ingest.settings import Settings
from ingest.worktime import WorkTime
from tests.builders import a_revision

FULL = 8
Unit = tuple[str, int]


class Actor:
    """What an actor handle is to the pool; the test ends its calls."""

    def __init__(self) -> None:
        self.loading: Future[None] = Future()
        self.calls: dict[Unit, Future[None]] = {}  # those that have not ended
        self.given: list[Unit] = []
        self.killed = False
        self.answers = True
        self.lets_go = True
        self.load = SimpleNamespace(remote=lambda: _reference(self.loading))
        self.ping = SimpleNamespace(remote=lambda: _reference(self._pong()))
        self.embed = SimpleNamespace(options=lambda name: SimpleNamespace(remote=self._embed))

    def loaded(self) -> None:
        """Its model is there."""
        self.loading.set_result(None)

    def finish(self, unit: Unit, error: Exception | None = None) -> None:
        """End a call."""
        call = self.calls.pop(unit)
        call.set_exception(error) if error is not None else call.set_result(None)

    def die(self) -> None:
        """End every call, as Ray does when the process is gone."""
        self.killed = True
        for future in (self.loading, *self.calls.values()):
            if not future.done():
                future.set_exception(ActorDiedError())
        self.calls.clear()

    def cancel(self, call: Future[None]) -> None:
        """What `ray.cancel` does to one call."""
        if self.lets_go:
            [unit] = [unit for unit, its in self.calls.items() if its is call]
            self.finish(unit, TaskCancelledError())

    def _embed(self, revision: Any, batch: int) -> Any:
        call: Future[None] = Future()
        unit = (revision.document_id, batch)
        self.calls[unit] = call
        self.given.append(unit)
        if self.killed:
            self.die()
        return _reference(call, self)

    def _pong(self) -> Future[bool]:
        pong: Future[bool] = Future()
        if self.answers:
            pong.set_result(True)
        return pong


def _reference(future: Future[Any], actor: Actor | None = None) -> Any:
    return SimpleNamespace(future=lambda: future, actor=actor)


def raised(cause: Exception) -> Exception:
    """What Ray makes of an error that the actor raised."""
    error: Exception = RayTaskError("embed", "traceback", cause)  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return error


class Cluster:
    """The actors that the pool has started, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.actors: list[Actor] = []
        self.settings = Settings(embedders=3, embedding_batch_chunks=FULL).model_copy(update=settings)
        self.pool = EmbedderPool(SimpleNamespace(settings=self.settings))  # type: ignore[arg-type]  # all it reads
        monkeypatch.setattr(self.pool, "_start_actor", self._start)
        monkeypatch.setattr(ray, "kill", lambda actor: actor.die())
        monkeypatch.setattr(ray, "cancel", lambda call: call.actor.cancel(call.future()))

    def _start(self) -> Actor:
        self.actors.append(Actor())
        return self.actors[-1]

    @property
    def alive(self) -> list[Actor]:
        """Those that were not ended."""
        return [actor for actor in self.actors if not actor.killed]

    def ask(self, document: str, batch: int = 0, chunks: int = FULL) -> asyncio.Task[None]:
        """Ask for a batch to be embedded."""
        return asyncio.create_task(self.pool.embed(a_revision(document), batch, chunks))

    def backlog(self, batches: int) -> list[asyncio.Task[None]]:
        """So many full batches, each of its own document."""
        return [self.ask(f"d{number}") for number in range(batches)]

    async def finish_all(self) -> None:
        """Let everything that is asked for, and comes meanwhile, succeed."""
        for _ in range(50):
            for actor in self.alive:
                for unit in list(actor.calls):
                    actor.finish(unit)
            await settle()


async def settle() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    """Return when it holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # timers bring it about
            await asyncio.sleep(0.01)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A pool of up to three, with none yet."""
    return Cluster(monkeypatch)


async def test_the_first_starts_before_it_is_needed_and_only_once(cluster: Cluster) -> None:
    """None at first; inspections of many documents warm up one."""
    assert cluster.actors == []
    cluster.pool.warm_up()
    cluster.pool.warm_up()
    assert len(cluster.actors) == 1


async def test_more_start_while_more_waits_than_they_have_in_hand(cluster: Cluster) -> None:
    """One for what one has in hand, another for the next batch, never more than the setting says."""
    tasks = cluster.backlog(BATCHES_IN_HAND)
    await settle()
    assert len(cluster.actors) == 1
    tasks.append(cluster.ask("next"))
    await settle()
    assert len(cluster.actors) == 2
    tasks += [cluster.ask("book", batch) for batch in range(10 * BATCHES_IN_HAND)]
    await settle()
    assert len(cluster.actors) == 3
    for actor in cluster.actors:
        actor.loaded()
    await settle()
    assert [len(actor.calls) for actor in cluster.actors] == [BATCHES_IN_HAND] * 3
    await cluster.finish_all()
    assert all(task.done() for task in tasks)
    assert len(cluster.actors) == 3


async def test_small_batches_are_handed_over_together(cluster: Cluster) -> None:
    """What an embedder has in hand counts in chunks, so that it can read many small documents at once."""
    tasks = [cluster.ask(f"d{number}", chunks=1) for number in range(BATCHES_IN_HAND * FULL)]
    await settle()
    [actor] = cluster.actors
    actor.loaded()
    await settle()
    assert len(actor.calls) == len(tasks)
    await cluster.finish_all()


async def test_one_that_finds_no_place_holds_nothing_up(cluster: Cluster) -> None:
    """It stays demand for the autoscaler; everything goes to the one that has its model."""
    tasks = cluster.backlog(3 * BATCHES_IN_HAND)
    await settle()
    cluster.actors[1].loaded()
    await settle()
    await cluster.finish_all()
    assert all(task.done() for task in tasks)
    assert [actor.given for actor in (cluster.actors[0], cluster.actors[2])] == [[], []]
    assert len(cluster.alive) == 3


async def test_idle_embedders_end_and_demand_starts_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """To none, after FANFOLD_EMBEDDER_IDLE_S without work, not before."""
    cluster = Cluster(monkeypatch, embedder_idle_s=0.2)
    first = cluster.ask("a")
    await settle()
    cluster.actors[0].loaded()
    await asyncio.sleep(0.4)
    assert cluster.alive  # it works
    await cluster.finish_all()
    assert first.done()
    assert cluster.alive  # it has only just ended
    await until(lambda: not cluster.alive)
    again = cluster.ask("b")
    await settle()
    cluster.actors[1].loaded()
    await settle()
    await cluster.finish_all()
    assert again.done()


async def test_when_an_embedder_dies_its_batches_are_tried_again_each_alone(cluster: Cluster) -> None:
    """Nobody fails for a neighbour; in the next process none of them has one."""
    tasks = [cluster.ask(name, chunks=1) for name in "abc"]
    await settle()
    cluster.actors[0].loaded()
    await settle()
    cluster.actors[0].finish(("a", 0))
    await settle()
    cluster.actors[0].die()
    await settle()
    together = []
    cluster.actors[1].loaded()
    await settle()
    later = cluster.ask("d", chunks=1)  # does not join one that must be alone
    while not all(task.done() for task in (*tasks, later)):
        await settle()
        together.append(len(cluster.actors[1].calls))
        for unit in list(cluster.actors[1].calls):
            cluster.actors[1].finish(unit)
    assert cluster.actors[0].given == [("a", 0), ("b", 0), ("c", 0)]
    assert cluster.actors[1].given == [("b", 0), ("c", 0), ("d", 0)]
    assert max(together) == 1
    await asyncio.gather(*tasks, later)


async def test_a_batch_that_ends_two_processes_is_given_up(cluster: Cluster) -> None:
    """It alone: a neighbour of the first time is embedded."""
    tasks = {name: cluster.ask(name, chunks=1) for name in ("bad", "good")}
    for number in range(3):
        await settle()
        cluster.actors[number].loaded()
        await settle()
        if any(document == "bad" for document, _ in cluster.actors[number].calls):
            cluster.actors[number].die()
    await cluster.finish_all()
    with pytest.raises(WorkerCrashed):
        await tasks["bad"]
    await tasks["good"]


async def test_a_batchs_own_error_is_not_tried_again_and_ends_nobody(cluster: Cluster) -> None:
    """A missing checkpoint is the store's error, for the attempt to judge."""
    task, neighbour = cluster.ask("a", chunks=1), cluster.ask("b", chunks=1)
    await settle()
    [actor] = cluster.actors
    actor.loaded()
    await settle()
    actor.finish(("a", 0), raised(ObjectMissing("gone")))
    with pytest.raises(ObjectMissing):
        await task
    assert cluster.alive == [actor]
    assert ("b", 0) in actor.calls
    await cluster.finish_all()
    await neighbour


async def test_an_unknown_error_ends_the_process_that_met_it(cluster: Cluster) -> None:
    """After an error of the device nothing that the process computes can be trusted."""
    task = cluster.ask("a")
    await settle()
    cluster.actors[0].loaded()
    await settle()
    cluster.actors[0].finish(("a", 0), raised(RuntimeError("CUDA error")))
    await settle()
    assert cluster.actors[0].killed
    cluster.actors[1].loaded()
    await settle()
    await cluster.finish_all()
    await task


async def test_embedders_that_cannot_start_are_reported_to_those_who_wait(cluster: Cluster) -> None:
    """After three, with what is wrong; the next one that starts is as good as any."""
    task = cluster.ask("a")
    cause = ConfigurationError("The GPU does not compute in bfloat16.")
    for number in range(STARTS):
        await settle()
        assert not task.done()
        cluster.actors[number].loading.set_exception(raised(cause))
    with pytest.raises(WorkerCrashed, match="does not compute in bfloat16"):
        await task
    await settle()
    assert len(cluster.actors) == STARTS
    again = cluster.ask("b")
    await settle()
    cluster.actors[STARTS].loaded()
    await settle()
    await cluster.finish_all()
    await again


async def test_one_that_does_not_load_for_as_long_as_an_attempt_may_stall_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen, or lost with its node while it loads."""
    cluster = Cluster(monkeypatch, stall_timeout_s=0.1)
    task = cluster.ask("a")
    await until(lambda: len(cluster.actors) == 2)
    assert cluster.actors[0].killed
    cluster.actors[1].loaded()
    await settle()
    await cluster.finish_all()
    await task


async def test_every_document_has_its_turn(cluster: Cluster) -> None:
    """A letter does not wait for the batches of a book that came before it."""
    cluster.pool.warm_up()
    cluster.actors[0].loaded()
    tasks = [cluster.ask("book", batch) for batch in range(20)]
    await settle()
    letter = cluster.ask("letter")
    await settle()
    [actor, *_] = cluster.actors
    assert ("letter", 0) not in actor.calls
    actor.finish(("book", 0))
    await settle()
    assert ("letter", 0) in actor.calls
    for other in cluster.actors[1:]:
        other.loaded()
    await settle()
    await cluster.finish_all()
    await asyncio.gather(*tasks, letter)


async def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does has time: its forward passes are limited where they run."""
    monkeypatch.setattr(embedders, "OVERTIME_S", 0.05)
    cluster = Cluster(monkeypatch, page_timeout_s=0.05)
    task = cluster.ask("a")
    await settle()
    cluster.actors[0].loaded()
    await asyncio.sleep(0.4)
    assert cluster.alive
    cluster.actors[0].answers = False
    await until(lambda: cluster.actors[0].killed)
    await until(lambda: len(cluster.actors) == 2)
    cluster.actors[1].loaded()
    await settle()
    cluster.actors[1].answers = False
    with pytest.raises(WorkTimeout):
        await task


async def test_a_cancelled_batch_leaves_its_neighbours(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor lets go of it; one that does not is ended, and the neighbour is tried elsewhere."""
    monkeypatch.setattr(embedders, "STOP_SHARED_S", 0.1)
    unwanted, neighbour, stuck = (cluster.ask(name, chunks=1) for name in "abc")
    await settle()
    [actor] = cluster.actors
    actor.loaded()
    await settle()
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    assert set(actor.calls) == {("b", 0), ("c", 0)}
    assert cluster.alive == [actor]
    actor.lets_go = False
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    assert actor.killed
    await settle()
    cluster.actors[1].loaded()
    await settle()
    await cluster.finish_all()
    await neighbour


async def test_a_batch_cancelled_while_it_waits_is_given_to_nobody(cluster: Cluster) -> None:
    """Nor does it start an embedder for itself afterwards."""
    task = cluster.ask("a")
    await settle()
    task.cancel()
    await asyncio.wait({task})
    cluster.actors[0].loaded()
    await settle()
    assert cluster.actors[0].given == []
    assert cluster.pool._waiting == []


async def test_a_turn_that_could_not_be_handed_out_waits_no_longer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray refuses an embedder in this moment: nobody is to be given a turn whose batch has gone."""

    def refused() -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.pool, "_hand_out", refused)
        with pytest.raises(RuntimeError, match="no"):
            async with cluster.pool._turn("a", 1, alone=False):
                pass
    assert cluster.pool._waiting == []


async def test_the_waiting_for_an_embedder_costs_a_job_no_time(cluster: Cluster) -> None:
    """Not while others' batches fill those that there are; its own batch does, and so does a model that is loaded."""
    cluster.settings = cluster.pool._settings = cluster.settings.model_copy(update={"embedders": 1})
    time = WorkTime()

    async def embed(batch: int) -> None:
        with time.unit():
            await cluster.pool.embed(a_revision("d"), batch, FULL)

    first = asyncio.create_task(embed(0))
    await asyncio.sleep(0.3)
    loading_s = time.seconds
    actor = cluster.actors[0]
    actor.loaded()
    await until(lambda: actor.calls)
    actor.finish(("d", 0))
    await first
    others = cluster.backlog(BATCHES_IN_HAND)
    await until(lambda: len(actor.calls) == BATCHES_IN_HAND)
    before_s = time.seconds
    second = asyncio.create_task(embed(1))
    await asyncio.sleep(0.3)
    waiting_s = time.seconds - before_s
    actor.finish(("d0", 0))
    await until(lambda: ("d", 1) in actor.calls)
    await asyncio.sleep(0.3)
    working_s = time.seconds - before_s - waiting_s
    await cluster.finish_all()
    await asyncio.gather(second, *others)
    assert waiting_s < 0.1
    assert min(loading_s, working_s) > 0.25


async def test_those_who_wait_get_an_embedder_although_one_could_not_be_started(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes nothing in the moment in which a dead one is to be replaced: it is asked again, whoever else comes."""
    monkeypatch.setattr(embedders, "TICK_S", 0.05)
    waiting = cluster.ask("a")
    await settle()
    with monkeypatch.context() as patch:
        patch.setattr(cluster.pool, "_start_actor", MagicMock(side_effect=RuntimeError("Ray is away")))
        cluster.actors[0].die()
        await asyncio.sleep(0.2)
        assert not cluster.alive
    await until(lambda: cluster.alive)
    cluster.alive[0].loaded()
    await until(lambda: cluster.alive[0].calls)
    await cluster.finish_all()
    await waiting
