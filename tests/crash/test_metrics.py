"""What goes wrong is counted: the metrics that the alerts ask for are exported once it has happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import metrics
from ingest.faults import Fault
from ingest.model import JobState
from tests.crash.conftest import Copy
from tests.crash.faulty import FaultyCluster, running_faulty
from tests.crash.processes import until
from tests.crash.ways import STORED_FOR_A_WHILE
from tests.e2e.test_metrics_export import EXPORT_S, missing, scraped
from tests.pdfs import SCAN, pdf_of

FOR_LONG = 200  # calls: more than a lease lasts
PAGES = 30  # read for longer than a lease lasts


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    """One of its own, in which nothing has gone wrong, and which is gone when others start theirs."""
    with running_faulty(tmp_path_factory.mktemp("faulty")) as cluster:
        yield cluster


def is_exported(metric: metrics.Metric) -> bool:
    """Whether Prometheus would find it, with its labels."""
    return not missing(metric, scraped())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_goes_wrong_is_exported_under_the_listed_names(faulty: FaultyCluster, note: Copy, tmp_path: Path) -> None:
    """A claim unanswered, an attempt requeued, rows rolled back, a lease lost: none is there before, each is after."""
    wrong = (metrics.STORE_ERRORS, metrics.RETRIES, metrics.ROLLBACKS, metrics.LEASE_LOSSES)
    assert [metric.name for metric in wrong if is_exported(metric)] == []
    faulty.follow([{"point": "jobs.claim", "fault": Fault.ERROR}, {"point": "ray.inspect", "fault": Fault.ERROR}])
    assert faulty.ingest(note(0)).state is JobState.SUCCEEDED
    faulty.follow(STORED_FOR_A_WHILE)
    job = faulty.submit(note(1))
    until(lambda: faulty.client.job(job.job_id).progress.chunks_stored)
    faulty.client.cancel(job.job_id)
    assert faulty.finish(job.job_id).state is JobState.CANCELLED
    silent = [{"point": point, "fault": Fault.ERROR, "times": FOR_LONG} for point in ("jobs.renew", "jobs.report")]
    faulty.follow(silent)
    scans = tmp_path / "scans.pdf"
    scans.write_bytes(pdf_of([f"Scans from {tmp_path}.", *[SCAN] * PAGES]))
    job = faulty.submit(scans)
    until(lambda: is_exported(metrics.LEASE_LOSSES), EXPORT_S)
    faulty.follow([])
    assert faulty.finish(job.job_id).state is JobState.SUCCEEDED
    until(lambda: all(map(is_exported, wrong)), EXPORT_S)
    faulty.assert_recovered()
