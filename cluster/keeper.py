"""The keeper: an actor that starts supervisors again that have died (docs/adr/0017).

It waits nearly always, so it stays small: what starts a supervisor it has only pickled, and runs in another process.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import cloudpickle

from cluster.embedded import NAMESPACE
from ingest.telemetry import configure_logging, get_logger

KEEPER = "keeper"
INTERVAL_S = 0.5
STOP_TIMEOUT_S = 5.0
START_TIMEOUT_S = 120.0
log = get_logger()


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class KeeperActor:
    """Keeps the actors of these names there. It holds nothing, so it may die itself: Ray starts it again."""

    def __init__(self, names: Sequence[str], start: bytes, log_level: str) -> None:
        configure_logging(log_level)
        self._names = names
        self._start = start
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Start none any more; returns when none is being started."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                missing = [number for number, name in enumerate(self._names) if actor_named(name) is None]
                if missing:
                    log.error("supervisors have died and are started again", count=len(missing))
                    starting = _call.remote(self._start, missing)
                    try:
                        ray.get(starting, timeout=START_TIMEOUT_S)
                    except ray.exceptions.GetTimeoutError:
                        ray.cancel(starting, force=True)
                        raise
            except (ray.exceptions.RayError, ValueError) as error:  # the second: a name is not free yet
                log.warning("supervisors cannot be started", error=type(error).__name__)


@ray.remote(num_cpus=0, max_retries=0)
def _call(start: bytes, numbers: Sequence[int]) -> None:
    cloudpickle.loads(start)(numbers)


def start_keeper(names: Sequence[str], start: Callable[[Sequence[int]], object], *, log_level: str) -> None:
    """Start the keeper, detached. `start` is called with the positions of the names that nobody has."""
    actor: Any = KeeperActor
    pickled: bytes = cloudpickle.dumps(start)  # type: ignore[no-untyped-call]  # Ray ships it untyped
    actor.options(name=KEEPER, namespace=NAMESPACE, lifetime="detached").remote(list(names), pickled, log_level)


def stop_keeper() -> None:
    """End the keeper; from then on it starts nothing. Nothing happens when there is none."""
    keeper = actor_named(KEEPER)
    if keeper is not None:
        try:
            ray.get(keeper.stop.remote(), timeout=STOP_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            log.warning("the keeper did not stop by itself", error=type(error).__name__)
        ray.kill(keeper)


def actor_named(name: str) -> Any:
    """Fanfold's actor of that name; None when there is none, or it has died for good."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
