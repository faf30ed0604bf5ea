"""What the command line shows: tables, bars and panels, from the same views that the HTTP interface gives."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cluster.drain import Drained
from ingest.findings import Finding
from ingest.model import JobState, Stage
from ingest.settings import Settings
from ingest.turns import Priority
from serve.client import ServiceError
from serve.schemas import DocumentView, JobView, SubmitView
from serve.search_schemas import Hit, SearchResponse

STATE_STYLE = {
    JobState.QUEUED: "dim",
    JobState.RUNNING: "cyan",
    JobState.CANCELLING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.PARTIALLY_SUCCEEDED: "yellow",
    JobState.FAILED: "bold red",
    JobState.CANCELLED: "yellow",
}
FILE_COLUMN, STATE_COLUMN, GAP, INDENT = 1, 2, 2, 3
SHORTEST_FILENAME, LONGEST_FILENAME = 8, 40


class Row(NamedTuple):
    """A line of a listing: its cells in Rich's markup, and what is said below it."""

    cells: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of ids, file names and facts. Only a terminal cuts, and only the names: ids are copied."""

    titles: Sequence[str]
    rows: Sequence[Row]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, as Rich asks for them."""
        lines = [[Text(title, "bold") for title in self.titles]]
        lines += [[Text.from_markup(cell, emoji=False) for cell in row.cells] for row in self.rows]
        widths = [max(line[column].cell_len for line in lines) for column in range(len(self.titles))]
        if options.is_terminal:
            widths[FILE_COLUMN] = min(widths[FILE_COLUMN], LONGEST_FILENAME)
            missing = sum(widths) + GAP * (len(widths) - 1) - options.max_width
            widths[FILE_COLUMN] = max(widths[FILE_COLUMN] - max(missing, 0), SHORTEST_FILENAME)
        for line, note in zip(lines, ["", *(row.note for row in self.rows)], strict=True):
            for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
                cell.truncate(width, overflow="ellipsis")
                cell.align("right" if column > STATE_COLUMN else "left", width)
            yield Text(" " * GAP, no_wrap=True).join(line)
            if note:
                yield Padding(Text(note, "red"), (0, 0, 0, GAP), expand=False)


@dataclass(frozen=True, slots=True)
class Heading:
    """A title in Rich's markup; on a terminal with a rule after it, which cuts it where it is too long."""

    title: str

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """The line, as Rich asks for it."""
        whole = Text.from_markup(self.title, emoji=False)
        yield Rule(whole, align="left", style="dim") if options.is_terminal else whole


@contextmanager
def steps(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """A spinner whose text each call of the yielded function replaces; an empty one hides it."""
    with console.status(title) as status:

        def step(name: str) -> None:
            if name:
                status.update(f"{title}: {name}")
                status.start()
            else:
                status.stop()

        yield step


def places(settings: Settings, dashboard_url: str) -> dict[str, str]:
    """Where everything is, once it runs."""
    return {
        "page": settings.http_url,
        "api": f"{settings.http_url}/docs",
        "dashboard": dashboard_url,
        "data": str(settings.home),
    }


def started(settings: Settings, dashboard_url: str) -> RenderableType:
    """The same for people, and what to do next."""
    rows = Table.grid(padding=(0, 2))
    titles = {"page": "Web page", "api": "API", "dashboard": "Ray dashboard", "data": "Data"}
    for name, place in places(settings, dashboard_url).items():
        rows.add_row(titles[name], Text(place))
    if settings.api_keys:
        rows.add_row("Open to", f"holders of {count(len(settings.api_keys), 'API key')}")
    rows.add_row("Try", '[bold]fanfold ingest FILE.pdf[/], then [bold]fanfold search "words"[/]')
    return Panel(rows, title="Fanfold is up", subtitle="Ctrl-C stops it", border_style="green", expand=False)


def stopped(settings: Settings, *, stopped: bool) -> str:
    """How `fanfold down` ended."""
    if stopped:
        return "Fanfold has stopped."
    elsewhere = " One that was deployed on Ray ends with its Ray cluster: `fanfold drain` goes before that."
    return f"Fanfold was not running here.{elsewhere if settings.mongodb_uri is not None else ''}"


def draining(seen: Drained) -> str:
    """How far a drain is, in one line."""
    waiting = count(seen.waiting, "job")
    return f"Draining: {count(seen.running, 'job')} at work, {waiting} in the queue"


def drained(ended: Drained) -> str:
    """How a drain ended."""
    if not ended.done:
        return f"[red]Not done: {count(ended.running, 'job')} at work, and a supervisor does not obey.[/] See its log."
    back = f" {count(ended.given_back, 'job')} went back to the queue." if ended.given_back else ""
    return f"Nothing runs any more: it is safe to stop.{back} In the queue: {count(ended.waiting, 'job')}."


def job_table(jobs: Sequence[JobView]) -> RenderableType:
    """One row a job, and below it why it failed."""
    rows = [
        Row(
            (
                job.job_id,
                escape(job.filename),
                styled(job.state),
                f"{job.progress.pages_done}/{job.progress.pages_total}",
                _age(job.created_at),
            ),
            "" if job.error is None else job.error.message,
        )
        for job in jobs
    ]
    return Listing(("JOB", "FILE", "STATE", "PAGES", "AGE"), rows) if jobs else Text("No jobs.", style="dim")


def job_details(job: JobView) -> RenderableType:
    """Everything about one job."""
    head = Table.grid(padding=(0, 2))
    head.add_row("State", f"{styled(job.state)}  {job.progress.percent:.0f} %  {doing(job)}")
    head.add_row("File", escape(job.filename))
    head.add_row("Document", f"{job.document_id}, revision {job.revision}")
    head.add_row("Created", _instant(job.created_at))
    if job.priority is not Priority.NORMAL:
        head.add_row("Priority", job.priority)
    if job.error is not None:
        head.add_row("Error", f"[red]{escape(job.error.message)}[/] ({job.error.category})")
    stages = Table("STAGE", "STATUS", "STARTED", "TOOK", box=None, pad_edge=False)
    for stage in Stage:
        record = job.stages[stage]
        took = "" if not record.started_at or not record.finished_at else record.finished_at - record.started_at
        stages.add_row(stage, record.status, _instant(record.started_at), str(took).split(".", maxsplit=1)[0])
    attempts = Table("ATTEMPT", "STARTED", "ENDED", "OUTCOME", "ERROR", box=None, pad_edge=False)
    for attempt in job.attempts:
        error = "" if attempt.error is None else escape(attempt.error.message)
        ended = _instant(attempt.ended_at)
        attempts.add_row(str(attempt.number), _instant(attempt.started_at), ended, attempt.outcome or "", error)
    parts: list[RenderableType] = [head, Text(), stages, Text(), attempts]
    if job.failed_pages:
        pages = Table("FAILED PAGE", "REASON", "MESSAGE", box=None, pad_edge=False)
        for page in job.failed_pages:
            pages.add_row(str(page.page_number), page.reason, escape(page.message))
        parts += [Text(), pages]
    return Group(*parts)


def document_table(documents: Sequence[DocumentView]) -> RenderableType:
    """One row a document."""
    rows = [
        Row(
            (
                document.document_id,
                escape(document.filename),
                "[green]yes[/]" if document.published_revision is not None else "[dim]no[/]",
                "" if document.page_count is None else str(document.page_count),
                str(document.chunk_count),
                _age(document.created_at),
            )
        )
        for document in documents
    ]
    titles = ("DOCUMENT", "FILE", "SEARCHABLE", "PAGES", "CHUNKS", "AGE")
    return Listing(titles, rows) if documents else Text("No documents.", style="dim")


def made_key(api_key: str, entry: str) -> RenderableType:
    """A new key, and what to do with it: lines that a shell can read, none of them broken."""
    return Group(
        Text("# The key, for the caller. It is shown once:", style="dim"),
        Text(f"export FANFOLD_API_KEY={api_key}"),
        Text("# Its entry, for the service; several are parted by commas:", style="dim"),
        Text(f"export FANFOLD_API_KEYS={entry}"),
    )


def search_results(found: SearchResponse) -> RenderableType:
    """The hits, best first, or the documents with theirs: where, how well it fits, and the words that were found."""
    if not found.hits:
        return Text("Nothing found. Try other words or fewer filters; what there is: fanfold documents", style="yellow")
    parts: list[RenderableType] = []
    if found.groups is None:
        for rank, hit in enumerate(found.hits, 1):
            title = f"[bold]{rank}. {escape(hit.filename)}[/], [cyan]{_pages(hit)}[/] [dim]{_score(hit)}[/]"
            parts += [Heading(title), _indented(_snippet(hit)), Text()]
        return Group(*parts)
    for rank, group in enumerate(found.groups, 1):
        parts.append(Heading(f"[bold]{rank}. {escape(group.filename)}[/]"))
        for hit in group.hits:
            parts.append(_indented(f"[cyan]{_pages(hit)}[/] [dim]{_score(hit)}[/]"))
            parts += [_indented(_snippet(hit)), Text()]
    return Group(*parts)


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, INDENT), expand=False)


def _pages(hit: Hit) -> str:
    return f"page {hit.first_page}" if hit.first_page == hit.last_page else f"pages {hit.first_page}-{hit.last_page}"


def _score(hit: Hit) -> str:
    """What each side says: a fused score tells a person nothing."""
    named = (("meaning", hit.scores.dense), ("words", hit.scores.lexical))
    return ", ".join(f"{name} {score:.2f}" for name, score in named if score is not None)


def _snippet(hit: Hit) -> Text:
    """The snippet with its marks, which count UTF-16 code units, in bold."""
    encoded, shown, at = hit.snippet.text.encode("utf-16-le"), Text(), 0
    for mark in hit.snippet.marks:
        shown.append(encoded[2 * at : 2 * mark.start].decode("utf-16-le"))
        shown.append(encoded[2 * mark.start : 2 * mark.end].decode("utf-16-le"), style="bold")
        at = mark.end
    return shown.append(encoded[2 * at :].decode("utf-16-le"))


def answers(given: Sequence[tuple[str, BaseModel | ServiceError]]) -> RenderableType:
    """One row an id: what became of it."""
    table = Table.grid(padding=(0, 2))
    for name, answer in given:
        table.add_row(escape(name), _answered(answer))
    return table if given else Text("Nothing to do.", style="dim")


def _answered(answer: BaseModel | ServiceError) -> str:
    match answer:
        case ServiceError():
            return f"[bold red]refused[/]  {escape(str(answer))}"
        case SubmitView():
            return f"{styled(answer.state)}  as job {answer.job_id}"
        case JobView():
            return styled(answer.state)
        case _:
            return "[yellow]deleted[/]"


def findings(found: Sequence[tuple[Finding, bool]]) -> RenderableType:
    """One row a finding, each with whether it was repaired; the last line counts them."""
    if not found:
        return Text("Nothing is wrong.", style="green")
    table = Table("KIND", "DOCUMENT", "REVISION", "DETAIL", box=None, pad_edge=False)
    for finding, repaired in found:
        done = "[green]Repaired.[/] " * repaired
        revision = "" if finding.revision is None else str(finding.revision)
        table.add_row(finding.kind, finding.document_id, revision, f"{done}{escape(finding.detail)}")
    repaired_count = sum(repaired for _, repaired in found)
    left = len(found) - repaired_count
    repairable = sum(not repaired and finding.repair is not None for finding, repaired in found)
    hint = " Repair what can be repaired: fanfold fsck --repair" * bool(repairable)
    last = f"{count(len(found), 'finding')}, {repaired_count} repaired."
    return Group(table, Text(), Text(last, style="yellow" if left else "green"), Text(hint.strip(), style="dim"))


def count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def doing(job: JobView) -> str:
    """What it is at, and how fast."""
    progress = job.progress
    if job.state.terminal or not progress.pages_total:
        return ""
    parts = []
    if progress.pages_done < progress.pages_total:
        parts.append(f"page {progress.pages_done} of {progress.pages_total}")
    elif progress.chunks_total:
        parts.append(f"chunk {progress.chunks_embedded} of {progress.chunks_total}")
    if progress.pages_per_minute is not None:
        parts.append(f"{progress.pages_per_minute:.0f} pages/min")
    if progress.seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(progress.seconds_left))} left")
    return f"[dim]{', '.join(parts)}[/]" if parts else ""


def styled(state: JobState) -> str:
    """The state in its colour."""
    return f"[{STATE_STYLE[state]}]{state}[/]"


def _age(instant: datetime) -> str:
    seconds = int((datetime.now(UTC) - instant).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def _instant(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"
