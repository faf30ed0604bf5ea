"""A drain over a real MongoDB: it is over when every supervisor that is there has heard of it and holds nothing."""

import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from cluster import cli
from cluster import drain as draining
from cluster.drain import Drain, Drained, connected_drain
from cluster.embedded import EmbeddedMongoDB
from cluster.instance import Addresses, tell_addresses
from ingest.errors import ConfigurationError
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.roster import Order, Presence

HERE, ELSEWHERE = "10.0.0.1:6379", "10.0.0.2:6379"
LONG, AT_ONCE = timedelta(minutes=5), timedelta(milliseconds=1)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits."""
    monkeypatch.setattr(draining, "POLL_S", 0.01)
    monkeypatch.setattr(draining, "PRESENCE_S", 1.5)
    monkeypatch.setattr(draining, "GIVE_BACK_TIMEOUT_S", 5)


@pytest.fixture
def drain(stores: Stores) -> Drain:
    """Of one Ray cluster."""
    return Drain(stores.roster, stores.jobs, HERE)


def report(stores: Stores, holder: str, *, running: int, cluster: str = HERE, obeys: bool = True) -> None:
    """What a supervisor says of itself, which has heard of the order that stands, or not."""
    number = stores.roster.standing(cluster).number if obeys else 0
    said = Presence(holder=holder, cluster=cluster, version="1", obeys=number, running=running, readers=running)
    stores.roster.report(said, good_for=LONG)


def obeying(stores: Stores, *running: int, gives_back: bool = False) -> Callable[[Drained], None]:
    """A supervisor that hears of the order, and then holds so many jobs, one look after the other."""
    left = iter(running)

    def on_progress(_seen: Drained) -> None:
        ordered_back = stores.roster.standing(HERE).order is Order.GIVE_BACK
        report(stores, "a", running=0 if gives_back and ordered_back else next(left))

    return on_progress


def test_what_runs_may_end(stores: Stores, drain: Drain) -> None:
    """It lasts until nothing runs, and says so; nothing was given back."""
    report(stores, "a", running=2)
    seen: list[tuple[int, int]] = []
    progress = obeying(stores, 2, 1, 1, 0, 0)

    def on_progress(now: Drained) -> None:
        seen.append((now.running, now.unheard))
        progress(now)

    ended = drain.run(30, on_progress)
    assert (ended.done, ended.running, ended.given_back) == (True, 0, 0)
    assert seen == [(2, 1), (2, 0), (1, 0), (1, 0), (0, 0)]
    assert stores.roster.standing(HERE).order is Order.DRAIN


def test_a_supervisor_that_has_not_heard_of_it_may_just_be_taking_a_job(
    stores: Stores, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing running it is not safe to stop before it has heard; an order of an earlier drain is another."""
    stores.roster.command(HERE, Order.DRAIN)
    report(stores, "a", running=0)
    stores.roster.command(HERE, Order.WORK)
    monkeypatch.setattr(draining, "GIVE_BACK_TIMEOUT_S", 0.1)
    ended = drain.run(0.05, lambda _seen: None)
    assert (ended.done, ended.running, ended.unheard) == (False, 0, 1)


def test_what_runs_too_long_is_given_back(stores: Stores, drain: Drain) -> None:
    """After the timeout the order is another, and the drain says how many went back."""
    report(stores, "a", running=3)
    ended = drain.run(0.05, obeying(stores, *[3] * 1_000, gives_back=True))
    assert (ended.done, ended.given_back) == (True, 3)
    assert stores.roster.standing(HERE).order is Order.GIVE_BACK


def test_the_dead_and_other_clusters_are_not_waited_for(stores: Stores, drain: Drain) -> None:
    """A supervisor whose report has expired holds no lease any more; another cluster's goes on working."""
    dead = Presence(holder="dead", cluster=HERE, version="1", obeys=0, running=5, readers=5)
    stores.roster.report(dead, good_for=AT_ONCE)
    report(stores, "a", running=0)
    report(stores, "b", running=4, cluster=ELSEWHERE)
    assert drain.run(5, obeying(stores, 0, 0)).done
    assert stores.roster.standing(ELSEWHERE).order is Order.WORK


def test_a_drain_ends_with_the_next_order(stores: Stores, drain: Drain) -> None:
    """Supervisors work again, and each order has a number of its own."""
    assert stores.roster.standing(HERE).order is Order.WORK
    report(stores, "a", running=0)
    drain.run(5, obeying(stores, 0, 0))
    number = stores.roster.standing(HERE).number
    drain.end()
    assert stores.roster.standing(HERE).order is Order.WORK
    assert stores.roster.standing(HERE).number > number


def test_supervisors_that_leave_while_they_are_drained_are_not_missed(stores: Stores, drain: Drain) -> None:
    """Somebody stops the cluster before the drain has seen its end: it is over, and it can be ended."""
    report(stores, "a", running=1)
    ended = drain.run(30, lambda _seen: stores.roster.leave("a"))
    assert (ended.done, ended.running, ended.given_back) == (True, 0, 0)
    assert stores.roster.standing(HERE).order is Order.DRAIN
    drain.end()
    assert stores.roster.standing(HERE).order is Order.WORK


def test_an_address_that_is_nobodys_is_refused(
    stores: Stores,
    mongodb: EmbeddedMongoDB,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A host name, say, where the roster has numbers: never "safe to stop", but exit code 2 and who is there."""
    report(stores, "a", running=3)
    report(stores, "b", running=0, cluster=ELSEWHERE)
    monkeypatch.setenv("FANFOLD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FANFOLD_MONGODB_URI", mongodb.uri)
    monkeypatch.setenv("FANFOLD_MONGODB_DATABASE", stores.jobs._jobs.database.name)
    for more in ([], ["--resume"]):
        monkeypatch.setattr(sys, "argv", ["fanfold", "drain", "--cluster", "head:6379", *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert f"{HERE} and {ELSEWHERE}" in said.err
        assert "safe" not in said.out + said.err
    assert stores.roster.standing("head:6379").number == 0


def test_where_nobody_works_nothing_is_drained(stores: Stores, drain: Drain) -> None:
    """Neither on the queue nor of the cluster; no order is left behind that a start would have to end."""
    for order in (lambda: drain.run(5, lambda _seen: None), drain.end):
        with pytest.raises(ConfigurationError, match="No supervisor works on this queue"):
            order()
    assert stores.roster.standing(HERE).number == 0


def test_supervisors_that_could_not_report_for_a_while_are_waited_for(
    stores: Stores, mongodb: EmbeddedMongoDB, settings: Settings
) -> None:
    """MongoDB was away for longer than a report is good for: it is not "safe to stop" in the first second after."""
    name = stores.jobs._jobs.database.name
    there = settings.model_copy(update={"mongodb_uri": SecretStr(mongodb.uri), "mongodb_database": name})
    again = threading.Timer(0.5, lambda: report(stores, "a", running=3))
    again.start()
    with connected_drain(there, None) as only:
        assert only.cluster == HERE
    again.join()


def test_who_has_left_is_not_present(stores: Stores) -> None:
    """Nobody divides the slots with one that has stopped."""
    report(stores, "a", running=0)
    report(stores, "b", running=0, cluster=ELSEWHERE)
    assert {peer.holder for peer in stores.roster.present()} == {"a", "b"}
    stores.roster.leave("a")
    assert stores.roster.present(HERE) == []


def test_which_cluster_is_drained(stores: Stores, mongodb: EmbeddedMongoDB, settings: Settings, tmp_path: Path) -> None:
    """The one that is named; this data directory's; the only one at work. Where it is not clear, nothing is drained."""
    name = stores.jobs._jobs.database.name
    there = settings.model_copy(update={"mongodb_uri": SecretStr(mongodb.uri), "mongodb_database": name})
    with pytest.raises(ConfigurationError, match="safe to stop"), connected_drain(there, None):
        pass
    report(stores, "a", running=0)
    with connected_drain(there, None) as only:
        assert only.cluster == HERE
    report(stores, "b", running=0, cluster=ELSEWHERE)
    with pytest.raises(ConfigurationError, match=f"--cluster {HERE} or {ELSEWHERE}"), connected_drain(there, None):
        pass
    with connected_drain(there, ELSEWHERE) as named:
        assert named.cluster == ELSEWHERE
    there.home.mkdir(parents=True)
    tell_addresses(there.home, Addresses(ray_address=HERE, ray_auth_mode=None, mongodb_uri=mongodb.uri))
    with connected_drain(settings.model_copy(update={"mongodb_database": name}), None) as mine:
        assert mine.cluster == HERE


def test_without_a_mongodb_it_says_what_to_set(settings: Settings) -> None:
    """Nothing runs on this data directory, and no address is set."""
    with pytest.raises(ConfigurationError, match="FANFOLD_MONGODB_URI"), connected_drain(settings, None):
        pass
