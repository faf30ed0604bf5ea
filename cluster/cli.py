"""The command line: `fanfold`. Thin: each command calls the service, and prints what it says."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version as package_version
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape

from cluster import batch, display
from cluster.drain import connected_drain
from cluster.filters import parse_pages, parse_where
from cluster.instance import adopt_ray_auth, only_instance, stop_instance, tell_addresses
from cluster.terminal import AsJson, err, out, plain_errors, said
from ingest.apikeys import ApiKey, digest, new_key
from ingest.findings import Finding
from ingest.model import DEFAULT_TENANT, JobState
from ingest.settings import Settings, unknown_settings
from serve.client import Client, ServiceError
from serve.search_schemas import SearchMode, SearchOptions, SearchRequest

KEEP_ALIVE_S = 1.0
STOP_TIMEOUT_S = 90.0
app = typer.Typer(
    name="fanfold",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"fanfold {package_version('fanfold')}", highlight=False)
        raise typer.Exit


@app.callback()
def fanfold(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """PDFs in, searchable text out, and the truth about it."""


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start Fanfold here (Ray, the stores that are not set, the service), and serve until Ctrl-C."""
    settings = Settings()
    for warning in unknown_settings(os.environ):
        err.print(f"[bold yellow]fanfold:[/] {escape(warning)}", soft_wrap=True)
    from cluster.service import running  # noqa: PLC0415  # imports Ray: seconds that the other commands do not need
    from ingest.telemetry import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level)
    stopping = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        stopping.set()  # an exception can get lost: in a callback of native code, or where everything is caught
        raise KeyboardInterrupt

    _on_stop(interrupt)
    with only_instance(settings.home), display.steps(err, "Starting") as step, running(settings, step) as service:
        _on_stop(lambda _number, _frame: stopping.set())
        if stopping.is_set():
            raise KeyboardInterrupt
        tell_addresses(settings.home, service.addresses)
        step("")
        if as_json:
            _print_json(display.places(settings, service.dashboard_url))
        else:
            out.print(display.started(settings, service.dashboard_url))
        while not stopping.wait(KEEP_ALIVE_S):
            service.keep_alive()
        step("stopping: jobs that run are given back to the queue")
    err.print("Fanfold has stopped.")


def _on_stop(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop the Fanfold that runs on this data directory; its jobs go on at the next start."""
    settings = Settings()
    with err.status("Stopping"):
        stopped = stop_instance(settings.home, timeout_s=STOP_TIMEOUT_S)
    _print_json({"stopped": stopped}) if as_json else out.print(display.stopped(settings, stopped=stopped))


@app.command()
def drain(
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which what runs is given back.")] = 600,
    resume: Annotated[bool, typer.Option("--resume", help="End the drain: take jobs and uploads again.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster, where several share a queue.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take no more jobs and uploads, let what runs end, and say when it is safe to stop. Reading and searching go on.

    What still runs after the timeout goes back to the queue, from its checkpoints. The drain lasts until the next start
    or --resume. Exits with 1 if a supervisor does not obey.
    """
    with connected_drain(Settings(), cluster) as draining, err.status("Draining") as status:
        if resume:
            draining.end()
            said = "Fanfold takes jobs and uploads again."
            _print_json({"cluster": draining.cluster}) if as_json else out.print(said)
            return
        ended = draining.run(timeout, lambda seen: status.update(display.draining(seen)))
    _print_json({**asdict(ended), "done": ended.done}) if as_json else out.print(display.drained(ended))
    raise typer.Exit(int(not ended.done))


app.command()(batch.ingest)


@app.command()
def jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with _client() as client:
        found = list(client.jobs(state=state, limit=limit))
    _print_json(found) if as_json else out.print(display.job_table(found))


@app.command()
def job(job_id: str, as_json: AsJson = False) -> None:
    """Show one job: its stages, attempts, failed pages and error."""
    with _client() as client:
        found = client.job(job_id)
    _print_json(found) if as_json else out.print(display.job_details(found))


@app.command()
def documents(
    limit: Annotated[int, typer.Option(min=1, help="Most documents to list.")] = 20, as_json: AsJson = False
) -> None:
    """List documents, newest first."""
    with _client() as client:
        found = list(client.documents(limit=limit))
    _print_json(found) if as_json else out.print(display.document_table(found))


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="Whose documents the key opens.")] = DEFAULT_TENANT,
    as_json: AsJson = False,
) -> None:
    """Make an API key: the key for the caller, and the entry for the service's FANFOLD_API_KEYS."""
    made = new_key()
    entry = ApiKey.parse(f"{tenant}:{digest(made)}")
    shown = {"api_key": made, "entry": str(entry)}
    _print_json(shown) if as_json else out.print(display.made_key(**shown), soft_wrap=True)


@app.command()
def cancel(
    job_ids: Annotated[list[str] | None, typer.Argument(help="The jobs; or all of one state, see --state.")] = None,
    state: Annotated[JobState | None, typer.Option(help="Cancel every job in this state.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before cancelling a whole state.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop jobs and undo what they did. Exits with 1 if it was too late for any of them."""
    if bool(job_ids) == (state is not None):
        raise typer.BadParameter("name jobs, or a state with --state.", param_hint="JOB_IDS")
    with _client() as client:
        if state is not None:
            job_ids = [job.job_id for job in client.jobs(state=state, limit=sys.maxsize)]
            yes or not job_ids or typer.confirm(f"Cancel {display.count(len(job_ids), 'job')}?", abort=True, err=True)
        answers = list(client.cancel_all(job_ids or []))
    failed = _show_answers(answers, as_json=as_json)
    raise typer.Exit(int(failed))


@app.command()
def retry(job_ids: Annotated[list[str], typer.Argument(help="Jobs that ended.")], as_json: AsJson = False) -> None:
    """Try again what failed, from where it stopped: a new job for each. Exits with 1 if one is refused."""
    with _client() as client:
        failed = _show_answers(list(batch.each(job_ids, client.retry)), as_json=as_json)
    raise typer.Exit(int(failed))


@app.command()
def delete(
    document_ids: Annotated[list[str], typer.Argument(help="Documents, see: fanfold documents")],
    as_json: AsJson = False,
) -> None:
    """Delete documents with everything that was made of them: hidden at once, removed within seconds."""
    with _client() as client:
        failed = _show_answers(list(batch.each(document_ids, client.delete)), as_json=as_json)
    raise typer.Exit(int(failed))


@app.command()
def search(  # noqa: PLR0913  # each is an option of the command
    query: Annotated[str, typer.Argument(help="What to look for, in your own words.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most hits (or documents) to show.")] = 5,
    mode: Annotated[
        SearchMode, typer.Option("--mode", "-m", help="By meaning, by words, or both.")
    ] = SearchMode.HYBRID,
    document: Annotated[list[str] | None, typer.Option(help="Only in this document; may be repeated.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only where the metadata say so: author=Ann, year>=2020; may be repeated.")
    ] = None,
    pages: Annotated[str | None, typer.Option(help="Only on these pages: 3-7, 3- or 3.")] = None,
    by_document: Annotated[bool, typer.Option("--by-document", help="Group the hits by document.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search everything that is published, by meaning and by words."""
    if not query.strip():
        raise typer.BadParameter("say what to look for.", param_hint="QUERY")
    asked: SearchOptions = {"mode": mode, "document_ids": document or None, "group_by_document": by_document}
    try:
        asked["metadata"] = parse_where(where) if where else None
        asked["pages"] = parse_pages(pages) if pages else None
        SearchRequest.model_validate({"query": query, "limit": limit, **asked})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise typer.BadParameter(said(wrong["msg"]), param_hint=str(wrong["loc"][0])) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _client() as client:
        found = client.search_response(query, limit=limit, **asked)
    if as_json:
        _print_json(found.hits if found.groups is None else found.groups)
    else:
        out.print(display.search_results(found))


@app.command()
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what can be put right.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the stores with each other, running or not. Exits with 1 if anything is wrong and was not repaired."""
    settings = Settings()
    adopt_ray_auth(settings.home)
    from cluster.maintenance import maintenance_stores  # noqa: PLC0415  # imports Ray, which reads its mode then
    from ingest import reconcile  # noqa: PLC0415  # imports the stores' clients

    with err.status("Checking the stores"), maintenance_stores(settings) as stores:
        found = [(finding, repair and reconcile.repair(stores, finding)) for finding in reconcile.findings(stores)]
    _print_json([_finding_json(*one) for one in found]) if as_json else out.print(display.findings(found))
    raise typer.Exit(int(not all(repaired for _, repaired in found)))


@contextmanager
def _client() -> Iterator[Client]:
    with batch.connect(Settings()) as client:
        yield client


def _show_answers(answers: Sequence[tuple[str, BaseModel | ServiceError]], *, as_json: bool) -> bool:
    """Print what became of each id; whether any was refused."""
    if as_json:
        _print_json([{"id": name, **_answer_json(answer)} for name, answer in answers])
    else:
        out.print(display.answers(answers))
    return any(isinstance(answer, ServiceError) for _, answer in answers)


def _answer_json(answer: BaseModel | ServiceError) -> dict[str, Any]:
    return {"error": str(answer)} if isinstance(answer, ServiceError) else answer.model_dump(mode="json")


def _finding_json(finding: Finding, repaired: bool) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "document_id": finding.document_id,
        "revision": finding.revision,
        "job_id": finding.job_id,
        "detail": finding.detail,
        "objects": list(finding.keys),
        "repair": finding.repair,
        "repaired": repaired,
    }


def _print_json(value: BaseModel | Mapping[str, Any] | Sequence[BaseModel] | Sequence[dict[str, Any]]) -> None:
    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else item

    shown = plain(value) if isinstance(value, BaseModel | Mapping) else [plain(item) for item in value]
    sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point: errors that say what to do are printed as one line, without a traceback."""
    with plain_errors():
        app()


if __name__ == "__main__":
    main()
