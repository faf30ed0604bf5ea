"""`python -m cluster.batch` as a process: options, exit codes, signals. The service is real."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import uvicorn

from cluster.batch import main
from cluster.ports import LOOPBACK, free_port
from ingest.model import JobState
from ingest.settings import Settings
from ingest.stores import Stores
from tests.background import again_and_again
from tests.builders import KEEP_NOTHING
from tests.integration.queue import claim_next
from tests.integration.web import Web
from tests.pdfs import pdf_of

PATIENCE_S = 60


@pytest.fixture
def web(stores: Stores, settings: Settings) -> Iterator[Web]:
    """The service, listening."""
    web = Web(stores, settings.model_copy(update={"http_port": free_port()}))
    server = uvicorn.Server(uvicorn.Config(web.app, host=LOOPBACK, port=web.settings.http_port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield web
    server.should_exit = True
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five letters."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcde":
        (folder / f"{name}.pdf").write_bytes(pdf_of([f"Letter {name}."]))
    return folder


def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def supervised(stores: Stores) -> Iterator[None]:
    """Jobs end by themselves: those of files called `e` fail, others are read without a page."""

    def supervise() -> None:
        held = claim_next(stores.jobs, "supervisor")
        if held is not None:
            held.settle(JobState.FAILED if held.job.filename == "e.pdf" else JobState.SUCCEEDED)
            held.close(keeping=KEEP_NOTHING, sweep_at=None)

    with again_and_again(supervise, pause_s=0.02):
        yield


def batch(web: Web, *arguments: object) -> subprocess.Popen[str]:
    """The process, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.batch", *map(str, arguments)],
        env=os.environ | {"FANFOLD_HTTP_PORT": str(web.settings.http_port)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], said: str | None = None) -> tuple[int, str, str]:
    """Its exit code, and what it has written."""
    out, err = process.communicate(said, timeout=PATIENCE_S)
    return process.returncode, out, err


def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int | str | None, str]:
    """The same in this process, for what ends at once: its exit code, and what it has said."""
    monkeypatch.setattr(sys, "argv", ["batch", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def rows(report: Path) -> dict[str, dict[str, Any]]:
    """The rows of a report by the last part of their source."""
    return {Path(row["source"]).name: row for row in pq.read_table(report).to_pylist()}


def test_every_outcome_is_reported_and_one_failure_fails_the_run(web: Web, folder: Path, tmp_path: Path) -> None:
    """Exit code 1; a line a document and a last one that counts them; the report has them all."""
    report = tmp_path / "report.parquet"
    with supervised(web.stores):
        code, out, err = ended(batch(web, folder, "--report", report, "--in-flight", 2))
    assert (code, "1 of 5 documents failed." in out) == (1, True), err
    assert {name: row["state"] for name, row in rows(report).items()} == {
        **dict.fromkeys(("a.pdf", "b.pdf", "c.pdf", "d.pdf"), "succeeded"),
        "e.pdf": "failed",
    }
    assert sum(line.startswith("succeeded") for line in err.splitlines()) == 4


def test_names_come_from_lists_and_standard_input(web: Web, folder: Path, tmp_path: Path) -> None:
    """`--from FILE` and `--from -` are the same; `--json` prints one array; without waiting nothing is followed."""
    listed = tmp_path / "list"
    listed.write_text(f"{folder / 'a.pdf'}\n", encoding="utf-8")
    process = batch(
        web, folder / "c.pdf", "--from", listed, "--from", "-", "--no-wait", "--json", "--metadata", '{"a": 1}'
    )
    code, out, err = ended(process, f"{folder / 'b.pdf'}\n\n{folder}/nothing.pdf\n")
    assert code == 1, err  # one of them does not exist
    found = {Path(outcome["path"]).name: outcome for outcome in json.loads(out)}
    assert {name: outcome["state"] for name, outcome in found.items()} == {
        **dict.fromkeys(("a.pdf", "b.pdf", "c.pdf"), "queued"),
        "nothing.pdf": "refused",
    }
    document_id = found["b.pdf"]["job"]["document_id"]
    assert web.client().get(f"/v1/documents/{document_id}").json()["metadata"] == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--from"),
        (("/nowhere/at/all",), "/nowhere/at/all"),
        (("--from", "/nowhere/list"), "/nowhere/list"),
        (("--from", "."), "Is a directory"),
        ((".", "--report", "report.csv"), ".parquet"),
        ((".", "--report", "/nowhere/report.json"), "/nowhere/report.json"),
        ((".", "--no-wait", "--cancel-on-stop"), "--no-wait"),
        ((".", "--in-flight", "0"), "in-flight"),
        ((".", "--metadata", "[]"), "JSON object"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_submitted(
    web: Web, arguments: Any, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, a plain message, no job."""
    monkeypatch.setenv("FANFOLD_HTTP_PORT", str(web.settings.http_port))
    monkeypatch.setenv("COLUMNS", "200")
    code, err = here(monkeypatch, capsys, *arguments)
    assert code == 2
    assert words in err
    assert web.stores.jobs.count_waiting(1) == 0


@pytest.mark.parametrize(("number", "cancel"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_stops_it(web: Web, folder: Path, tmp_path: Path, number: signal.Signals, cancel: bool) -> None:
    """Exit code 130 within seconds, the report whole; jobs wait as they were, or are cancelled."""
    report = tmp_path / "report.parquet"
    process = batch(web, folder, "--in-flight", 3, "--report", report, *["--cancel-on-stop"] * cancel)
    until(lambda: web.stores.jobs.count_waiting(9) == 3)
    time.sleep(0.5)
    stopped_at = time.monotonic()
    process.send_signal(number)
    code, out, err = ended(process)
    assert time.monotonic() - stopped_at < 5
    assert code == 130, err
    assert ("3 jobs cancelled" if cancel else "3 jobs going on") in out
    assert {row["state"] for row in rows(report).values()} == ({"cancelled"} if cancel else {"queued"})
    assert set(rows(report)) == {"a.pdf", "b.pdf", "c.pdf"}
    states = {job.shown_state for job in web.stores.jobs.find("default", limit=9)}
    assert states == {JobState.CANCELLED if cancel else JobState.QUEUED}


def test_a_silent_producer_does_not_keep_it(web: Web, folder: Path) -> None:
    """Stopped while it waits for more names on standard input, it ends."""
    with supervised(web.stores):
        process = batch(web, "-")
        assert process.stdin is not None
        process.stdin.write(f"{folder / 'a.pdf'}\n")
        process.stdin.flush()
        until(lambda: bool(web.stores.jobs.find("default", limit=1)))
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 130
    process.communicate()


def test_without_a_service_an_earlier_report_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, how to start one, and nothing is touched."""
    report = tmp_path / "report.jsonl"
    report.write_text("earlier", encoding="utf-8")
    monkeypatch.setenv("FANFOLD_HTTP_PORT", str(free_port()))
    code, err = here(monkeypatch, capsys, folder, "--report", report)
    assert (code, "fanfold up" in err) == (2, True)
    assert report.read_text(encoding="utf-8") == "earlier"
