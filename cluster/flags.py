"""Cancel flags: the fast way in which supervisors hear that a job shall stop. Only a hint: MongoDB decides.

The flag is raised after the request is durable. When the actor dies with its flags, supervisors see the request when
they next read the job, seconds later.
"""

import asyncio
from collections import deque
from typing import Any

import ray

from cluster.embedded import NAMESPACE
from ingest.telemetry import get_logger

FLAGS_ACTOR = "cancel-flags"
MAX_FLAGS = 10_000  # those that a supervisor has not heard of and that are dropped, it finds in MongoDB
LISTEN_S = 30.0
log = get_logger()


class Flags:
    """The jobs that shall stop, numbered as they came; whoever listens says up to which number it has heard."""

    def __init__(self) -> None:
        self._newest: deque[str] = deque(maxlen=MAX_FLAGS)
        self._count = 0
        self._raised = asyncio.Condition()

    async def raise_flag(self, job_id: str) -> None:
        """Say that the job shall stop."""
        async with self._raised:
            self._newest.append(job_id)
            self._count += 1
            self._raised.notify_all()

    async def listen(self, heard: int) -> tuple[int, list[str]]:
        """The flags after number `heard`, as soon as there is one, and the number of the last; none after LISTEN_S.

        A listener that has heard more than there was knows another, dead actor's numbers: it gets everything.
        """
        async with self._raised:
            try:
                async with asyncio.timeout(LISTEN_S):
                    await self._raised.wait_for(lambda: self._count != heard)
            except TimeoutError:
                return heard, []  # not the present count: a flag may have been raised in this very moment
            new = self._count - heard if heard < self._count else self._count
            return self._count, list(self._newest)[-new:]


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class FlagsActor(Flags):
    """`Flags` for the whole cluster."""


def start_flags() -> None:
    """Start the actor, detached, unless it runs."""
    _flags_actor()


def stop_flags() -> None:
    """End the actor; nothing happens when there is none."""
    try:
        ray.kill(ray.get_actor(FLAGS_ACTOR, namespace=NAMESPACE))
    except ValueError:
        return


def raise_flag(job_id: str) -> None:
    """Tell the supervisors; returns at once, and does not fail."""
    try:
        ray.get_actor(FLAGS_ACTOR, namespace=NAMESPACE).raise_flag.remote(job_id)
    except (ValueError, ray.exceptions.RayError) as error:
        log.warning("cancel flag not raised; supervisors will see the request a little later", error=str(error))


async def listen(heard: int) -> tuple[int, list[str]]:
    """See `Flags.listen`. Raises `RayError` when the actor has died."""
    handle = await asyncio.to_thread(_flags_actor)
    answer: tuple[int, list[str]] = await handle.listen.remote(heard)
    return answer


def _flags_actor() -> Any:
    actor: Any = FlagsActor
    return actor.options(name=FLAGS_ACTOR, namespace=NAMESPACE, lifetime="detached", get_if_exists=True).remote()
