"""Tenure of a claimed job: the lease is kept while work gets on, writes go out one at a time, outages are waited out.

What an attempt does is in `ingest/pipeline.py`; this is what lets it do so safely.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter
from tenacity.stop import stop_base

from ingest.endings import ended, happens
from ingest.errors import CancelRequested, LeaseLost, NodeLost, StoreUnavailable, WorkTimeout
from ingest.model import Job, Stage
from ingest.settings import Settings
from ingest.stores.held import HeldJob
from ingest.telemetry import get_logger

HEARTBEAT_S = 0.5
LOOK_S = 2.0  # a cancel request is seen after this time at the latest, when no hint comes and nothing is written
RENEWALS_PER_TTL = 4
STOP_BEFORE_TTL = 0.8  # share of the lease after which a holder that could not renew stops itself
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
MAX_NODES_LOST = 3  # under one unit of work, one after the other: then it may be the work that takes them down

P = ParamSpec("P")
T = TypeVar("T")
log = get_logger()


class Tenure:
    """The holding of one claimed job by one attempt."""

    def __init__(self, held: HeldJob, settings: Settings) -> None:
        self.held = held
        self.counts: dict[str, int] = {}  # of `Progress`; the heartbeat makes them durable
        self._settings = settings
        self._writing = asyncio.Lock()  # one write to the job at a time, so that `held.job` is always the newest
        self.stage: Stage | None = None  # that the attempt has come to
        self._worktime = held.worktime
        self._stage_began_s = self._worktime.seconds
        self._read_at = time.monotonic()
        self._hinted = asyncio.Event()

    @property
    def job(self) -> Job:
        """The job's record as of the last write."""
        return self.held.job

    def enter(self, stage: Stage) -> None:
        """The attempt has come to this stage; its limit counts from here."""
        self.stage = stage
        self._stage_began_s = self._worktime.seconds

    @property
    def in_time(self) -> bool:
        """Whether the job has time left for work, in this attempt or in another."""
        return self.held.worked.total_seconds() < self._settings.job_timeout_s

    async def while_held(self, work: Coroutine[Any, Any, None], *, limited: bool = True) -> None:
        """Do the work for as long as the lease is ours and (if `limited`) no cancel is asked for and time is left."""
        tasks = {asyncio.create_task(work), asyncio.create_task(self._heartbeat(limited=limited))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await ended(tasks)
        for task in done:
            task.result()

    def hint(self) -> None:
        """Somebody says that a cancel was asked for: look at once. True or not, the record decides."""
        self._hinted.set()

    def check_held(self) -> None:
        """Raise `LeaseLost` when the lease may have run out: for work on threads, which nothing else can stop."""
        if time.monotonic() >= self._stop_at:
            raise LeaseLost("The lease could not be renewed in time.")

    @property
    def _stop_at(self) -> float:
        return self.held.renewed_at + STOP_BEFORE_TTL * self._settings.lease_ttl_s

    async def _heartbeat(self, *, limited: bool) -> None:
        """Write progress and renew the lease; stops by itself before the lease can have run out unrenewed."""
        while True:
            hinted = await self._pause(min(HEARTBEAT_S, self._settings.lease_ttl_s / RENEWALS_PER_TTL))
            self._check_stalled()
            self.check_held()
            try:
                async with asyncio.timeout(self._stop_at - time.monotonic()):
                    await self._report(look=hinted)
            except TimeoutError:
                raise LeaseLost("The lease could not be renewed in time.") from None
            except StoreUnavailable as error:
                log.warning("heartbeat missed", error=error.message)
            if limited:
                self._check_limits()

    async def _report(self, *, look: bool) -> None:
        await self.flush()
        if time.monotonic() - self.held.renewed_at >= self._settings.lease_ttl_s / RENEWALS_PER_TTL:
            await self.write(self.held.renew)
        elif look or time.monotonic() - self._read_at >= LOOK_S:
            await self.write(self.held.look)

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when a hint ended it."""
        hinted = await happens(self._hinted, seconds)
        if hinted:
            self._hinted.clear()
        return hinted

    def _check_stalled(self) -> None:
        """A lease is kept by work that gets on, not by a heartbeat beside work that does not."""
        if self._worktime.standstill_s >= self._settings.stall_timeout_s:
            raise WorkTimeout("Nothing moved for as long as FANFOLD_STALL_TIMEOUT_S allows.")

    def _check_limits(self) -> None:
        """Raise what ends the attempt.

        After the decision to publish only the limit of a stage does, and nothing once the job has ended.
        """
        job = self.held.job
        if job.state.terminal:
            return
        if self.stage and self._worktime.seconds - self._stage_began_s >= self._settings.stage_timeout_s:
            raise WorkTimeout(f"Stage {self.stage} took longer than FANFOLD_STAGE_TIMEOUT_S allows.")
        if job.publish_decided:
            return
        if job.cancel_requested_at is not None:
            raise CancelRequested("The job was cancelled.")
        if not self.in_time:
            raise WorkTimeout("The job took longer than FANFOLD_JOB_TIMEOUT_S allows.")

    async def flush(self) -> None:
        """Make the counters durable, if they rose since the last time."""
        known = self.held.job.progress.model_dump()
        risen = {name: count for name, count in self.counts.items() if count > known[name]}
        if risen:
            await self.write(self.held.report, risen)

    async def write(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call one of `HeldJob`'s methods; raises `LeaseLost` when the job is not ours any more."""
        async with self._writing:
            written = await self._patiently(asyncio.to_thread, write, *args, **kwargs)
            self._read_at = time.monotonic()
            return written

    async def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a store from a thread, for as long as it takes to answer."""
        return await self.work(asyncio.to_thread, call, *args, **kwargs)

    async def work(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do one unit of work; that it ends, well or not, is the movement that keeps the lease.

        Work that is lost with its node is done again elsewhere, and counts as not tried: see MAX_NODES_LOST.
        """
        try:
            with self._worktime.unit():
                for _ in range(MAX_NODES_LOST):
                    try:
                        return await self._patiently(work, *args, **kwargs)
                    except NodeLost as error:
                        log.warning("work was lost with its node", error=error.message)
                return await self._patiently(work, *args, **kwargs)
        finally:
            self._worktime.move()

    async def _patiently(self, work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the work again, with growing pauses, while a store does not answer: an outage is no fault of the job's.

        Everything that comes here may be repeated. Raises `StoreUnavailable` after FANFOLD_OUTAGE_TIMEOUT_S.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=FIRST_PAUSE_S),
            stop=_OutageLasted(self._settings.outage_timeout_s),
            before_sleep=_log_outage,
            reraise=True,
        )
        return await retrying(work, *args, **kwargs)


class _OutageLasted(stop_base):
    """The work has failed for so long: what it waited for its turn and worked before it first failed is no outage."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._failing_since: float | None = None

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether to give up, asked after each failure."""
        failed_at = retry_state.outcome_timestamp
        assert failed_at is not None
        if self._failing_since is None:
            self._failing_since = failed_at
        return failed_at - self._failing_since >= self._limit_s


def _log_outage(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("a store does not answer; waiting", error=str(error), tries=state.attempt_number)
