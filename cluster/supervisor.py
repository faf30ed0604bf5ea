"""The supervisor: claims jobs and runs each as a coroutine. Detached; there may be several; any of them may die.

It is crash-only: whatever it knew is in MongoDB, a new one has another holder id, and claiming is the only way a job
starts, also after a restart.
"""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import structlog
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_actors, list_jobs

from cluster import accounting, flags
from cluster.composition import Blueprint, connect, enter
from cluster.duty import VERSION, Duty
from cluster.embedded import NAMESPACE
from cluster.engine import RayEngine
from cluster.keeper import start_keeper, stop_keeper
from cluster.metrics import STORE_ERRORS
from cluster.nodes import cluster_address, places
from cluster.notices import Notifier
from cluster.queue import GUEST_PLACES, Queue
from cluster.scheduler import FairScheduler
from cluster.survey import Survey
from ingest import faults
from ingest.endings import happens
from ingest.errors import ConfigurationError, Conflict, StoreError, StoreUnavailable
from ingest.model import Job
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.stores.jobs import CLAIM_CANDIDATES
from ingest.stores.roster import Order
from ingest.telemetry import get_logger

CLASS = "SupervisorActor"
SUPERVISOR = "supervisor"  # what the names of the actors begin with
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}  # of Ray jobs
MOST_JOBS = 10_000  # that Ray's state API lists
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
PROBE_TIMEOUT_S = 5.0
SPARE_THREADS = 32  # beside one for each job: calls that a silent store blocks must not stop those to the others
ENDING_PLACES = 16  # for jobs without work: to be rolled back or collected, beside FANFOLD_MAX_RUNNING_JOBS
LISTEN_AGAIN_S = 1.0
SWEEP_INTERVAL_S = 2.0
SWEEP_ON_S = 0.2  # where more are due than were opened
log = get_logger()


class Supervisor:
    """One claim loop. `run` returns when `stop` was called and every job is settled or released."""

    def __init__(self, blueprint: Blueprint, stores: Stores) -> None:
        self._blueprint = blueprint
        self._stores = stores
        self._holder = str(uuid.uuid4())
        self._pipelines: dict[str, Pipeline] = {}
        self._running: dict[asyncio.Task[None], Job] = {}
        self._given_back: set[asyncio.Task[None]] = set()
        self._queue = Queue(stores.jobs, blueprint.settings, self._holder)
        self._wake = asyncio.Event()  # a place is free, a cancel was asked for, or it is time to stop
        self._endings_wait = True  # jobs without work may wait to be claimed
        self._stopping = False
        self._scheduler = FairScheduler(slots=1)  # until its duty says how many
        self._duty = Duty(stores.roster, self._holder, self._scheduler, blueprint.settings, lambda: len(self._running))

    async def run(self) -> None:
        """Claim and work until told to stop."""
        engine = RayEngine(self._blueprint, self._scheduler)
        helpers = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._sweep()),
            asyncio.create_task(self._duty.run()),
            asyncio.create_task(Survey(self._stores).run()),
            *self._notify(),
        ]
        log.info("supervisor started", holder=self._holder)
        while not self._stopping:
            _raise_of(helpers)
            self._wake.clear()
            claimed = await self._claim()
            for held in claimed:
                self._begin(held, engine)
            if not claimed:
                await happens(self._wake, self._blueprint.settings.poll_interval_s)
        await asyncio.sleep(0)  # what was claimed last begins: a task that is cancelled before gives nothing back
        for task in [*helpers, *(self._running.keys() - self._given_back)]:
            task.cancel()
        await asyncio.gather(*helpers, *self._running, return_exceptions=True)
        await self._duty.leave()

    def _look_for_endings(self) -> None:
        self._endings_wait = True
        self._wake.set()

    def stop(self) -> None:
        """Take no more jobs, and give back those that run."""
        self._stopping = True
        self._wake.set()

    async def _claim(self) -> list[HeldJob]:
        """The jobs to begin next: those without work, many at a time, before one to be worked on.

        Neither kind takes the other's places.
        """
        jobs, at_work = self._stores.jobs, [job for job in self._running.values() if not _is_ending(job)]
        places = ENDING_PLACES - (len(self._running) - len(at_work))
        try:
            if await self._duty.look() is not Order.WORK:
                self._give_back_if_ordered()
                return []
            if self._endings_wait and places > 0:
                self._endings_wait = False
                held = await asyncio.to_thread(jobs.claim_ending, self._holder, limit=places)
                self._endings_wait = self._endings_wait or bool(held)
                if held:
                    return held
            one = await asyncio.to_thread(self._queue.claim_next, at_work)
        except StoreError as error:
            STORE_ERRORS.inc(store="mongodb")
            log.warning("cannot claim", error=error.message)
            return []
        return [] if one is None else [one]

    def _give_back_if_ordered(self) -> None:
        """Release every job that runs, each once: a second cancellation would interrupt the release."""
        if self._duty.standing.order is Order.GIVE_BACK:
            for task in self._running.keys() - self._given_back:
                task.cancel()
            self._given_back = set(self._running)

    def _begin(self, held: HeldJob, engine: RayEngine) -> None:
        task = asyncio.create_task(self._work(held, engine))
        self._running[task] = held.job
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()

    async def _listen(self) -> None:
        """Pass cancel hints on to the jobs that run here, and look for those that wait."""
        heard = 0
        while True:
            try:
                heard, job_ids = await flags.listen(heard)
            except (ray.exceptions.RayError, ValueError) as error:  # the second: two have made the actor at once
                log.warning("no cancel flags for the moment", error=type(error).__name__)
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            for job_id in self._pipelines.keys() & set(job_ids):
                self._pipelines[job_id].hint()
            self._look_for_endings()

    def _notify(self) -> Iterator[asyncio.Task[None]]:
        """Tell the webhook, if there is one, of every job that has ended."""
        settings = self._blueprint.settings
        if settings.webhook_url is not None:
            url = settings.webhook_url.get_secret_value()
            yield asyncio.create_task(Notifier(self._stores.jobs, url, settings.webhook_secret).run())

    async def _sweep(self) -> None:
        """Now and then, open the jobs whose leftovers are due, so that they are claimed and collected."""
        while True:
            reopened = 0
            try:
                reopened = await asyncio.to_thread(self._stores.jobs.reopen_due)
            except StoreError as error:
                STORE_ERRORS.inc(store="mongodb")
                log.warning("cannot look for sweeps", error=error.message)
            self._look_for_endings()  # of those just opened, and of those whose hint was lost
            await asyncio.sleep(SWEEP_INTERVAL_S if reopened < CLAIM_CANDIDATES else SWEEP_ON_S)

    async def _work(self, held: HeldJob, engine: RayEngine) -> None:
        job = held.job
        blueprint = self._blueprint
        pipeline = Pipeline(held, self._stores, engine, blueprint.pipeline, blueprint.settings)
        self._pipelines[job.job_id] = pipeline
        with structlog.contextvars.bound_contextvars(
            job_id=job.job_id, document_id=job.document_id, attempt=len(job.attempts), epoch=job.lease.epoch
        ):
            log.info("claimed")
            started_at = time.monotonic()
            try:
                await pipeline.run()
            finally:
                if self._pipelines.get(job.job_id) is pipeline:
                    del self._pipelines[job.job_id]
                self._account(job, held.job, time.monotonic() - started_at)

    def _account(self, claimed: Job, ended: Job, seconds: float) -> None:
        """One line and one count for an attempt; none where only the leftovers of an ended job were collected."""
        if claimed.state.terminal:
            return
        error = ended.attempts[-1].error
        log.info(
            "attempt ended",
            outcome=accounting.outcome_of(ended),
            category=None if error is None else error.category,
            error=None if error is None else error.message,
            seconds=round(seconds, 3),
            failed_pages=len(ended.failed_pages),
            **ended.progress.model_dump(),
        )
        accounting.attempt_ended(ended, seconds=seconds)


def store_threads(settings: Settings) -> ThreadPoolExecutor:
    """The threads from which a supervisor calls stores: one for each job it may hold, and some to spare."""
    most = settings.max_running_jobs + GUEST_PLACES + ENDING_PLACES + SPARE_THREADS
    return ThreadPoolExecutor(most, thread_name_prefix="stores")


def _is_ending(job: Job) -> bool:
    """Whether nothing was left of it, when it was claimed, but to be rolled back or collected."""
    return job.state.terminal or job.cancel_requested_at is not None


def _raise_of(helpers: Iterable[asyncio.Task[None]]) -> None:
    """None of them ends by itself: what ended one ends the supervisor, and another is started."""
    for helper in helpers:
        if helper.done():
            helper.result()


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class SupervisorActor:
    """Keeps a supervisor running on a thread with its own event loop. One that dies is started again by the keeper.

    Not by Ray: on a node without memory Ray ends whatever it may start again before the newest page (docs/adr/0017).
    """

    def __init__(self, blueprint: Blueprint) -> None:
        stores = enter(blueprint)
        if blueprint.settings.faults is not None:
            faults.arm(blueprint.settings.faults, [RayEngine])
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(store_threads(blueprint.settings))
        self._supervisor = Supervisor(blueprint, stores)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def ping(self) -> bool:
        """Whether the claim loop runs."""
        return self._thread.is_alive()

    def stop(self) -> bool:
        """Stop claiming, release what runs; whether that was done in time."""
        self._loop.call_soon_threadsafe(self._supervisor.stop)
        self._thread.join(STOP_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._supervisor.run())
        except Exception:
            log.exception("supervisor died; another is started")
            os._exit(1)


def supervisor_name(number: int) -> str:
    """The name of a supervisor's actor. It carries the code's version, because actors outlive what started them."""
    return f"{SUPERVISOR}-{number}-{VERSION}"


SUPERVISOR_ACTOR = supervisor_name(1)


def refuse_second_supervisor() -> None:
    """Raise `Conflict` when another Fanfold runs on this Ray cluster.

    What a dead one left is no obstacle, nor is what this Ray job started itself: Serve deploys again within one job.
    Ray does not list the job within which Serve deploys: whatever is not known to have ended goes on.
    """
    context = ray.get_runtime_context()
    address = context.gcs_address
    ended = {job.job_id for job in list_jobs(address=address, limit=MOST_JOBS) if job.status in ENDED}
    for actor in list_actors(address=address, filters=[("class_name", "=", CLASS), ("state", "=", "ALIVE")]):
        if actor.ray_namespace == NAMESPACE and actor.job_id not in ended | {context.get_job_id()}:
            raise Conflict(
                "Another Fanfold runs on the Ray cluster of this machine. Stop it with fanfold down, or as it was "
                "deployed; or start a Ray of your own with FANFOLD_RAY_ADDRESS=local."
            )


def start_supervisors(blueprint: Blueprint) -> None:
    """Start FANFOLD_SUPERVISORS, detached, each on a node of its own while there are any; return when all claim.

    Those that an earlier `up` left behind are replaced, whatever their number and version; a drain has ended.
    """
    stop_supervisors()
    connect(blueprint).roster.command(cluster_address(), Order.WORK)
    numbers = range(blueprint.settings.supervisors)
    handles = _start(blueprint, numbers)
    start_keeper(
        [supervisor_name(number + 1) for number in numbers],
        partial(_start, blueprint),
        log_level=blueprint.settings.log_level,
    )
    try:
        start = all(ray.get([handle.ping.remote() for handle in handles], timeout=START_TIMEOUT_S))
    except ray.exceptions.GetTimeoutError:
        start = False
    if not start:
        raise ConfigurationError("A supervisor does not start. Its log is in Ray's dashboard.")


def _start(blueprint: Blueprint, numbers: Iterable[int]) -> list[Any]:
    actor: Any = SupervisorActor
    nodes = places()
    return [
        actor.options(
            name=supervisor_name(number + 1),
            namespace=NAMESPACE,
            lifetime="detached",
            scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[number % len(nodes)], soft=True),
        ).remote(blueprint)
        for number in numbers
    ]


def stop_supervisors() -> None:
    """Let every supervisor release its jobs, then end it; nothing happens when there is none."""
    stop_keeper()
    handles = list(_supervisors())
    stopping = [handle.stop.remote() for handle in handles]
    give_up_at = time.monotonic() + STOP_TIMEOUT_S + PROBE_TIMEOUT_S
    for reference in stopping:
        try:
            ray.get(reference, timeout=max(0.0, give_up_at - time.monotonic()))
        except ray.exceptions.RayError as error:
            log.warning("a supervisor did not stop by itself", error=type(error).__name__)
    for handle in handles:
        ray.kill(handle)


def probe_supervisors() -> None:
    """Raise `StoreUnavailable` unless at least one supervisor's claim loop runs."""
    asked = {handle.ping.remote() for handle in _supervisors()}
    if not asked:
        raise StoreUnavailable("There is no supervisor.")
    give_up_at = time.monotonic() + PROBE_TIMEOUT_S
    while asked:
        answered, waiting = ray.wait(list(asked), timeout=max(0.0, give_up_at - time.monotonic()))
        for reference in answered:
            with suppress(ray.exceptions.RayError):
                if ray.get(reference):
                    return
        asked = set(waiting) if answered else set()
    raise StoreUnavailable("No supervisor claims jobs.")


def _supervisors() -> Iterator[Any]:
    """Handles of those that this Ray cluster has, of whatever version."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(SUPERVISOR):
            with suppress(ValueError):  # it has ended in this moment
                yield ray.get_actor(actor["name"], namespace=NAMESPACE)
