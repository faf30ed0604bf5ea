"""Supervisors share a cluster by what they have to read: a job gets the same whoever has it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from cluster import duty
from cluster.duty import Duty, share
from cluster.scheduler import FairScheduler, Owner
from ingest.errors import StoreUnavailable
from ingest.settings import Settings
from ingest.stores.roster import Order, Presence, Standing
from ingest.turns import Priority

HERE = "10.0.0.1:6379"


class Roster:
    """What peers say, and what was said."""

    def __init__(self) -> None:
        self.peers: list[Presence] = []
        self.said: list[Presence] = []
        self.order = Standing()
        self.answers = True

    def standing(self, cluster: str) -> Standing:
        """The order for this cluster."""
        return self.order if cluster == HERE else Standing()

    def present(self, cluster: str) -> list[Presence]:
        """Every peer of it, and the supervisor itself."""
        if not self.answers:
            raise StoreUnavailable("MongoDB does not answer.")
        return [*self.peers, *self.said[-1:]] if cluster == HERE else []

    def report(self, presence: Presence, *, good_for: timedelta) -> None:
        """Take it down."""
        self.said.append(presence)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for it, while the loop goes on."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # nobody is there to set an event
            await asyncio.sleep(0.005)


class Post:
    """A supervisor's duty, with its cluster and its peers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpus = 4
        self.roster = Roster()
        self.scheduler = FairScheduler(1)
        monkeypatch.setattr(duty, "cluster_address", lambda: HERE)
        monkeypatch.setattr(duty, "cluster_cpus", lambda: self.cpus)
        monkeypatch.setattr(duty, "INTERVAL_S", 0.01)
        self.duty = Duty(cast("Any", self.roster), "me", self.scheduler, Settings(), lambda: 3)

    async def comes_to(self, slots: int) -> None:
        """Wait until it has so many slots to give."""
        await until(lambda: self.scheduler.slots == slots)


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    """On a cluster of four CPUs, without peers."""
    return Post(monkeypatch)


async def test_its_slots_follow_nodes_and_peers_whatever_it_does(post: Post) -> None:
    """Two for each CPU; more when nodes come, while every slot is held; fewer when a peer has pages to read too."""
    at_work = asyncio.create_task(post.duty.run())
    await post.comes_to(8)
    async with post.scheduler.slot(Owner("default", Priority.NORMAL, "book")):
        post.cpus = 16
        await post.comes_to(32)
        peer = Presence(holder="peer", cluster=HERE, version="1", obeys=0, running=4, readers=3)
        post.roster.peers = [peer]
        await post.comes_to(8)
        post.roster.answers = False
        await asyncio.sleep(0.05)
        assert post.scheduler.slots == 8  # what it knew last
        post.roster.answers, post.roster.peers = True, []
        await post.comes_to(32)
    at_work.cancel()


async def test_a_report_says_which_order_the_claim_loop_has_acted_on(post: Post) -> None:
    """Not the newest: a claim may be under way that was begun before it."""
    post.roster.order = Standing(order=Order.DRAIN, number=7)
    at_work = asyncio.create_task(post.duty.run())
    await post.comes_to(8)
    await until(lambda: bool(post.roster.said))
    assert {said.obeys for said in post.roster.said} == {0}
    assert await post.duty.look() is Order.DRAIN
    await until(lambda: post.roster.said[-1].obeys == 7)
    assert (post.roster.said[-1].running, post.roster.said[-1].readers) == (3, 0)
    at_work.cancel()


@pytest.mark.parametrize(
    ("mine", "others", "slots"),
    [
        (1, 0, 32),  # alone: everything
        (0, 0, 32),  # ready for its first job
        (3, 3, 16),
        (1, 7, 4),  # one job of eight
        (7, 1, 28),
        (0, 3, 8),  # a job that comes gets its part
        (1, 1_000, 1),  # never none
    ],
)
def test_a_supervisors_share_is_that_of_its_jobs(mine: int, others: int, slots: int) -> None:
    """Of 32 slots, in proportion to the jobs that have pages to read, here and elsewhere."""
    assert share(32, mine=mine, others=others) == slots


def test_peers_with_the_same_work_do_not_lengthen_rays_queue() -> None:
    """What two, three or eight supervisors give out is what one does, but for the rounding up."""
    for peers in (2, 3, 8):
        shares = [share(32, mine=4, others=4 * (peers - 1)) for _ in range(peers)]
        assert 32 <= sum(shares) < 32 + peers
