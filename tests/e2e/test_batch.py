"""A batch as a Ray job and as `fanfold ingest`: the same code, stopped in the middle, and run again."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from ingest.model import JobState
from tests.checks import assert_published_exactly
from tests.clusters import Cluster
from tests.pdfs import SCAN, encrypted_pdf, pdf_of
from tests.s3_server import S3Server

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PATIENCE_S = 90
SCANNED_PAGES = 12


def environment(cluster: Cluster, s3: S3Server) -> dict[str, str]:
    """What a user sets."""
    return {
        "FANFOLD_HTTP_PORT": str(cluster.settings.http_port),
        "FANFOLD_S3_ENDPOINT_URL": s3.url,
        "PYTHONPATH": str(ROOT),
    }


def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.1)


def ingest(cluster: Cluster, s3: S3Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fanfold ingest`, to its end."""
    command = [str(BIN / "fanfold"), "ingest", *arguments]
    settings = os.environ | environment(cluster, s3)
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a report about scans, by the letter that each is called."""
    return {Path(row["source"]).stem[-1]: row for row in pq.read_table(path).to_pylist()}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A directory with four scans that nobody has sent before."""
    directory = tmp_path / "scans"
    directory.mkdir()
    for name in "abcd":
        (directory / f"{tmp_path.name}-{name}.pdf").write_bytes(
            pdf_of([f"{name} of {tmp_path}", *[SCAN] * SCANNED_PAGES])
        )
    return directory


def test_a_ray_job_ingests_a_directory_and_a_prefix(cluster: Cluster, s3: S3Server, inbox: str, tmp_path: Path) -> None:
    """`ray job submit` fails with the one bad document, and its report says which; a list finds all there."""
    directory = tmp_path / "here"
    directory.mkdir()
    (directory / "letter.pdf").write_bytes(pdf_of([f"A letter from {tmp_path}."]))
    (directory / "locked.pdf").write_bytes(encrypted_pdf() + f"\n% {tmp_path}\n".encode())
    prefix = f"s3://{inbox}/{tmp_path.name}"
    for name in ("one", "two"):
        s3.put(f"{inbox}/{tmp_path.name}/{name}.pdf", pdf_of([f"Object {name} of {tmp_path}."]))
    report = f"s3://{inbox}/reports/{tmp_path.name}.parquet"
    submit = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{cluster.settings.dashboard_port}"]
    submit += ["--runtime-env-json", json.dumps({"env_vars": environment(cluster, s3)})]
    batch = [sys.executable, "-m", "cluster.batch", str(directory), prefix, "--report", report]
    done = subprocess.run(
        [*submit, "--", *batch],
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "1 of 4 documents failed." in done.stdout
    assert "\x1b[?25l" not in done.stdout  # no bars in a log
    found = pq.read_table(io.BytesIO(s3.get(report.removeprefix("s3://")))).to_pylist()
    by_name = {Path(row["source"]).name: row for row in found}
    assert {name: row["state"] for name, row in by_name.items()} == {
        "letter.pdf": "succeeded",
        "locked.pdf": "failed",
        "one.pdf": "succeeded",
        "two.pdf": "succeeded",
    }
    assert by_name["one.pdf"]["source"] == f"{prefix}/one.pdf"
    assert "password" in by_name["locked.pdf"]["error_message"]
    assert (by_name["two.pdf"]["pages"], by_name["two.pdf"]["chunks"]) == (1, 1)
    listed = tmp_path / "list"
    listed.write_text(f"{directory}/letter.pdf\n{directory}/locked.pdf\n{prefix}\n", encoding="utf-8")
    again = ingest(cluster, s3, "--from", str(listed), "--json")
    outcomes = json.loads(again.stdout)
    assert again.returncode == 1
    assert {outcome["job"]["job_id"] for outcome in outcomes} == {row["job_id"] for row in found}
    assert all(outcome["already_there"] for outcome in outcomes)


def stopped(cluster: Cluster, s3: S3Server, scans: Path, *options: str) -> tuple[dict[str, dict[str, Any]], str]:
    """A Ray job over the scans, stopped when it has submitted three: its report, and what it has logged."""
    report = scans.with_suffix(".parquet")
    command = [sys.executable, "-m", "cluster.batch", str(scans), "--in-flight", "3", "--report", str(report), *options]
    settings = environment(cluster, s3) | {"RAY_JOB_STOP_WAIT_TIME_S": "8"}
    ray_jobs = JobSubmissionClient(f"http://127.0.0.1:{cluster.settings.dashboard_port}")
    ray_job = ray_jobs.submit_job(entrypoint=" ".join(command), runtime_env={"env_vars": settings})
    names = {path.name for path in sorted(scans.iterdir())[:3]}
    until(lambda: names <= {job.filename for job in cluster.client.jobs(limit=4)})  # and the fourth, if one has ended
    assert ray_jobs.stop_job(ray_job)
    until(lambda: ray_jobs.get_job_status(ray_job).is_terminal())
    logs = ray_jobs.get_job_logs(ray_job)
    assert ray_jobs.get_job_status(ray_job) is JobStatus.STOPPED, logs
    assert "Run it again to resume." in logs
    return rows(report), logs


def test_a_stopped_ray_job_leaves_its_jobs_to_go_on(cluster: Cluster, s3: S3Server, scans: Path) -> None:
    """Its report is there, and true of every document that it had begun; run again, the rest is done and no more."""
    found, logs = stopped(cluster, s3, scans)
    assert set(found) >= {"a", "b", "c"}, logs  # and the fourth, where the first had ended before the stop
    ended = {name: cluster.finish(row["job_id"]) for name, row in found.items()}
    assert {job.state for job in ended.values()} == {JobState.SUCCEEDED}
    report = scans.with_suffix(".parquet")
    again = ingest(cluster, s3, str(scans), "--report", str(report))
    assert again.returncode == 0, again.stderr
    assert {name: (row["state"], row["already_there"]) for name, row in rows(report).items()} == {
        "a": ("succeeded", True),
        "b": ("succeeded", True),
        "c": ("succeeded", True),
        "d": ("succeeded", "d" in found),
    }
    assert_published_exactly(cluster.stores, ended["b"], keep_source=True)


def test_a_stopped_ray_job_cancels_what_it_has_made(cluster: Cluster, s3: S3Server, scans: Path) -> None:
    """Asked to, it cancels its jobs, and no other's."""
    others = cluster.client.submit(min(scans.iterdir()))
    found, logs = stopped(cluster, s3, scans, "--cancel-on-stop")
    assert set(found) >= {"a", "b", "c"}, logs  # and the fourth, where the first had ended before the stop
    assert (found["a"]["job_id"], found["a"]["already_there"]) == (others.job_id, True)
    states = {name: cluster.finish(row["job_id"]).state for name, row in found.items()}
    assert states.pop("a") is JobState.SUCCEEDED
    assert set(states.values()) == {JobState.CANCELLED}, logs
    assert {found[name]["state"] for name in states} <= {"cancelling", "cancelled"}
