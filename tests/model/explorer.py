"""Through every order of the actors' steps, breadth-first: the first violation is one with the fewest steps.

A step is one call to a store, with the readings of the clock and the heartbeat before it. Two ways into the same state
are gone on from once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ingest.collection import SWEEP_AGAIN
from ingest.errors import FanfoldError, WorkerCrashed
from ingest.model import JobState
from ingest.submission import Upload
from tests.model.actors import ActorStates, Node
from tests.model.calls import Call, Raised
from tests.model.invariants import Violation, check_end, check_step, check_world
from tests.model.programs import LEASE_TTL_S, RETRY_WINDOW_S, Programs
from tests.model.world import Universe, World

MOST_CLAIMS_TO_THE_END = 16
WAITS_S = (0.0, LEASE_TTL_S, SWEEP_AGAIN.total_seconds(), SWEEP_AGAIN.total_seconds(), RETRY_WINDOW_S)
AT_ONCE = {"clock", "new_id"}
Mutation = Callable[[Call], Call]


class Left(NamedTuple):
    """What disturbances are still to come."""

    ticks: int = 0  # `tick_s` pass
    crashes: int = 0  # a supervisor is gone, with everything that it knew
    beats: int = 0  # a heartbeat comes
    errors: int = 0  # an activity fails

    def less(self, what: str) -> "Left":
        """With one less of these."""
        return self._replace(**{what: getattr(self, what) - 1})


class Scenario(NamedTuple):
    """Who acts, and what may go wrong how often."""

    name: str
    supervisors: int = 2  # each makes one attempt
    sweeps: int = 0
    users: tuple[tuple[str, ...], ...] = ()  # what each of them does, in order
    left: Left = Left()
    tick_s: float = LEASE_TTL_S
    error: FanfoldError = WorkerCrashed("It died.")  # of the activity that fails
    fewest_states: int = 0  # an exploration that meets less has lost something


class State(NamedTuple):
    """What is durable, where each actor is (None: gone), what is still to come."""

    world: World
    nodes: tuple[Node | None, ...]
    left: Left

    def moved(self, index: int, node: Node | None, world: World, left: Left) -> "State":
        """With one actor in another local state."""
        return State(world, (*self.nodes[:index], node, *self.nodes[index + 1 :]), left)


class Explorer:
    """One exploration of one scenario. `mutate` changes every call before it is made: breaks production, for a test."""

    def __init__(self, scenario: Scenario, upload: Upload, *, mutate: Mutation = lambda call: call) -> None:
        self._scenario = scenario
        self._mutate = mutate
        self._loop = asyncio.new_event_loop()
        self._programs = programs = Programs(upload, self._loop)
        self._universe = Universe()
        self._sound: set[World] = set()
        self._results: dict[tuple[World, Node], tuple[World, Node]] = {}
        holders = [f"S{number}" for number in range(1, scenario.supervisors + 1)]
        self._names = [*holders, *(["sweep"] * scenario.sweeps), *(["user"] * len(scenario.users))]
        self._users = [ActorStates(programs.user(*actions)) for actions in scenario.users]
        self._actors = [
            *(ActorStates(programs.attempt(holder)) for holder in holders),
            *(ActorStates(programs.sweep()) for _ in range(scenario.sweeps)),
            *self._users,
        ]
        self._last_attempt = ActorStates(programs.attempt("S9"))
        self._last_sweep = ActorStates(programs.sweep())

    def run(self) -> int:
        """Every state; how many. Raises `Violation` with the shortest schedule that leads to one."""
        first = self._beginning()
        came_from: dict[State, tuple[State, str] | None] = {first: None}
        waiting = deque([first])
        while waiting:
            state = waiting.popleft()
            try:
                self._check(state.world)
                moves = list(self._moves(state))
                if not any(name != "time" for name, _ in moves):
                    self._check_end(state)
            except Violation as violation:
                raise violation.after(_way(came_from, state)) from None
            for step, after in moves:
                if after not in came_from:
                    came_from[after] = state, step
                    waiting.append(after)
        return len(came_from)

    def close(self) -> None:
        """Let go of what it holds."""
        self._loop.close()

    def _beginning(self) -> State:
        world, _ = self._alone(self._universe.empty, ActorStates(self._programs.user("submit")).first)
        return State(world, tuple(actor.first for actor in self._actors), self._scenario.left)

    def _moves(self, state: State) -> Iterator[tuple[str, State]]:
        left = state.left
        for index, node in enumerate(state.nodes):
            if node is None or node.done or not self._may_go_on(state, index, node):
                continue
            yield from self._steps(state, index, node)
            if left.crashes and node.epoch is not None:
                yield f"{self._names[index]} crashes", state.moved(index, None, state.world, left.less("crashes"))
        if left.ticks:
            later = self._universe.later(state.world, self._scenario.tick_s)
            yield "time", State(later, state.nodes, left.less("ticks"))

    def _may_go_on(self, state: State, index: int, node: Node) -> bool:
        """Who would find nothing to do only waits: looking changes nothing."""
        if self._names[index] == "S2" and state.nodes[0] is self._actors[0].first and node is self._actors[1].first:
            return False  # the same with the supervisors' names exchanged
        if node is not self._actors[index].first:
            return (
                node.call is None
                or node.call.method != "waits"
                or not any(job["open"] for job in state.world.jobs.values())
            )
        if self._names[index] == "sweep":
            return sweep_due(state.world)
        return self._names[index] == "user" or claimable(state.world)

    def _steps(self, state: State, index: int, node: Node) -> Iterator[tuple[str, State]]:
        """What the actor's next call can lead to."""
        node, left = self._read_clock(state.world, node), state.left
        call, name = node.call, self._names[index]
        if call is None:
            yield f"{name} ends", state.moved(index, node, state.world, left)
        elif call.target == "beat":
            yield from self._steps(state, index, node.after(False))  # the answer to "does it come?"
            if left.beats:
                yield from self._steps(State(state.world, state.nodes, left.less("beats")), index, node.after(True))
        else:
            world, after = self._step(state.world, node)
            yield f"{name}: {call}", state.moved(index, after, world, left)
            if left.errors and call.target == "engine":
                failed = node.after(Raised(self._scenario.error))
                yield f"{name}: {call} fails", state.moved(index, failed, state.world, left.less("errors"))

    def _read_clock(self, world: World, node: Node) -> Node:
        while node.call is not None and (node.call.target in AT_ONCE or node.call.method in AT_ONCE):
            node = node.after(self._universe.perform(world, node.call)[1])
        return node

    def _step(self, world: World, node: Node) -> tuple[World, Node]:
        key = world, node
        if key not in self._results:
            assert node.call is not None
            call = self._mutate(node.call)
            epochs = {job["lease"]["epoch"] for job in world.jobs.values()}
            overtaken = node.epoch is not None and node.epoch not in epochs
            after, answer = self._universe.perform(world, call, late=overtaken)
            check_step(world, after, call, node.epoch)
            self._results[key] = after, node.after(answer)
        return self._results[key]

    def _alone(self, world: World, node: Node) -> tuple[World, Node]:
        """The actor's way to its end when nobody else does anything."""
        while not node.done:
            node = self._read_clock(world, node)
            if node.call is not None and node.call.target == "beat":
                node = node.after(False)
            elif node.call is not None:
                world, node = self._step(world, node)
        return world, node

    def _check(self, world: World) -> None:
        if world not in self._sound:
            check_world(world)
            self._sound.add(world)

    def _check_end(self, state: State) -> None:
        """What holds when one more supervisor has worked for as long as there was anything to do."""
        world, answers = state.world, []
        for wait_s in WAITS_S:
            world = self._tidied(self._universe.later(world, wait_s))
        for actor, node in zip(self._actors, state.nodes, strict=True):
            if actor in self._users and node is not None:
                world, end = self._alone(world, node)  # who waited for a job to be collected goes on now
                world = self._tidied(self._universe.later(world, RETRY_WINDOW_S))
                answers.append(end.result)
        check_end(world, list(zip(self._scenario.users, answers, strict=True)))

    def _tidied(self, world: World) -> World:
        for _ in range(MOST_CLAIMS_TO_THE_END):
            if sweep_due(world):
                world, _node = self._alone(world, self._last_sweep.first)
            if not claimable(world):
                return world
            world, _node = self._alone(world, self._last_attempt.first)
            self._check(world)
        raise Violation("the job does not come to an end")


def claimable(world: World) -> bool:
    """Whether a claim would find a job."""
    return any(job["open"] and free_from(job) <= world.now for job in world.jobs.values())


def free_from(job: dict[str, Any]) -> Any:
    """When the job may be claimed."""
    return job["available_at"] if job["state"] == JobState.QUEUED else job["lease"]["expires_at"]


def sweep_due(world: World) -> bool:
    """Whether a closed job waits to be opened once more."""
    jobs = [job for job in world.jobs.values() if not job["open"] and job["sweep_at"] is not None]
    return any(job["sweep_at"] <= world.now for job in jobs)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    steps = []
    while (before := came_from[state]) is not None:
        state, step = before
        steps.append(step)
    return steps[::-1]
