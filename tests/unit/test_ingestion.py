"""A run over many documents: bounded, lazy, patient, and stopped at once. The service is a fake that counts."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ingestion
from cluster.ingestion import Ingestion, Options
from cluster.outcome import Outcome
from cluster.sources import Found, Missing, Source
from ingest.errors import Category
from serve.client import ServiceError
from tests.fakes import FakeService, refusal

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for what a person would wait for."""
    for name in ("FIRST_LOOK_S", "LOOK_EVERY_S", "COME_BACK_S"):
        monkeypatch.setattr(ingestion, name, 0.01)
    monkeypatch.setattr(ingestion, "LOOKS_PER_S", 10_000)


def urls(count: int, taken: list[str] | None = None) -> Iterator[Found]:
    """Documents by reference; `taken` gets each as it is asked for."""
    for number in range(count):
        if taken is not None:
            taken.append(f"s3://archive/{number}.pdf")
        yield Source(f"s3://archive/{number}.pdf")


def until(holds: object) -> None:
    """Wait for it."""
    assert callable(holds)
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


class Running:
    """A run in a thread of its own."""

    def __init__(self, run: Ingestion, found: Iterator[Found]) -> None:
        self.outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self.outcomes.extend(run.run(found)))
        self._thread.start()

    def join(self) -> list[Outcome]:
        """The outcomes, once it has ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.outcomes


def test_no_more_than_the_bound_are_in_flight_and_none_is_found_ahead() -> None:
    """Of 300 documents never more than 7 are under way, and never more than one is known beyond those."""
    service, taken = FakeService(looks=3), list[str]()
    run = Ingestion(service, Options(in_flight=7))
    ended = 0
    for outcome in run.run(urls(300, taken)):
        ended += 1
        assert outcome.state == "succeeded"
        assert len(taken) <= ended + 7 + 1
    assert ended == 300
    assert service.most_open == 7
    assert sorted(service.submitted) == sorted(taken)
    assert (run.tally.ended, run.tally.failed, run.tally.in_flight) == (300, 0, 0)


def test_a_thousand_in_flight_do_not_take_a_thread_each() -> None:
    """The callers are few, however many documents are under way."""
    service, most = FakeService(looks=2), 0
    before = threading.active_count()
    for _outcome in Ingestion(service, Options(in_flight=1_000)).run(urls(1_000)):
        most = max(most, threading.active_count())
    assert service.most_open > ingestion.CALLERS + 1
    assert most - before <= ingestion.CALLERS + 1


def test_without_following_the_outcome_is_the_submit() -> None:
    """The job is under way, and that is no failure."""
    outcomes = list(Ingestion(FakeService(), Options(follow=False)).run(urls(3)))
    assert [(outcome.state, outcome.failed, outcome.stopped) for outcome in outcomes] == [("running", False, False)] * 3


def test_a_full_service_is_waited_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each "come back later" is obeyed, none counts as a failure, and the display can say why nothing moves."""
    monkeypatch.setattr(ingestion, "PATIENCE_S", 0.0)
    service = FakeService()
    service.refusals = [refusal(503, "service-full", retryable=True, retry_after_s=0.02) for _ in range(20)]
    run = Ingestion(service, Options(in_flight=2))
    said: set[str | None] = set()
    outcomes = list(run.run(urls(3), on_change=lambda _source, _job: said.add(run.tally.waiting)))
    assert [outcome.state for outcome in outcomes] == ["succeeded"] * 3
    assert service.refusals == []


def test_what_one_document_is_refused_for_again_and_again_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place in flight is not kept for ever by an object that cannot be read; the others go on."""
    monkeypatch.setattr(ingestion, "PATIENCE_S", 0.05)
    service = FakeService()
    service.refusals = [refusal(503, "store-unavailable", retryable=True, retry_after_s=0.01) for _ in range(1_000)]
    [outcome] = Ingestion(service).run(urls(1))
    assert outcome.failure is not None
    assert (outcome.state, outcome.failure.category) == ("refused", Category.STORE)
    assert 2 <= 1_000 - len(service.refusals) < 100


def test_a_refusal_is_the_documents_own(tmp_path: Path) -> None:
    """Each with its category and message; the next one is taken as if nothing had been."""
    service = FakeService()
    service.refusals = [refusal(403, "not allowed"), refusal(400, "not a PDF")]
    (tmp_path / "large.pdf").write_bytes(bytes(10_001))
    found = [
        *urls(2),
        Missing(Source("s3://gone"), "There is no object below it."),
        Source(str(tmp_path / "nothing.pdf")),
        Source(str(tmp_path / "large.pdf")),
        Source("s3://archive/last.pdf"),
    ]
    run = Ingestion(service, Options(in_flight=1))
    outcomes = {outcome.source.label: outcome for outcome in run.run(iter(found))}
    categories = {name: outcome.failure and outcome.failure.category for name, outcome in outcomes.items()}
    assert categories == {
        "0.pdf": Category.CONFIGURATION,
        "1.pdf": Category.INPUT,
        "gone": Category.NOT_FOUND,
        "nothing.pdf": Category.NOT_FOUND,
        "large.pdf": Category.INPUT,
        "last.pdf": None,
    }
    assert run.tally.failed == 5


def test_a_service_that_restarts_costs_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers for a while: every document ends well all the same."""
    monkeypatch.setattr(ingestion, "LONGEST_PAUSE_S", 0.05)
    service = FakeService(looks=10)
    run = Ingestion(service, Options(in_flight=5))
    running = Running(run, urls(20))
    until(lambda: run.tally.ended >= 2)
    service.answers = False
    until(lambda: run.tally.waiting == "Nobody answers.")
    time.sleep(0.3)
    service.answers = True
    assert [outcome.state for outcome in running.join()] == ["succeeded"] * 20


def test_a_quiet_time_before_is_no_silence_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names the documents took longer than the run's patience; the service is away for a moment after that."""
    monkeypatch.setattr(ingestion, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(ingestion, "PATIENCE_S", 0.3)
    service = FakeService(looks=3)

    def slowly() -> Iterator[Found]:
        time.sleep(0.4)
        service.answers = False
        threading.Timer(0.1, lambda: setattr(service, "answers", True)).start()
        yield from urls(2)

    assert [outcome.state for outcome in Ingestion(service).run(slowly())] == ["succeeded"] * 2


def test_a_service_that_stays_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience; the documents in flight are reported as they were last seen."""
    monkeypatch.setattr(ingestion, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(ingestion, "PATIENCE_S", 0.2)
    service, outcomes = FakeService(looks=1_000_000), list[Outcome]()
    run = Ingestion(service, Options(in_flight=3))
    threading.Timer(0.3, lambda: setattr(service, "answers", False)).start()
    with pytest.raises(ServiceError, match="Nobody answers"):
        outcomes.extend(run.run(urls(10)))  # what comes before the error is kept
    assert [(outcome.state, outcome.stopped) for outcome in outcomes] == [("running", True)] * 3


def test_without_a_service_nothing_begins() -> None:
    """The first answer is asked for before anything is found."""
    service = FakeService()
    service.answers = False
    with pytest.raises(ServiceError):
        Ingestion(service)


@pytest.mark.parametrize("cancel", [False, True])
def test_a_stop_is_prompt_and_says_what_goes_on(cancel: bool) -> None:
    """Nothing is submitted any more; jobs go on, or those that the run made, and no other, are cancelled."""
    service = FakeService(looks=1_000_000)
    service.known = {"s3://archive/3.pdf"}
    run = Ingestion(service, Options(in_flight=6, cancel_on_stop=cancel, stop_within_s=5))
    running = Running(run, urls(100))
    until(lambda: len(service.submitted) == 6)
    time.sleep(0.1)
    stopped_at = time.monotonic()
    run.stop()
    outcomes = running.join()
    assert time.monotonic() - stopped_at < 2
    assert len(service.submitted) == len(outcomes) == 6
    assert all(outcome.stopped for outcome in outcomes)
    cancelled = {outcome.source.name for outcome in outcomes if outcome.state == "cancelled"}
    assert cancelled == ({f"s3://archive/{number}.pdf" for number in (0, 1, 2, 4, 5)} if cancel else set())
    assert {outcome.state for outcome in outcomes if outcome.source.name not in cancelled} == {"running"}
    assert len(service.cancelled) == len(cancelled)
    assert (run.tally.cancelled, run.tally.going_on) == ((5, 1) if cancel else (0, 6))
    assert run.tally.ended == 0


def test_a_stop_waits_for_no_slow_answer() -> None:
    """Submits that hang are left behind in time, and said to be unknown."""
    service = FakeService()
    service.delay_s = 20
    run = Ingestion(service, Options(in_flight=4, cancel_on_stop=True, stop_within_s=0.4))
    running = Running(run, urls(100))
    until(lambda: run.tally.in_flight == 4)
    time.sleep(0.1)
    stopped_at = time.monotonic()
    run.stop()
    outcomes = running.join()
    assert time.monotonic() - stopped_at < 1.5
    assert [outcome.state for outcome in outcomes] == ["unknown"] * 4


def test_a_stop_does_not_wait_for_the_next_document() -> None:
    """Also when a producer at the other end of a pipe is silent."""
    silent = threading.Event()

    def one_then_silence() -> Iterator[Found]:
        yield Source("s3://archive/1.pdf")
        silent.wait(PATIENCE_S)

    run = Ingestion(FakeService())
    running = Running(run, one_then_silence())
    until(lambda: run.tally.ended == 1)
    run.stop()
    [outcome] = running.join()
    silent.set()
    assert outcome.state == "succeeded"


def test_pages_are_counted_from_where_the_run_found_them() -> None:
    """What a run shows as its pace is what was done meanwhile."""
    run = Ingestion(FakeService(looks=5), Options(in_flight=2))
    assert len(list(run.run(urls(4)))) == 4
    assert run.tally.pages_per_second > 0
