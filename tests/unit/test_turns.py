"""Whose turn it is to be claimed: by tenant, then by priority, then by how long a job has waited."""

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta

import pytest

from ingest.turns import BadPriority, Priority, Ticket, Turns, parse_priority
from tests.builders import NOON

NOBODY: Mapping[str, list[int]] = {}


def ticket(name: str, waited_s: float = 0.0, priority: Priority = Priority.NORMAL) -> Ticket:
    """Of the job `name`, whose tenant is its first letter, at noon."""
    return Ticket(priority.rank, NOON - timedelta(seconds=waited_s), name, name[0])


def claimed(turns: Turns, count: int, at_work: Mapping[str, list[int]] = NOBODY) -> list[str]:
    """The jobs that are claimed next, each ended before the next one is claimed."""
    names = []
    for _ in range(count):
        following = turns.next(NOON, at_work, guests_only=False)
        if following is None:
            break
        turns.drop(following)
        names.append(following.job_id)
    return names


def turns_of(*tickets: Ticket) -> Turns:
    """These wait."""
    turns = Turns()
    turns.replace(tickets)
    return turns


def test_a_tenant_with_one_job_takes_turns_with_one_that_queued_10_000() -> None:
    """It is the second to be claimed, wherever its job stands in the queue; and again, when it sends another."""
    turns = turns_of(*(ticket(f"a{number:05}", waited_s=10_000) for number in range(10_000)), ticket("b1"))
    assert sorted(claimed(turns, 2)) == ["a00000", "b1"]
    turns.add([ticket("b2")])
    assert "b2" in claimed(turns, 2)


def test_a_tenant_that_sends_one_job_after_another_does_not_always_go_first() -> None:
    """Who comes back, each time with one job, shares turns with who has waited all the time."""
    turns = turns_of(*(ticket(f"a{number}") for number in range(20)))
    names = []
    for number in range(20):
        turns.add([ticket(f"b{number}")])
        names += claimed(turns, 1)
    assert 9 <= sum(name.startswith("a") for name in names) <= 11


def test_the_tenant_with_fewer_jobs_at_work_is_next() -> None:
    """Also when it had a turn only just now."""
    turns = turns_of(ticket("a1"), ticket("b1"), ticket("b2"))
    assert claimed(turns, 2, {"a": [1]}) == ["b1", "b2"]


def test_priority_orders_a_tenants_own_jobs_and_nobody_elses() -> None:
    """High before normal before low, each by how long it has waited; a tenant whose jobs are all high gains nothing."""
    turns = turns_of(
        ticket("a-low", 50, Priority.LOW),
        ticket("a-late"),
        ticket("a-early", 10),
        ticket("a-high", 0, Priority.HIGH),
        ticket("b-low1", 0, Priority.LOW),
        ticket("b-low2", 0, Priority.LOW),
    )
    names = claimed(turns, 6)
    assert [name for name in names if name[0] == "a"] == ["a-high", "a-early", "a-late", "a-low"]
    assert {name[0] for name in names[:2]} == {name[0] for name in names[2:4]} == {"a", "b"}


def test_a_job_that_waits_for_its_next_attempt_lets_others_go_first() -> None:
    """Not before its `available_at`, whatever its priority."""
    turns = turns_of(ticket("a-high", -60, Priority.HIGH), ticket("a-low", 0, Priority.LOW))
    assert claimed(turns, 2) == ["a-low"]
    following = turns.next(NOON + timedelta(seconds=61), NOBODY, guests_only=False)
    assert following is not None
    assert following.job_id == "a-high"


@pytest.mark.parametrize(
    ("working", "names"),
    [
        ({"a": [1] * 32}, ["b"]),  # all places are taken by the normal jobs of one tenant
        ({"a": [1] * 31, "b": [1]}, []),
        ({"a": [1] * 31, "b": [2]}, ["b"]),  # its low one does not keep its normal one waiting
    ],
)
def test_a_guest_needs_no_free_place(working: Mapping[str, list[int]], names: list[str]) -> None:
    """A job that none of its tenant's at work goes before begins beside them; no other does."""
    turns = turns_of(ticket("a"), ticket("b"))
    following = turns.next(NOON, working, guests_only=True)
    assert ([] if following is None else [following.job_id]) == names


def test_a_ticket_read_again_is_one_ticket_and_its_news_count() -> None:
    """Reading overlaps; a job that went back to the queue has a new `available_at`."""
    turns = turns_of(ticket("a1"))
    turns.add([ticket("a1"), ticket("a1", -5)])
    assert len(turns) == 1
    assert claimed(turns, 2) == []
    turns.add([ticket("a1", 5)])
    assert claimed(turns, 2) == ["a1"]


def test_choosing_costs_the_same_for_10_and_for_10_000_jobs() -> None:
    """It looks at tenants, not at jobs: within three times, where the jobs are a thousand times as many."""

    def seconds(jobs: int) -> float:
        turns = turns_of(*(ticket(f"{number % 5}-{number}") for number in range(jobs)))
        tries: Iterable[float] = (_timed(lambda: claimed(turns, 2)) for _ in range(5))
        return min(tries)

    assert seconds(10_000) < 3 * seconds(10) + 1e-4


def _timed(call: object) -> float:
    started_at = time.perf_counter()
    assert callable(call)
    call()
    return time.perf_counter() - started_at


def test_a_priority_is_one_of_three_words() -> None:
    """In any case of letters; nothing is normal; anything else is refused with the words."""
    assert [parse_priority(text) for text in ("HIGH", " low ", "")] == [Priority.HIGH, Priority.LOW, Priority.NORMAL]
    with pytest.raises(BadPriority, match="high, normal, low"):
        parse_priority("urgent")
