"""Ingest many documents: `fanfold ingest` and `ray job submit -- python -m cluster.batch` are this command."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Annotated, Any, TypeVar

import typer

from cluster import progress, sources
from cluster.ingestion import IN_FLIGHT, Ingestion, Options
from cluster.outcome import Outcome
from cluster.report import JsonArray, reporting
from cluster.terminal import STOPPED, AsJson, err, out, plain_errors
from ingest.metadata import parse_metadata
from ingest.settings import Settings
from ingest.turns import Priority
from serve.client import RETRY_FOR_S, Client, ServiceError

View = TypeVar("View")
RAY_STOP_S = 3.0  # Ray's own default for RAY_JOB_STOP_WAIT_TIME_S
WIND_DOWN_SHARE = 0.6  # of the time of a stop; the rest is for the report


def connect(settings: Settings, *, retry_for_s: float = RETRY_FOR_S) -> Client:
    """The client of the service that the settings name, or else of this machine's, with the key that they name."""
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return Client(settings.url or settings.http_url, api_key=key, retry_for_s=retry_for_s)


def each(names: Sequence[str], call: Callable[[str], View]) -> Iterator[tuple[str, View | ServiceError]]:
    """What the service says to each call, several at a time, in the order of the names.

    Raises `ServiceError` when it says nothing.
    """

    def answer(name: str) -> View | ServiceError:
        try:
            return call(name)
        except ServiceError as error:
            if error.problem is None:  # nobody has refused anything: there is no service
                raise
            return error

    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="each") as pool:
        yield from zip(names, pool.map(answer, names), strict=True)


def ingest(  # noqa: PLR0913  # each is an option of the command
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="PDF files, directories, s3://bucket/prefix, or - for a list on standard input."),
    ] = None,
    listed: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="A list of them, one a line; - for standard input."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the jobs to their end.")] = True,
    metadata: Annotated[str | None, typer.Option(help="What to say about them: a JSON object.")] = None,
    priority: Annotated[Priority, typer.Option(help="Which of your jobs go first.")] = Priority.NORMAL,
    in_flight: Annotated[int, typer.Option(min=1, help="Documents under way at a time.")] = IN_FLIGHT,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write every outcome to a .parquet, .jsonl or .json file, here or on s3://."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also try again what can only fail again, as far as is known.")
    ] = False,
    cancel_on_stop: Annotated[
        bool, typer.Option("--cancel-on-stop", help="When stopped, cancel the jobs that this run has made.")
    ] = False,
    stop_within: Annotated[
        float, typer.Option(min=1, envvar="RAY_JOB_STOP_WAIT_TIME_S", help="Seconds that a stop may take.")
    ] = RAY_STOP_S,
    as_json: AsJson = False,
) -> None:
    """Ingest PDFs. Run it again to resume: what is done or under way is found, not repeated.

    Exits with 1 if any document failed, with 130 when stopped by Ctrl-C or `ray job stop`.
    """
    if not (paths or listed):
        raise typer.BadParameter("name files, directories or s3:// URLs, or a list of them with --from.")
    if cancel_on_stop and not wait:
        raise typer.BadParameter(
            "with --no-wait no job is followed, so none can be cancelled.", param_hint="--cancel-on-stop"
        )
    sources.check([*(paths or ()), *(listed or ())])
    settings = Settings()
    options = Options(
        in_flight=in_flight,
        follow=wait,
        metadata=None if metadata is None else parse_metadata(metadata),
        priority=priority,
        retry_failed=retry_failed,
        cancel_on_stop=cancel_on_stop,
        stop_within_s=WIND_DOWN_SHARE * stop_within,
    )
    names = chain(paths or (), *(sources.lines(path) for path in listed or ()))
    with connect(settings, retry_for_s=0) as client:
        ingestion = Ingestion(client, options)
        _run(ingestion, sources.find(names, sources.Buckets(settings.s3_endpoint_url)), settings, report, as_json)
    if not as_json:
        out.print(progress.summary(ingestion.tally, follow=wait, stopped=ingestion.stopped))
    raise typer.Exit(STOPPED if ingestion.stopped else int(ingestion.tally.failed > 0))


def _run(
    ingestion: Ingestion, found: Iterator[sources.Found], settings: Settings, report: str | None, as_json: bool
) -> None:
    """Every outcome to the report, to the display and to standard output, as soon as it is known; none is kept."""
    with ExitStack() as stack:
        takers: list[Callable[[Outcome], object]] = []
        if report is not None:
            takers.append(stack.enter_context(reporting(report, s3_endpoint_url=settings.s3_endpoint_url)).write)
        if as_json:
            array = JsonArray(lambda text: out.file.write(text) and out.file.flush())
            stack.callback(array.close)
            takers.append(lambda outcome: array.add(_json(outcome)))
        display = stack.enter_context(progress.shown(err, ingestion.tally, hidden=as_json))
        takers.append(display.ended)
        stack.enter_context(_stopped_by_signals(ingestion.stop))
        for outcome in ingestion.run(found, on_change=display.moved):
            for take in takers:
                take(outcome)


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops the run; another one ends the process at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: Any) -> None:
        signal.signal(number, before[signal.Signals(number)])
        stop()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _json(outcome: Outcome) -> dict[str, Any]:
    return {
        "path": outcome.source.shown,
        "state": outcome.state,
        "error": None if outcome.failure is None else outcome.failure.message,
        "already_there": outcome.already_there,
        "seconds": round(outcome.seconds, 3),
        "job": None if outcome.job is None else outcome.job.model_dump(mode="json"),
    }


def main() -> None:
    """Entry point of a Ray job."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(ingest)
    with plain_errors():
        app(prog_name="python -m cluster.batch")


if __name__ == "__main__":
    main()
