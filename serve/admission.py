"""Admission: how many jobs the queue takes on. What it refuses it refuses before a byte of the file is read."""

import time
from collections.abc import Callable

from fastapi.concurrency import run_in_threadpool

from ingest.settings import Settings
from serve.refusals import ServiceFull

RECOUNT_S = 1.0


class Admission:
    """Bounds the jobs that wait.

    `count_waiting` says how many do, counting no further than the number it is given; it is asked once a second at the
    most, so the bound may be passed by what arrives within a second.
    """

    def __init__(self, settings: Settings, count_waiting: Callable[[int], int]) -> None:
        self._max_queued = settings.max_queued_jobs
        self._count_waiting = count_waiting
        self._queue_full = False
        self._count_after = 0.0

    async def check_queue(self) -> None:
        """Raise `ServiceFull` while as many jobs wait as may."""
        now = time.monotonic()
        if now >= self._count_after:
            self._count_after = now + RECOUNT_S  # whoever comes meanwhile goes by the last count
            self._queue_full = await run_in_threadpool(self._count_waiting, self._max_queued) >= self._max_queued
        if self._queue_full:
            raise ServiceFull("As many jobs wait as this service takes on. Send the file again in a moment.")
