"""Draining: supervisors take no more jobs and replicas no more uploads, what runs may end, then all can be stopped.

The order is in MongoDB, so it needs no Ray, and holds for supervisors that are started again meanwhile.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.instance import Addresses, addresses_of_instance
from ingest.errors import ConfigurationError, Conflict
from ingest.settings import Settings
from ingest.stores import mongo
from ingest.stores.jobs import JobStore
from ingest.stores.roster import Order, Roster, Standing

POLL_S = 0.5
PRESENCE_S = 3.0  # in which whoever works on the queue reports: `Duty` does so every second
MOST_COUNTED = 1_000_000
GIVE_BACK_TIMEOUT_S = 60.0  # a job is given back when its work has been stopped: seconds, if it listens to nothing


@contextmanager
def connected_drain(settings: Settings, cluster: str | None) -> Iterator["Drain"]:
    """The drain of the Ray cluster at this address; without one, of this data directory's, or of the only one at work.

    Raises `ConfigurationError` where that is none, or several, and where no MongoDB is known.
    """
    here = _instance(settings)
    given = None if settings.mongodb_uri is None else settings.mongodb_uri.get_secret_value()
    uri = given or (here and here.mongodb_uri)
    if not uri:
        raise ConfigurationError("No Fanfold runs on this data directory. Set FANFOLD_MONGODB_URI to drain another.")
    database = mongo.connect(uri, settings.mongodb_database)
    with contextlib.closing(database.client):
        roster = Roster(database)
        jobs = JobStore(database, lease_ttl_s=settings.lease_ttl_s, job_timeout_s=settings.job_timeout_s)
        yield Drain(roster, jobs, cluster or (here.ray_address if here else _only_one(roster)))


def _instance(settings: Settings) -> Addresses | None:
    try:
        return addresses_of_instance(settings.home)
    except Conflict:  # none runs, or it is not up yet
        return None


def _at_work(roster: Roster) -> list[str]:
    """The Ray clusters that work on this queue. Raises `ConfigurationError` where none says so for some seconds.

    Those that have just not been able to report, because MongoDB was away, report within a second.
    """
    give_up_at = time.monotonic() + PRESENCE_S
    while not (clusters := sorted({peer.cluster for peer in roster.present()})):
        if time.monotonic() >= give_up_at:
            raise ConfigurationError("No supervisor works on this queue: nothing runs, and it is safe to stop.")
        time.sleep(POLL_S)
    return clusters


def _only_one(roster: Roster) -> str:
    clusters = _at_work(roster)
    if len(clusters) > 1:
        raise ConfigurationError(f"Several Ray clusters work on this queue. Add --cluster {' or '.join(clusters)}.")
    return clusters[0]


@dataclass(frozen=True, slots=True)
class Drained:
    """How far a drain has come."""

    cluster: str  # address of the Ray cluster that is drained
    running: int  # jobs that its supervisors still hold
    unheard: int  # supervisors that have not heard of the order yet, and may just be taking a job
    waiting: int  # jobs in the queue, for whoever works on it next
    given_back: int  # jobs that were told to go back to the queue because time was up

    @property
    def done(self) -> bool:
        """Whether nothing runs any more: it is safe to stop."""
        return self.running == self.unheard == 0


class Drain:
    """The drain of one Ray cluster."""

    def __init__(self, roster: Roster, jobs: JobStore, cluster: str) -> None:
        self._roster = roster
        self._jobs = jobs
        self.cluster = cluster

    def run(self, timeout_s: float, on_progress: Callable[[Drained], None]) -> Drained:
        """Let what runs end, for so long at the most, then have it given back; how it ended.

        It is not done only if a supervisor that is there does not obey. The order stands afterwards, whatever happens.
        Raises `ConfigurationError` when no supervisor is there at its beginning: then the address may be a wrong one.
        """
        self._refuse_nobodys()
        ended = self._follow(self._roster.command(self.cluster, Order.DRAIN), timeout_s, on_progress)
        if ended.done:
            return ended
        order, left = self._roster.command(self.cluster, Order.GIVE_BACK), ended.running
        return self._follow(order, GIVE_BACK_TIMEOUT_S, on_progress, given_back=left)

    def end(self) -> None:
        """Supervisors take jobs again, and replicas uploads.

        Raises `ConfigurationError` when there is neither a drain to end nor a supervisor: the address is a wrong one.
        """
        if self._roster.standing(self.cluster).order is Order.WORK:
            self._refuse_nobodys()
        self._roster.command(self.cluster, Order.WORK)

    def _refuse_nobodys(self) -> None:
        clusters = _at_work(self._roster)
        if self.cluster not in clusters:
            raise ConfigurationError(
                f"No supervisor of the Ray cluster {self.cluster} works on this queue. "
                f"There are supervisors of {' and '.join(clusters)}: name one with --cluster."
            )

    def _follow(
        self, order: Standing, timeout_s: float, on_progress: Callable[[Drained], None], given_back: int = 0
    ) -> Drained:
        give_up_at = time.monotonic() + timeout_s
        while True:
            peers = self._roster.present(self.cluster)
            seen = Drained(
                self.cluster,
                running=sum(peer.running for peer in peers),
                unheard=sum(peer.obeys < order.number for peer in peers),
                waiting=self._jobs.count_waiting(MOST_COUNTED),
                given_back=given_back,
            )
            on_progress(seen)
            if seen.done or time.monotonic() >= give_up_at:
                return seen
            time.sleep(POLL_S)
