"""Admission: whether the service takes on another job. What it refuses it refuses before a byte of the file is read."""

import time
from collections.abc import Callable
from typing import Protocol

from fastapi.concurrency import run_in_threadpool

from ingest.settings import Settings
from serve.refusals import Draining, ServiceFull

LOOK_AGAIN_S = 1.0
OWN_SHARE = 0.01  # of the bound that each tenant may have waiting, whatever the others have: nobody locks another out


class CountWaiting(Protocol):
    """How many jobs wait, of one tenant or of all, counted no further than `limit`."""

    def __call__(self, limit: int, *, tenant: str | None = None) -> int:
        """Ask the queue. Raises `StoreUnavailable`."""


class Admission:
    """Bounds the jobs that wait, and takes none while the service is drained.

    While as many wait as may, a tenant with next to none of them is still let in. `draining` says whether an operator
    is about to stop the service. All is asked once a second at the most, so what arrives within a second may pass.
    """

    def __init__(
        self, settings: Settings, count_waiting: CountWaiting, draining: Callable[[], bool] = lambda: False
    ) -> None:
        self._most = settings.max_queued_jobs
        self._count_waiting = count_waiting
        self._ask_draining = draining
        self._draining = self._full = False
        self._has_share: dict[str, bool] = {}  # tenant -> whether it has its own share waiting, while the queue is full
        self._look_after = 0.0

    async def check(self, tenant: str) -> None:
        """Raise `Draining`, or `ServiceFull` while as many jobs wait as may."""
        now = time.monotonic()
        if now >= self._look_after:
            self._look_after = now + LOOK_AGAIN_S  # whoever comes meanwhile goes by the last look
            await run_in_threadpool(self._look)
        if self._draining:
            raise Draining("The service is about to be stopped and takes no documents. Send the file again later.")
        if self._full:
            if tenant not in self._has_share:
                self._has_share[tenant] = await run_in_threadpool(self._has_own_share, tenant)
            if self._has_share[tenant]:
                raise ServiceFull("As many jobs wait as this service takes on. Send the file again in a moment.")

    def _look(self) -> None:
        self._draining = self._ask_draining()
        self._full = self._count_waiting(self._most) >= self._most
        self._has_share = {}

    def _has_own_share(self, tenant: str) -> bool:
        share = max(1, int(OWN_SHARE * self._most))
        return self._count_waiting(share, tenant=tenant) >= share
