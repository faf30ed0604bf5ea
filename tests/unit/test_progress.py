"""What a person sees of a run does not grow with the number of documents."""

import io
import time

import pytest
from rich.console import Console

from cluster import progress
from cluster.outcome import Outcome, Tally
from cluster.sources import Source
from ingest.errors import Category
from ingest.model import Failure, JobState, Progress
from serve.schemas import JobView
from tests.builders import a_job

DONE = JobView.of(a_job(state=JobState.SUCCEEDED, progress=Progress(pages_total=2, pages_done=2)))
RUNNING = JobView.of(a_job(state=JobState.RUNNING, progress=Progress(pages_total=2, pages_done=1)))
BROKEN = Failure(category=Category.INPUT, message="It is [broken].", retryable=False)


def console(*, terminal: bool) -> Console:
    """One that keeps what is written."""
    return Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=120, height=40)


def said(console: Console) -> str:
    """What was written to it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_million_documents_do_not_flood(terminal: bool) -> None:
    """A hundred lines about what is done, a thousand about what failed, and a word that the rest is counted."""
    into = console(terminal=terminal)
    tally = Tally(found_all=True)
    with progress.shown(into, tally, hidden=False) as display:
        for number in range(2_000):
            source = Source(f"/in/{number}.pdf")
            display.moved(source, RUNNING)
            display.ended(Outcome(source, DONE))
            display.ended(Outcome(source, None, BROKEN))
    lines = said(into).splitlines()
    assert sum("succeeded" in line and "2 pages" in line for line in lines) == progress.DONE_LINES
    assert sum("It is [broken]." in line for line in lines) == progress.FAILED_LINES
    assert sum("only counted" in line for line in lines) == 2


def test_few_bars_stand_for_many_documents() -> None:
    """One for the whole and sixteen for some of those in flight, which make room for others as they end."""
    into = console(terminal=True)
    with progress.shown(into, Tally(), hidden=False) as display:
        assert isinstance(display, progress._Bars)
        for number in range(100):
            display.moved(Source(f"/in/{number}.pdf"), RUNNING)
        assert len(display._progress.tasks) == 1 + progress.BARS
        display.ended(Outcome(Source("/in/3.pdf"), DONE))
        display.moved(Source("/in/99.pdf"), RUNNING)
        names = {task.description for task in display._progress.tasks}
    assert "99.pdf" in names
    assert "3.pdf" not in names


def test_a_log_says_every_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain lines with the counts, the pace, and why nothing moves."""
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.02)
    into = console(terminal=False)
    tally = Tally(ended=3, failed=1, in_flight=2, waiting="As many jobs wait as this service takes on.")
    with progress.shown(into, tally, hidden=False):
        time.sleep(0.3)
    first, second, *_ = said(into).splitlines()
    assert first == second
    assert "3 done, 1 failed, 2 in flight, 0.0 pages/s" in first
    assert "As many jobs wait" in first
    assert "\x1b" not in said(into)


def test_the_last_lines_are_honest() -> None:
    """What failed, what was there before, and what goes on after a stop."""

    def summary(tally: Tally, *, follow: bool = True, stopped: bool = False) -> str:
        return str(progress.summary(tally, follow=follow, stopped=stopped))

    assert summary(Tally(ended=3)) == "3 documents done."
    assert summary(Tally(ended=1), follow=False) == "1 document submitted."
    assert summary(Tally()) == "No PDF found."
    assert summary(Tally(ended=3, failed=1, already_there=2)).startswith(
        "1 of 3 documents failed.\n2 had been submitted"
    )
    assert "1 job cancelled, 2 jobs going on" in summary(Tally(ended=3, cancelled=1, going_on=2), stopped=True)
