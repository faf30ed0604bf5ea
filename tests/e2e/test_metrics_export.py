"""The metrics as Prometheus would scrape them: what the dashboard and the alerts ask for is really exported."""

from pathlib import Path
from typing import Any

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families

from cluster import metrics
from cluster.metrics import Kind, Metric
from ingest.model import JobState
from tests.clusters import Cluster
from tests.crash.processes import until
from tests.pdfs import SCAN, pdf_of

HAPPENED = (  # in the life of a document that is published, and of one that is cancelled
    metrics.SUPERVISORS,
    metrics.JOBS,
    metrics.QUEUE_AGE,
    metrics.JOBS_ENDED,
    metrics.ATTEMPTS,
    metrics.ATTEMPT_SECONDS,
    metrics.STAGE_SECONDS,
    metrics.PAGES,
    metrics.BATCH_FILL,
    metrics.EMBEDDERS,
    metrics.CANCEL_SECONDS,
)
SUFFIXES = {Kind.COUNTER: ("",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
EXPORT_S = 60.0


def exported() -> str:
    """What Prometheus would be told by the node."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    url = f"http://{nodes[0]['NodeManagerAddress']}:{nodes[0]['MetricsExportPort']}/metrics"
    return httpx.get(url, trust_env=False).text


def scraped() -> dict[str, set[str]]:
    """Every series that the node exports, with the names of its labels."""
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exported()):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def missing(metric: Metric, series: dict[str, set[str]]) -> list[str]:
    """The series of the metric that are not there, or lack one of its labels."""
    wanted = set(metric.tags)
    names = [f"{metric.exported}{suffix}" for suffix in SUFFIXES[metric.kind]]
    return [name for name in names if not wanted <= series.get(name, set()) or name not in series]


def test_what_happened_to_documents_is_exported_under_the_listed_names(cluster: Cluster, tmp_path: Path) -> None:
    """Names, suffixes and labels are those from which the Grafana dashboard and the alert rules are written."""
    path, book = tmp_path / "letter.pdf", tmp_path / "book.pdf"
    path.write_bytes(pdf_of([f"A letter from {tmp_path}.", SCAN]))
    book.write_bytes(pdf_of([f"A book from {tmp_path}.", *[SCAN] * 20]))
    assert cluster.ingest(path).state is JobState.SUCCEEDED
    job = cluster.submit(book)
    until(lambda: cluster.client.job(job.job_id).progress.pages_done >= 2)
    cluster.client.cancel(job.job_id)
    assert cluster.finish(job.job_id).state is JobState.CANCELLED
    until(lambda: not any(missing(metric, scraped()) for metric in HAPPENED), EXPORT_S)


def test_no_document_is_a_series_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    """Ray makes its tasks' names labels: with documents and pages in them its agent would grow with each page."""
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf_of([f"Scanned in {tmp_path}.", *[SCAN] * 3]))
    job = cluster.ingest(path)
    assert job.state is JobState.SUCCEEDED
    until(lambda: 'Name="ocr"' in exported(), EXPORT_S)
    assert job.document_id[:8] not in exported()
