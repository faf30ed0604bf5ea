"""One unit of work in a worker process: when it began, how long it may take, what its end means, how it is stopped.

A task is a generator. It says `Started` when its work begins, so that no limit counts the waiting before; from then on
every value it yields is a sign of life, and the last one is its result.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import is_alive
from ingest.endings import ended
from ingest.errors import FanfoldError, NodeLost, NodeOutOfMemory, WorkerCrashed, WorkTimeout
from ingest.telemetry import get_logger
from ingest.worktime import moved

SOFT_STOP_S = 1.0  # for code that comes back to Python now and then: its process, with its models, lives on
FORCE_STOP_S = 1.0  # for code that lets Ray's threads run
KILL_S = 5.0
OVERTIME_S = 5.0  # a worker that has not ended itself so long after its limit is ended from outside
NODE_LOST = "The node that did the work is gone."
BIRTH_FIELD = 19  # of /proc/PID/stat behind the name: clock ticks from boot to the process's start, proc_pid_stat(5)
log = get_logger()


@dataclass(frozen=True, slots=True)
class Started:
    """The work begins, in this process."""

    node_id: str
    pid: int
    born: int  # tells the process from a later one of the same number

    @classmethod
    def here(cls) -> "Started":
        """In the calling process."""
        return cls(ray.get_runtime_context().get_node_id(), os.getpid(), _born(os.getpid()))


class Work:
    """A task that was submitted."""

    def __init__(self, values: Any, *, limit_s: float, first_limit_s: float | None = None) -> None:
        self._values = values  # Ray's generator of references
        self._step_limit_s = limit_s
        self._limit_s = first_limit_s or limit_s  # until the next value
        self._started: Started | None = None
        self._moved_at = 0.0
        self.last: Any = None  # the value yielded last
        self.begun = asyncio.Event()

    async def result(self) -> Any:
        """The last value. Raises what the work raised, or the `WorkError` that ended it.

        Cancelling this stops the work: when the cancellation returns, nothing of it runs any more.
        """
        try:
            return await self._outcome()
        except asyncio.CancelledError:
            await ended({asyncio.create_task(self._stop())})
            raise

    async def _outcome(self) -> Any:
        following = aiter(self._values)
        while True:
            try:
                reference = await self._in_time(anext(following))
                value = await reference
            except StopAsyncIteration:
                return self.last
            except TimeoutError:
                await self._stop()
                raise await self._judged(self._overtime()) from None
            except (RayError, FanfoldError) as error:
                raise await self._judged(meaning_of(error, overtime=self._is_overtime())) from None
            self._moved_at = time.monotonic()
            if isinstance(value, Started):
                self._started = value
                self.begun.set()
            else:
                self.last = value
                moved()
                self._limit_s = self._step_limit_s

    async def _in_time(self, following: Awaitable[Any]) -> Any:
        """Wait for the next value: before the start for as long as it takes, then a little beyond the limit."""
        async with asyncio.timeout(None if self._started is None else self._limit_s + OVERTIME_S):
            return await following

    def _is_overtime(self) -> bool:
        return self._started is not None and time.monotonic() - self._moved_at >= self._limit_s

    def _overtime(self) -> WorkTimeout:
        return WorkTimeout(f"The work took longer than {self._limit_s:g} seconds and was stopped.")

    async def _judged(self, error: Exception) -> Exception:
        """What the work is blamed for; `NodeLost` where its node died, under whatever it looked like."""
        if self._started is None or not isinstance(error, WorkerCrashed | WorkTimeout):
            return error
        return error if await asyncio.to_thread(is_alive, self._started.node_id) else NodeLost(NODE_LOST)

    async def _stop(self) -> None:
        """Ask, then force, then kill the process where it runs; return when the work has ended.

        Work that has not begun is not asked: its process may be importing what it needs, and Python that is stopped
        in the middle of an import often cannot import again. Such a process would fail whatever came to it next.
        """
        ended = asyncio.create_task(_until_ended(self._values))
        if self._started is not None:
            ray.cancel(self._values, force=False)
        if self._started is None or not await within(ended, SOFT_STOP_S):
            ray.cancel(self._values, force=True)
        if not await within(ended, FORCE_STOP_S) and self._started is not None:
            await kill_process(self._started)
        if not await within(ended, KILL_S):
            log.error("work could not be stopped", started=self._started)
        ended.cancel()


def meaning_of(error: Exception, *, overtime: bool) -> Exception:
    """The work's own error, or what Ray's error says of how the work ended."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, FanfoldError):
        return error.cause
    if isinstance(error, OutOfMemoryError):
        return NodeOutOfMemory("Its node ran out of memory, and the work was stopped.")
    if isinstance(error, NodeDiedError | ObjectLostError):  # the second: what it had yielded was still over there
        return NodeLost(NODE_LOST)
    if isinstance(error, WorkerCrashedError | TaskCancelledError | RayActorError):
        if overtime:
            return WorkTimeout("The work took longer than its limit and was stopped.")
        return WorkerCrashed("The worker process died in the middle of the work.")
    return error


async def kill_process(started: Started) -> None:
    """SIGKILL the process on its node, also when it is frozen or deaf to everything else."""
    there = NodeAffinitySchedulingStrategy(node_id=started.node_id, soft=False)
    try:
        async with asyncio.timeout(KILL_S):
            killed = await _kill.options(scheduling_strategy=there).remote(started.pid, started.born)
    except (RayError, TimeoutError) as error:  # the node is gone, and the process with it, or about to be
        log.warning("cannot reach the work's node", error=type(error).__name__)
    else:
        log.warning("killed a worker that did not stop", pid=started.pid, killed=killed)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int, born: int) -> bool:
    """Kill the process, if it is still the same one."""
    try:
        if _born(pid) == born:
            os.kill(pid, signal.SIGKILL)
            return True
    except (FileNotFoundError, ProcessLookupError):
        return False
    return False


def _born(pid: int) -> int:
    """When the process started, in clock ticks since boot."""
    status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(status.rpartition(")")[2].split()[BIRTH_FIELD])


async def _until_ended(values: Any) -> None:
    """Consume what is left; the work has ended when nothing is, or when Ray says how it did."""
    try:
        async for reference in values:
            await reference
    except (RayError, FanfoldError) as error:
        log.info("work stopped", how=type(error).__name__)


async def within(work: asyncio.Future[Any], seconds: float) -> bool:
    """Whether it ends in time, well or not."""
    done, _ = await asyncio.wait({work}, timeout=seconds)
    return bool(done)
