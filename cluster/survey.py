"""The survey: every now and then, how long the queue is and whether the stores answer. For the metrics only."""

import asyncio
import time
from collections.abc import Callable

from cluster.metrics import JOBS, QUEUE_AGE, STORE_ERRORS
from ingest.stores import Stores
from ingest.telemetry import get_logger

INTERVAL_S = 10.0
LOAD = 0.05  # the share of the time that counting may take, where no index counts
log = get_logger()


class Survey:
    """Looks at the stores of one supervisor."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            started_at = time.monotonic()
            await self.look()
            await asyncio.sleep(max(INTERVAL_S, (time.monotonic() - started_at) / LOAD))

    async def look(self) -> None:
        """Set the gauges, and count the stores that fail; raises nothing."""
        await asyncio.gather(
            self._ask("mongodb", self._look_at_queue),
            self._ask("qdrant", self._stores.vectors.ping),
            self._ask("object_store", self._stores.objects.ping),
        )

    async def _ask(self, store: str, call: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(call)
        except Exception as error:  # noqa: BLE001  # whatever a store's client raises, the next look comes
            STORE_ERRORS.inc(store=store)
            log.warning("a store fails", store=store, error=f"{type(error).__name__}: {error}")

    def _look_at_queue(self) -> None:
        backlog = self._stores.jobs.backlog()
        for state, count in backlog.jobs.items():
            JOBS.set(count, state=state)
        QUEUE_AGE.set(backlog.oldest_s)
