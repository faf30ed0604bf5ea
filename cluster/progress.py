"""What a person sees of a run: bars at a terminal, lines in a log. Neither grows with the number of documents."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cluster.display import count, doing, styled
from cluster.outcome import Outcome, Tally
from cluster.sources import Source
from serve.schemas import JobView

DONE_LINES = 100  # so many documents get a line when they are done, all others are counted
FAILED_LINES = 1_000  # the same of those that failed
BARS = 16
TICK_S = 1.0
LOG_EVERY_S = 10.0


class Display(Protocol):
    """Is told what happens."""

    def moved(self, source: Source, job: JobView) -> None:
        """The job of a document in flight was looked at."""

    def ended(self, outcome: Outcome) -> None:
        """A document has its outcome."""


@contextmanager
def shown(console: Console, tally: Tally, *, hidden: bool) -> Iterator[Display]:
    """What fits where the console writes to: a terminal, a log, or nothing."""
    if hidden:
        yield _Nothing()
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            bars = _Bars(progress, tally)
            with _every(TICK_S, bars.tick):
                yield bars
    else:
        log = _Log(console, tally)
        with _every(LOG_EVERY_S, log.tick):
            yield log


def summary(tally: Tally, *, follow: bool, stopped: bool) -> RenderableType:
    """The last lines: how many of how many, and what goes on."""
    documents = count(tally.ended, "document")
    if tally.failed:
        lines = [Text(f"{tally.failed} of {documents} failed.", style="bold red")]
    elif tally.ended or stopped:
        lines = [Text(f"{documents} {'done' if follow else 'submitted'}.", style="green")]
    else:
        lines = [Text("No PDF found.", style="yellow")]
    if tally.already_there:
        lines.append(Text(f"{tally.already_there} had been submitted before: nothing was repeated."))
    if stopped:
        ends = f"{count(tally.cancelled, 'job')} cancelled, " if tally.cancelled else ""
        lines.append(
            Text(f"Stopped: {ends}{count(tally.going_on, 'job')} going on. Run it again to resume.", style="yellow")
        )
    return Text("\n").join(lines)


class _Nothing:
    def moved(self, source: Source, job: JobView) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...


class _Lines:
    """A line a document, up to a number of them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._left = {False: DONE_LINES, True: FAILED_LINES}

    def ended(self, outcome: Outcome) -> None:
        if outcome.stopped:
            return
        kind = outcome.failed
        if self._left[kind] > 0:
            self._console.print(_line(outcome), soft_wrap=True)
        self._left[kind] -= 1
        if self._left[kind] == 0:
            what = "fail" if kind else "are done"
            self._console.print(f"[dim]Further documents that {what} are only counted, and in the report.[/]")


class _Log(_Lines):
    """Lines only: some about documents, and every now and then one about all."""

    def __init__(self, console: Console, tally: Tally) -> None:
        super().__init__(console)
        self._tally = tally

    def moved(self, source: Source, job: JobView) -> None: ...

    def tick(self) -> None:
        """Say how far it is."""
        self._console.print(_overall(self._tally), soft_wrap=True)


class _Bars(_Lines):
    """A bar for the whole run, and one each for some of the documents in flight."""

    def __init__(self, progress: Progress, tally: Tally) -> None:
        super().__init__(progress.console)
        self._progress = progress
        self._tally = tally
        self._whole = progress.add_task("[bold]All[/]", total=None, state="")
        self._bars: dict[Source, TaskID] = {}

    def moved(self, source: Source, job: JobView) -> None:
        """Show how far the job is, where there is room for its bar."""
        bar = self._bars.get(source)
        if bar is None:
            if len(self._bars) >= BARS:
                return
            bar = self._bars[source] = self._progress.add_task(escape(source.label), total=100, state="")
        percent = job.progress.percent
        self._progress.update(bar, completed=percent, state=f"{percent:3.0f} % {styled(job.state)} {doing(job)}")

    def ended(self, outcome: Outcome) -> None:
        """Take the bar away and leave a line."""
        bar = self._bars.pop(outcome.source, None)
        if bar is not None:
            self._progress.remove_task(bar)
        super().ended(outcome)
        self.tick()

    def tick(self) -> None:
        """Move the first bar."""
        tally = self._tally
        total = tally.ended + tally.in_flight if tally.found_all else None
        self._progress.update(self._whole, completed=tally.ended, total=total, state=_overall(tally))


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _overall(tally: Tally) -> str:
    waiting = f"  [yellow]waits: {escape(tally.waiting)}[/]" if tally.waiting else ""
    return (
        f"{tally.ended} done, {tally.failed} failed, {tally.in_flight} in flight, "
        f"{tally.pages_per_second:.1f} pages/s{waiting}"
    )


def _line(outcome: Outcome) -> str:
    name = escape(outcome.source.label)
    if outcome.failure is not None:
        before = " [dim](earlier)[/]" if outcome.already_there else ""
        return f"[bold red]failed[/]  {name}: {escape(outcome.failure.message)}{before}"
    assert outcome.job is not None
    progress = outcome.job.progress
    ended = outcome.job.state.terminal
    what = f"{count(progress.pages_total, 'page')}, {count(progress.chunks_stored, 'chunk')}" if ended else ""
    missing = f", [yellow]{count(len(outcome.job.failed_pages), 'page')} failed[/]" if outcome.job.failed_pages else ""
    there = "  [dim](already there)[/]" if outcome.already_there else ""
    return f"{styled(outcome.job.state)}  {name}  [dim]{what}[/]{missing}{there}"
