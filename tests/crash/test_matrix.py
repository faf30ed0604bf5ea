"""Every fault point times every fault, in a running cluster: then recovery, then the invariants.

Run by `make crash`, in a session of its own. Each schedule is a plan with one fault (and whatever is needed to get
there), a document that nobody has sent before, and its way to a terminal state.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from cluster.composition import STORE_CLASSES
from cluster.engine import RayEngine
from cluster.ports import free_port
from cluster.service import running
from ingest import ids
from ingest.faults import Fault, points_of
from ingest.model import JobState
from ingest.settings import Settings
from serve.client import Client, ServiceError
from serve.schemas import JobView
from tests.checks import assert_nothing_left, assert_published_exactly
from tests.clusters import Cluster
from tests.pdfs import SCAN, encrypted_pdf, pdf_of

PATIENCE_S = 120
REPORT = Path(__file__).parents[2] / "docs" / "crash-report.md"
PROSE = "The pilot climbs aboard from the cutter before the bar, and takes the wheel until the anchor is down. "
NOT_HERE = {
    "jobs.repin": "needs other settings at the next start: tests/integration/test_pipeline.py",
    "jobs.release": "needs a supervisor that shuts down: tests/integration/test_pipeline.py",
    "vectors.count": "is no part of a document's way: tests/integration/test_qdrant_wire.py",
    "jobs.record_failed_pages": "needs a broken page: tests/integration/test_pipeline.py",
}
IN_A_FAILURE = {"catalog.delete_revision", "vectors.delete_revision"}
DETOURS = {"jobs.requeue": Fault.ERROR, "jobs.renew": Fault.DELAY}  # what must happen before the point is reached
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.ERROR, Fault.LOST_REPLY)


@dataclass(frozen=True)
class Schedule:
    """One fault at one point."""

    point: str
    fault: Fault

    @property
    def plan(self) -> list[dict[str, str]]:
        """The plan file's content."""
        detour = [{"point": "ray.cut", "fault": str(DETOURS[self.point])}] if self.point in DETOURS else []
        return [*detour, {"point": self.point, "fault": str(self.fault)}]


def schedules() -> list[Schedule]:
    """All of them, except for points that no document of this test can reach."""
    names = {point.name for owner in (*STORE_CLASSES, RayEngine) for _, point in points_of(owner)}
    return [Schedule(name, fault) for name in sorted(names - set(NOT_HERE)) for fault in FAULTS]


class FaultyCluster(Cluster):
    """A cluster whose processes follow a plan; the test's own process does not."""

    @property
    def plan(self) -> Path:
        """Where its processes look for the plan."""
        assert self.settings.faults is not None
        return self.settings.faults

    def follow(self, schedule: Schedule | None) -> None:
        """Make this the plan, of which nothing has fired yet."""
        fired = self.plan.with_name(self.plan.name + ".fired")
        self.plan.unlink(missing_ok=True)
        for mark in fired.glob("*"):
            mark.unlink()
        if schedule is not None:
            beside = self.plan.with_suffix(".new")
            beside.write_text(json.dumps(schedule.plan), encoding="utf-8")
            beside.rename(self.plan)

    def has_met(self, schedule: Schedule) -> bool:
        """Whether some process has met the fault."""
        return (self.plan.with_name(self.plan.name + ".fired") / f"{schedule.point}={schedule.fault}").exists()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    """A running Fanfold under a plan that is empty at first."""
    assert not ray.is_initialized(), "run this file alone: make crash"
    home = tmp_path_factory.mktemp("faulty")
    settings = Settings(
        data_dir=home,
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        lease_ttl_s=3,
        retry_delay_s=0.1,
        poll_interval_s=0.2,
        faults=home / "plan.json",
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield FaultyCluster(service.blueprint, client)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[Schedule, str]]:
    """What became of each schedule; written to the report at the end."""
    found: dict[Schedule, str] = {}
    yield found
    REPORT.write_text(_report(found), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("schedule", schedules(), ids=lambda schedule: f"{schedule.point}-{schedule.fault}")
def test_a_fault_anywhere_ends_exact(
    faulty: FaultyCluster, outcomes: dict[Schedule, str], schedule: Schedule, tmp_path: Path
) -> None:
    """Killed, refused or unanswered at this point: the job ends, the stores are exact, search shows each chunk once."""
    outcomes[schedule] = "VIOLATED"
    path = tmp_path / "pilot.pdf"
    bad = schedule.point in IN_A_FAILURE
    path.write_bytes(encrypted_pdf() if bad else pdf_of([f"{PROSE * 4} {tmp_path}", SCAN]))
    faulty.follow(schedule)
    ended = _ingest(faulty, path)
    if bad:
        assert ended.state is JobState.FAILED
        _until_collected(faulty, ended)
        assert_nothing_left(faulty.stores, ended.document_id, ended.revision)
    else:
        assert ended.state is JobState.SUCCEEDED, ended.error
        _until_collected(faulty, ended)
        _assert_readable(faulty, ended)
        assert_published_exactly(faulty.stores, ended)
    assert [attempt.epoch for attempt in ended.attempts] == sorted({attempt.epoch for attempt in ended.attempts})
    assert len(ended.attempts) <= faulty.settings.max_attempts
    outcomes[schedule] = "exact" if faulty.has_met(schedule) else "not reached"
    faulty.follow(None)
    assert outcomes[schedule] == "exact"


def _ingest(faulty: FaultyCluster, path: Path) -> JobView:
    """What a patient client does: send again until it is accepted, ask again until it has ended."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            job = faulty.client.job(faulty.client.submit(path).job_id, wait=2)
            while not job.state.terminal:
                assert time.monotonic() < give_up_at, f"the job has not ended: {job}"
                job = faulty.client.job(job.job_id, wait=2)
        except ServiceError:
            assert time.monotonic() < give_up_at, "the service did not come back"
            time.sleep(0.2)
        else:
            return job


def _until_collected(faulty: FaultyCluster, job: JobView) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while faulty.stores.jobs.job("default", job.job_id).open:
        assert time.monotonic() < give_up_at, "the job was not collected"
        time.sleep(0.1)


def _assert_readable(faulty: FaultyCluster, job: JobView) -> None:
    """The published chunks, as readers get them, once the replica that met the fault is back."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            chunks = list(faulty.client.chunks(job.document_id))
            hits = faulty.client.search("a pilot takes the wheel", limit=50, document_ids=[job.document_id])
            listed = list(faulty.client.jobs(limit=5))
        except ServiceError:
            assert time.monotonic() < give_up_at, "the service did not come back"
            time.sleep(0.2)
        else:
            break
    manifest = ids.chunk_ids(job.document_id, job.revision, len(chunks))
    assert [chunk.chunk_id for chunk in chunks] == manifest
    assert sorted(hit.chunk_id for hit in hits) == sorted(manifest)
    assert job.job_id in {one.job_id for one in listed}


def _report(outcomes: dict[Schedule, str]) -> str:
    points = sorted({schedule.point for schedule in outcomes})
    ran = [outcome for outcome in outcomes.values() if outcome != "not reached"]
    lines = [
        "# Crash report",
        "",
        "Written by `make crash`: each row is a fault point, each column a fault. One real run each, in a running",
        "cluster: the process that meets the fault is killed with SIGKILL, refused, or not answered; then the document",
        "goes on to its end, and the invariants are checked. *exact*: MongoDB's chunk ids = Qdrant's point ids = the",
        "manifest, nothing is left over, and readers see every chunk once.",
        "",
        f"{len(ran)} schedules run, {ran.count('VIOLATED')} violations.",
        "",
        "| point | " + " | ".join(FAULTS) + " |",
        "|---|" + "---|" * len(FAULTS),
    ]
    for point in points:
        cells = [outcomes.get(Schedule(point, fault), "-") for fault in FAULTS]
        lines.append(f"| `{point}` | " + " | ".join(cells) + " |")
    lines += ["", "Elsewhere:", "", *(f"- `{point}` {why}" for point, why in NOT_HERE.items()), ""]
    return "\n".join(lines)
