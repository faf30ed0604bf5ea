"""Admission: whether the service takes on another job. What it refuses it refuses before a byte of the file is read."""

import time
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool

from ingest.errors import FanfoldError
from ingest.settings import Settings
from serve.refusals import Draining, ServiceFull

LOOK_AGAIN_S = 1.0


class Admission:
    """Bounds the jobs that wait, and takes none while the service is drained.

    `count_waiting` says how many wait, counting no further than the number it is given; `draining` whether an operator
    is about to stop the service. Both are asked once a second at the most, so what arrives within a second may pass.
    """

    def __init__(
        self, settings: Settings, count_waiting: Callable[[int], int], draining: Callable[[], bool] = lambda: False
    ) -> None:
        self._max_queued = settings.max_queued_jobs
        self._count_waiting = count_waiting
        self._draining = draining
        self._refusal: FanfoldError | None = None
        self._look_after = 0.0

    async def check(self) -> None:
        """Raise `Draining`, or `ServiceFull` while as many jobs wait as may."""
        now = time.monotonic()
        if now >= self._look_after:
            self._look_after = now + LOOK_AGAIN_S  # whoever comes meanwhile goes by the last look
            self._refusal = await run_in_threadpool(self._why_not)
        if self._refusal is not None:
            raise type(self._refusal)(self._refusal.message)

    def _why_not(self) -> FanfoldError | None:
        if self._draining():
            return Draining("The service is about to be stopped and takes no documents. Send the file again later.")
        if self._count_waiting(self._max_queued) >= self._max_queued:
            return ServiceFull("As many jobs wait as this service takes on. Send the file again in a moment.")
        return None
