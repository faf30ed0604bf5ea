"""A supervisor's duty: what it is ordered to do, and how much of the Ray cluster it may use beside its peers."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from math import ceil

from cluster.metrics import STORE_ERRORS
from cluster.nodes import cluster_address, cluster_cpus
from cluster.scheduler import FairScheduler
from ingest.errors import StoreError
from ingest.settings import Settings
from ingest.stores.roster import Order, Presence, Roster, Standing
from ingest.telemetry import get_logger

VERSION = version("fanfold")
INTERVAL_S = 1.0
SLOTS_PER_CPU = 2  # one page runs, the next is at hand: that is also what tells Ray's autoscaler to add nodes
log = get_logger()


class Duty:
    """One supervisor's. All methods run on its event loop."""

    def __init__(
        self, roster: Roster, holder: str, scheduler: FairScheduler, settings: Settings, running: Callable[[], int]
    ) -> None:
        self._roster = roster
        self._holder = holder
        self._scheduler = scheduler
        self._good_for = timedelta(seconds=settings.lease_ttl_s)
        self._running = running  # how many jobs it holds
        self.standing = Standing()  # the order that its claim loop has acted on

    @cached_property
    def _cluster(self) -> str:
        return cluster_address()

    async def look(self) -> Order:
        """The order that stands now: asked before each claim. Raises `StoreError`."""
        self.standing = await asyncio.to_thread(self._roster.standing, self._cluster)
        return self.standing.order

    async def run(self) -> None:
        """Report, and keep to its share of the slots, until cancelled."""
        while True:
            try:
                await self._share()
                await asyncio.to_thread(self._roster.report, self._presence(), good_for=self._good_for)
            except StoreError as error:
                STORE_ERRORS.inc(store="mongodb")
                log.warning("cannot report", error=error.message)
            await asyncio.sleep(INTERVAL_S)

    async def leave(self) -> None:
        """Say that it has stopped; who does not hear it finds out when the report has expired."""
        try:
            await asyncio.to_thread(self._roster.leave, self._holder)
        except StoreError as error:
            log.warning("cannot leave the roster", error=error.message)

    async def _share(self) -> None:
        """Take the slots that nodes and peers leave it: they come and go."""
        slots = SLOTS_PER_CPU * await asyncio.to_thread(cluster_cpus)
        peers = await asyncio.to_thread(self._roster.present, self._cluster)
        others = sum(peer.readers for peer in peers if peer.holder != self._holder)
        self._scheduler.resize(share(slots, mine=self._scheduler.owners, others=others))

    def _presence(self) -> Presence:
        return Presence(
            holder=self._holder,
            cluster=self._cluster,
            version=VERSION,
            obeys=self.standing.number,
            running=self._running(),
            readers=self._scheduler.owners,
        )


def share(slots: int, *, mine: int, others: int) -> int:
    """A supervisor's part of the slots, at least one: as large as its part of the jobs that have pages to read.

    So a job gets the same whoever has it, one that is alone gets everything, and Ray's queue stays as long as with one
    supervisor. Who has none is ready for one.
    """
    mine = max(mine, 1)
    return max(1, ceil(slots * mine / (mine + others)))
