"""The command line without a service: what it offers, and how it says what is wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

from cluster import cli, display, service
from cluster.ports import LOOPBACK
from cluster.terminal import UNBROKEN
from ingest.errors import Category
from ingest.model import Failure, JobState
from serve import examples
from serve.schemas import JobPage, JobView, ProgressView
from serve.search_schemas import SearchResponse
from tests.http_server import answering

REASON = "The PDF is protected by a password. Save a copy without one, and send that."
NAME = "[bold]:smile: of a very long name that fits nowhere.pdf"
NARROW = 80


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `fanfold ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["fanfold", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_command_prints_json_when_asked_to() -> None:
    """`--json` on each."""
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]  # a group, since there are several
    assert len(commands) > 10
    without = [name for name, command in commands.items() if "as_json" not in {one.name for one in command.params}]
    assert without == []


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`fanfold --version`."""
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("fanfold 0.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_gets_lost_while_it_starts_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Native code that calls Python back may swallow what a signal raises: `up` still ends, as soon as it can."""
    monkeypatch.setenv("FANFOLD_DATA_DIR", str(tmp_path))

    @contextmanager
    def running(*_arguments: object) -> Iterator[object]:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(1)
        yield object()

    monkeypatch.setattr(service, "running", running)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert run(monkeypatch, "up") == 128 + signal.SIGINT
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert "is up" not in capsys.readouterr().out


def test_a_key_in_the_place_of_an_entry_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who sets FANFOLD_API_KEYS to a key is told what belongs there, and no log of the terminal keeps the key."""
    monkeypatch.setenv("FANFOLD_API_KEYS", "fanfold_hunter2")
    assert run(monkeypatch, "jobs") == 2
    said = capsys.readouterr().err
    assert "FANFOLD_API_KEYS: " in said
    assert "fanfold key TENANT" in said
    assert "hunter2" not in said


def test_a_wrong_value_is_repeated_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even `:name:`, which Rich would make a picture of."""
    monkeypatch.setenv("FANFOLD_HTTP_PORT", ":zzz:")
    assert run(monkeypatch, "jobs") == 2
    assert "FANFOLD_HTTP_PORT=:zzz:: " in capsys.readouterr().err


def test_an_address_of_mongodb_that_is_none_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The setting is named, in one line without a traceback, which would show a part of the password."""
    monkeypatch.setenv("FANFOLD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FANFOLD_MONGODB_URI", "mongodb://fanfold:hun/ter2@db1/")
    assert run(monkeypatch, "drain") == 2
    said = capsys.readouterr().err
    assert "FANFOLD_MONGODB_URI" in said
    assert "ter2" not in said


def failed_job() -> JobView:
    """A job whose line is longer than a terminal is wide."""
    now = datetime.now(UTC)
    progress = ProgressView(pages_total=0, pages_done=0, chunks_total=0, chunks_embedded=0, chunks_stored=0, percent=0)
    return JobView(
        job_id="45d43a7c-2968-413b-aa8a-a13cd395eba7",
        document_id="d",
        tenant="default",
        filename=NAME,
        revision=1,
        state=JobState.FAILED,
        stages={},
        progress=progress,
        attempts=[],
        error=Failure(category=Category.INPUT, message=REASON, retryable=False),
        failed_pages=[],
        pipeline="p",
        created_at=now,
        updated_at=now,
    )


def test_a_narrow_terminal_cuts_file_names_and_nothing_else() -> None:
    """Ids can be copied and reasons read at 80 columns; a name that is markup is a name."""
    failed = failed_job()
    partial = failed.model_copy(update={"state": JobState.PARTIALLY_SUCCEEDED, "filename": "a.pdf", "error": None})
    screen = StringIO()
    terminal = Console(file=screen, width=NARROW, emoji=False, force_terminal=True, color_system=None)
    terminal.print(display.job_table([failed, partial]))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert all(len(line) <= NARROW for line in lines)
    assert lines[1].startswith(f"{failed.job_id}  [bold]")
    assert lines[1].endswith("0/0   0s")
    assert REASON in " ".join(lines[2].split())
    assert "partially_succeeded" in lines[3]


@pytest.fixture
def url() -> Iterator[str]:
    """A service that has one job, and says so whatever it is asked."""
    body = JobPage(jobs=[failed_job()], next_cursor=None).model_dump_json().encode()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    with answering(Answers) as port:
        yield f"http://{LOOPBACK}:{port}"


def test_what_a_pipe_gets_is_whole(url: str) -> None:
    """`fanfold jobs | grep NAME` finds it, with its id and its state, however narrow the terminal behind is."""
    command = [str(Path(sys.executable).with_name("fanfold")), "jobs"]
    environment = os.environ | {"FANFOLD_URL": url, "COLUMNS": str(NARROW)}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    [line] = [line for line in shown.splitlines() if NAME in line]
    assert line.startswith(failed_job().job_id)
    assert "failed" in line
    assert f"  {REASON}" in shown.splitlines()


def test_a_hit_in_a_pipe_is_a_line_with_its_file_name() -> None:
    """Whole, and without the rule that a terminal shows beside it; no line is filled up with spaces."""
    found = SearchResponse.model_validate({"hits": [examples.HIT | {"filename": NAME * 3}], "groups": None})
    pipe = StringIO()
    Console(file=pipe, width=UNBROKEN, emoji=False).print(display.search_results(found))
    assert pipe.getvalue().startswith(f"1. {NAME * 3}, page")
    assert "─" not in pipe.getvalue()
    assert max(map(len, pipe.getvalue().splitlines())) < UNBROKEN
