"""Admission: how much a replica takes on. What it refuses it refuses at once, before a byte of the file is read."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi.concurrency import run_in_threadpool

from ingest.settings import Settings
from serve.refusals import ServiceFull

RECOUNT_S = 1.0


class Admission:
    """Bounds the uploads that one replica receives at a time, and the jobs that wait in the queue.

    `count_waiting` says how many jobs wait, counting no further than the number it is given; it is asked once a second
    at the most, so the queue's bound may be passed by what arrives within a second.
    """

    def __init__(self, settings: Settings, count_waiting: Callable[[int], int]) -> None:
        self._max_uploads = settings.max_uploads
        self._max_queued = settings.max_queued_jobs
        self._count_waiting = count_waiting
        self._uploads = 0
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

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Receive one upload within the block. Raises `ServiceFull` when as many are under way as may be."""
        if self._uploads >= self._max_uploads:
            raise ServiceFull(
                "As many uploads are under way as this service receives at a time. Try again in a moment."
            )
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1
