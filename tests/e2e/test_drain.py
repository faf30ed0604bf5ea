"""`fanfold drain` against a running service: what runs may end, nothing new is taken, and then it is safe to stop."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.supervisor import SUPERVISOR_ACTOR
from ingest.model import JobState
from tests.checks import assert_published_exactly
from tests.clusters import Cluster, ray_address
from tests.crash.processes import actor_pid, kill_actor, until
from tests.pdfs import SCAN, pdf_of

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def drain(cluster: Cluster, tmp_path: Path) -> Iterator[Command]:
    """Starts the command in another process, which knows nothing but where MongoDB is. It is not drained for ever."""
    uri = cluster.settings.mongodb_uri
    assert uri is not None
    environment = os.environ | {"FANFOLD_MONGODB_URI": uri.get_secret_value(), "FANFOLD_DATA_DIR": str(tmp_path)}

    def start(*arguments: str) -> "subprocess.Popen[str]":
        command = [FANFOLD, "drain", "--json", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    yield start
    assert start("--resume").wait(60) == 0


def said(command: "subprocess.Popen[str]") -> dict[str, Any]:
    """What it printed at its end, and its exit status."""
    output, errors = command.communicate(timeout=120)
    assert output, errors
    answer: dict[str, Any] = json.loads(output)
    return answer | {"status": command.returncode}


def a_scan(directory: Path, pages: int) -> Path:
    """A document that nobody has sent before."""
    path = directory / f"{pages}.pdf"
    path.write_bytes(pdf_of([f"The buoy of {path} has drifted.", *[SCAN] * pages]))
    return path


def test_a_drain_lets_what_runs_end_and_takes_nothing_new(cluster: Cluster, drain: Command, tmp_path: Path) -> None:
    """503 with a plain reason for an upload; searches are answered; the job that runs ends in its first attempt."""
    assert {peer.cluster for peer in cluster.stores.roster.present()} == {ray_address()}
    job = cluster.submit(a_scan(tmp_path, 6))
    until(lambda: cluster.client.job(job.job_id).progress.pages_done >= 2)
    command = drain()
    refused: list[httpx.Response] = []

    def is_refused() -> bool:
        headers = {"Content-Type": "application/pdf"}
        url = f"{cluster.settings.http_url}/v1/documents"
        refused.append(httpx.post(url, content=a_scan(tmp_path, 1).read_bytes(), headers=headers))
        return refused[-1].status_code == httpx.codes.SERVICE_UNAVAILABLE

    until(is_refused)
    assert int(refused[-1].headers["Retry-After"]) > 0
    assert refused[-1].json()["type"] == "urn:fanfold:draining"
    assert "about to be stopped" in refused[-1].json()["detail"]
    assert isinstance(cluster.client.search("a buoy"), list)
    answer = said(command)
    assert (answer["status"], answer["done"], answer["running"], answer["given_back"]) == (0, True, 0, 0)
    ended = cluster.client.job(job.job_id)
    assert ended.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in ended.attempts] == ["succeeded"]
    assert httpx.get(f"{cluster.settings.http_url}/readyz").status_code == httpx.codes.OK
    assert_published_exactly(cluster.stores, ended, keep_source=True)


def test_what_runs_too_long_goes_back_and_stays_there_until_the_drain_ends(
    cluster: Cluster, drain: Command, tmp_path: Path
) -> None:
    """Also a supervisor that is started again meanwhile takes nothing. Then it goes on from its checkpoints."""
    job = cluster.submit(a_scan(tmp_path, 12))
    until(lambda: cluster.client.job(job.job_id).progress.pages_done >= 2)
    answer = said(drain("--timeout", "0"))
    assert (answer["status"], answer["done"]) == (0, True)
    assert answer["given_back"] >= 1  # other tests' jobs may run too
    assert answer["waiting"] >= 1
    pid = actor_pid(SUPERVISOR_ACTOR)
    kill_actor(SUPERVISOR_ACTOR)
    until(lambda: {peer.running for peer in cluster.stores.roster.present()} == {0} and _restarted(pid))
    waiting = cluster.client.job(job.job_id, wait=3)
    assert waiting.state is JobState.QUEUED
    assert [attempt.outcome for attempt in waiting.attempts] == ["released"]
    assert said(drain("--resume"))["status"] == 0
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["released", "succeeded"]
    assert ended.attempts[1].units_at_start >= 2
    assert_published_exactly(cluster.stores, ended, keep_source=True)


def _restarted(pid: int) -> bool:
    try:
        return actor_pid(SUPERVISOR_ACTOR) != pid
    except ValueError:  # none is alive at the moment
        return False
