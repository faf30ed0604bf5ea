"""The survey: every now and then, how long the queue is and whether the stores answer. For the metrics only."""

import asyncio
import time
from collections.abc import Callable

from cluster.metrics import JOBS, QUEUE_AGE, STORE_ERRORS, SUPERVISORS
from ingest.stores import Stores
from ingest.telemetry import get_logger

INTERVAL_S = 10.0
PATIENCE_S = 10.0  # a store that has been silent for so long fails; and again for each further time
LOAD = 0.05  # the share of the time that counting may take, where no index counts
log = get_logger()


class Survey:
    """Looks at the stores of one supervisor: at each by itself, so that a silent one hides nothing of the others."""

    def __init__(self, stores: Stores) -> None:
        self._looks: list[tuple[str, Callable[[], None]]] = [
            ("mongodb", self._look_at_queue),
            ("qdrant", stores.vectors.ping),
            ("object_store", stores.objects.ping),
        ]
        self._jobs = stores.jobs

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as looks:
            looks.create_task(self._report())
            for store, call in self._looks:
                looks.create_task(self._look_again_and_again(store, call))

    async def look(self, store: str, call: Callable[[], None]) -> bool:
        """Whether the store answers; one that does not is counted, again and again while it is silent. Raises nothing.

        No second call is made beside one that has not come back.
        """
        asked = asyncio.create_task(asyncio.to_thread(call))
        try:
            while not (await asyncio.wait({asked}, timeout=PATIENCE_S))[0]:
                _fails(store, "it is silent")
        finally:
            asked.cancel()  # nobody waits for its thread any more
        error = asked.exception()
        if error is not None:
            _fails(store, f"{type(error).__name__}: {error}")
        return error is None

    async def _look_again_and_again(self, store: str, call: Callable[[], None]) -> None:
        while True:
            started_at = time.monotonic()
            answered = await self.look(store, call)
            counting_s = time.monotonic() - started_at if answered and store == "mongodb" else 0.0
            await asyncio.sleep(max(INTERVAL_S, counting_s / LOAD))

    async def _report(self) -> None:
        """Whatever the stores do, this supervisor is there."""
        while True:
            SUPERVISORS.set(1)
            await asyncio.sleep(INTERVAL_S)

    def _look_at_queue(self) -> None:
        backlog = self._jobs.backlog()
        for state, count in backlog.jobs.items():
            JOBS.set(count, state=state)
        QUEUE_AGE.set(backlog.oldest_s)


def _fails(store: str, error: str) -> None:
    STORE_ERRORS.inc(store=store)
    log.warning("a store fails", store=store, error=error)
