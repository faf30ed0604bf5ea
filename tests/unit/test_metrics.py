"""The list of metrics is the only one: dashboard and alerts are written from it, and ask for nothing else."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import promql_parser
import pytest
from pymongo.errors import OperationFailure
from ray.util import metrics as ray_metrics

from cluster import accounting, engine, metrics, monitoring, survey
from cluster.engine import RayEngine
from cluster.metrics import METRICS, Counter, Gauge, Histogram, Kind
from cluster.scheduler import FairScheduler
from cluster.survey import Survey
from ingest.errors import Category, StoreRefused, StoreUnavailable, WorkTimeout
from ingest.model import Attempt, Failure, Inspection, Job, JobState, Stage, StageRecord, StageStatus
from ingest.stores.jobs import Backlog
from tests.builders import NOON, a_job, a_revision
from tests.crash.processes import until

FAILURE = Failure(category=Category.STORE, message="Qdrant does not answer.", retryable=True, stage=Stage.STORE)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """What the metrics were told, by name."""
    told: dict[str, list[tuple[float, dict[str, str]]]] = {}

    def maker(metric: Any) -> Any:
        def record(value: float, tags: dict[str, str]) -> None:
            assert tags.keys() == set(metric.tags), metric.name
            told.setdefault(metric.name, []).append((value, tags))

        return MagicMock(inc=record, set=record, observe=record)

    for kind in ("counter", "gauge", "histogram"):
        monkeypatch.setattr(metrics, f"_ray_{kind}", maker)
    return told


def expressions() -> Iterator[str]:
    """Every PromQL expression that is written."""
    for panel in monitoring.dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (rule["expr"] for rule in monitoring.alert_rules()["groups"][0]["rules"])


def series() -> dict[str, set[str]]:
    """The names that Prometheus has for our metrics, and the labels of each."""
    found: dict[str, set[str]] = {}
    for metric in METRICS:
        if metric.kind is Kind.HISTOGRAM:
            found |= {f"{metric.exported}_{part}": {*metric.tags, "le"} for part in ("bucket", "sum", "count")}
        else:
            found[metric.exported] = set(metric.tags)
    return found


async def surveyed(stores: Any, enough: Callable[[], bool]) -> None:
    """Survey the stores until that is so."""
    running = asyncio.create_task(Survey(stores).run())
    await asyncio.to_thread(until, enough, 10)
    running.cancel()
    await asyncio.wait({running})


def test_names_follow_the_conventions() -> None:
    """Our prefix, once each; counters end in _total and nothing else does; seconds and ratios say so."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"fanfold_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.unit not in {"seconds", "ratio"} or metric.name.endswith(metric.unit), metric.name
        assert metric.description.endswith(".")
    defined = {value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)}
    assert defined == set(METRICS)


def test_a_metric_becomes_rays_on_first_use() -> None:
    """Made once, of its kind, with its tags; without a Ray cluster nothing raises; a wrong tag does."""
    for cached, metric, kind in (
        (metrics._ray_counter, metrics.PAGES, ray_metrics.Counter),
        (metrics._ray_gauge, metrics.JOBS, ray_metrics.Gauge),
        (metrics._ray_histogram, metrics.STAGE_SECONDS, ray_metrics.Histogram),
    ):
        made: Any = cached(metric)
        assert type(made) is kind
        assert (made.info["name"], made.info["tag_keys"]) == (metric.name, metric.tags)
        assert cached(metric) is made
    metrics.PAGES.inc(2, outcome="read", route="text")
    metrics.PAGES.inc(0, outcome="read", route="text")
    metrics.JOBS.set(3, state="queued")
    metrics.STAGE_SECONDS.observe(1.5, stage="embed")
    with pytest.raises(ValueError, match="tag"):
        metrics.PAGES.inc(outcome="read")


def test_buckets_rise_and_are_positive() -> None:
    """Ray refuses anything else, in the process that counts first."""
    for metric in METRICS:
        if isinstance(metric, Histogram):
            assert list(metric.buckets) == sorted(set(metric.buckets))
            assert metric.buckets[0] > 0


@pytest.mark.parametrize("path", monitoring.files(), ids=lambda path: path.name)
def test_the_committed_files_are_those_that_are_written(path: Path) -> None:
    """After a change of the list: `python -m cluster.monitoring`."""
    assert path.read_text(encoding="utf-8") == monitoring.files()[path]


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_expression_asks_for_metrics_that_exist(expression: str) -> None:
    """Prometheus's grammar takes it; every name is in the list, every label is one of its tags."""
    promql_parser.parse(expression)
    names = set(re.findall(r"\bray_\w+", expression))
    assert names
    assert names - series().keys() == set()
    known = set().union(*(series()[name] for name in names))
    grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
    matched = set(re.findall(r"[{,](\w+)=", expression))
    assert (grouped | matched) - known == set()


def test_a_broken_expression_is_refused() -> None:
    """The check above can fail."""
    with pytest.raises(ValueError, match=r"unclosed|unexpected|parenthesis"):
        promql_parser.parse("sum(rate(ray_fanfold_pages_total[5m])")


def test_every_metric_has_a_panel() -> None:
    """With its description; panels do not overlap."""
    panels = monitoring.dashboard()["panels"]
    assert [panel["description"] for panel in panels] == [metric.description for metric in METRICS]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_every_alert_says_what_to_do() -> None:
    """At least two sentences: what is wrong, what to do; and any label that it names is one that the rule keeps."""
    for rule in monitoring.alert_rules()["groups"][0]["rules"]:
        summary = rule["annotations"]["summary"]
        assert len(re.findall(r"[.?](?: |$)", summary)) >= 2, rule["alert"]
        assert all(f"by ({label})" in rule["expr"] for label in re.findall(r"\$labels\.(\w+)", summary))
        assert re.fullmatch(r"\d+m", rule["for"])


def ended(state: JobState, outcome: str | None, error: Failure | None = None) -> Job:
    """A job after an attempt of ten seconds, of which storing took four; asked to cancel three seconds before."""
    five, nine, ten = (NOON + timedelta(seconds=seconds) for seconds in (5, 9, 10))
    attempt = Attempt(number=1, epoch=1, holder="h", started_at=NOON, ended_at=ten, outcome=outcome, error=error)
    done = StageRecord(status=StageStatus.DONE, started_at=five, finished_at=nine)
    stages = {stage: StageRecord() for stage in Stage} | {Stage.STORE: done}
    return a_job(state=state, attempts=[attempt], stages=stages, cancel_requested_at=ten - timedelta(seconds=3))


def test_a_job_that_succeeds_is_counted_with_its_stages(recorded: dict[str, Any]) -> None:
    """One attempt, one job, the stages that were done; no rollback, no cancel."""
    accounting.attempt_ended(ended(JobState.SUCCEEDED, "succeeded"), seconds=10)
    assert recorded == {
        "fanfold_attempts_total": [(1, {"outcome": "succeeded", "category": ""})],
        "fanfold_attempt_seconds": [(10, {})],
        "fanfold_jobs_ended_total": [(1, {"state": "succeeded"})],
        "fanfold_stage_seconds": [(4.0, {"stage": "store"})],
    }


def test_a_cancelled_job_counts_its_rollback_and_how_long_it_took(recorded: dict[str, Any]) -> None:
    """From the request to the end of the attempt."""
    accounting.attempt_ended(ended(JobState.CANCELLED, "cancelled"), seconds=10)
    assert recorded["fanfold_cancel_seconds"] == [(3.0, {})]
    assert recorded["fanfold_rollbacks_total"] == [(1, {"state": "cancelled"})]


def test_what_is_not_the_end_of_a_job_is_not_counted_as_one(recorded: dict[str, Any]) -> None:
    """A requeued attempt is a retry with its reason; one whose end could not be written is a lost lease."""
    accounting.attempt_ended(ended(JobState.QUEUED, "requeued", FAILURE), seconds=1)
    accounting.attempt_ended(ended(JobState.RUNNING, None), seconds=1)
    accounting.attempt_ended(ended(JobState.QUEUED, "released"), seconds=1)
    assert recorded["fanfold_retries_total"] == [(1, {"category": "store"})]
    assert recorded["fanfold_lease_losses_total"] == [(1, {})]
    assert [tags["outcome"] for _, tags in recorded["fanfold_attempts_total"]] == ["requeued", "lost", "released"]
    assert "fanfold_jobs_ended_total" not in recorded


async def test_the_survey_reports_the_queue_and_counts_stores_that_fail(recorded: dict[str, Any]) -> None:
    """One store that fails hides nothing of the others, and nothing of the supervisor."""
    stores = MagicMock()
    stores.jobs.backlog.return_value = Backlog(jobs={JobState.QUEUED: 4, JobState.RUNNING: 2}, oldest_s=7.5)
    stores.vectors.ping.side_effect = StoreUnavailable("Qdrant does not answer.")
    stores.objects.ping.side_effect = StoreRefused("The bucket refuses.")
    await surveyed(stores, lambda: len(recorded.get("fanfold_store_errors_total", ())) == 2)
    assert recorded["fanfold_supervisors"] == [(1, {})]
    assert recorded["fanfold_jobs"] == [(4, {"state": "queued"}), (2, {"state": "running"})]
    assert recorded["fanfold_queue_age_seconds"] == [(7.5, {})]
    assert sorted(tags["store"] for _, tags in recorded["fanfold_store_errors_total"]) == ["object_store", "qdrant"]
    stores.jobs.backlog.side_effect = OperationFailure("not authorized")
    await surveyed(stores, lambda: len(recorded["fanfold_store_errors_total"]) == 5)
    assert len(recorded["fanfold_jobs"]) == 2
    assert (1, {"store": "mongodb"}) in recorded["fanfold_store_errors_total"]


async def test_a_silent_store_is_counted_at_once_and_delays_no_look_at_the_others(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client may wait a minute for it: the alert must not, nor must the gauges; and it is asked once at a time."""
    monkeypatch.setattr(survey, "PATIENCE_S", 0.02)
    monkeypatch.setattr(survey, "INTERVAL_S", 0.02)
    answers = threading.Event()
    stores = MagicMock()
    stores.jobs.backlog.return_value = Backlog(jobs={JobState.QUEUED: 4}, oldest_s=7.5)
    stores.vectors.ping.side_effect = answers.wait
    try:
        errors = "fanfold_store_errors_total"
        await surveyed(stores, lambda: len(recorded.get(errors, ())) >= 3 and stores.objects.ping.call_count >= 2)
    finally:
        answers.set()
    assert {tags["store"] for _, tags in recorded["fanfold_store_errors_total"]} == {"qdrant"}
    assert stores.vectors.ping.call_count == 1


async def test_pages_are_counted_by_route_and_outcome(
    recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text layers with their inspection, OCR page by page; one that fails counts under its error's category."""
    monkeypatch.setattr(engine, "tasks", MagicMock())
    result = AsyncMock(
        side_effect=[Inspection(10, ocr_pages=(3, 4), unreadable_pages=((7, "broken"),)), None, WorkTimeout("slow")]
    )
    monkeypatch.setattr(engine, "Work", lambda *_, **__: MagicMock(result=result))
    monkeypatch.setattr(engine, "EmbedderPool", MagicMock())
    ray_engine = RayEngine(MagicMock(), FairScheduler(1))
    await ray_engine.inspect(a_revision("d"), frozenset())
    await ray_engine.read_page(a_revision("d"), 3)
    with pytest.raises(WorkTimeout):
        await ray_engine.read_page(a_revision("d"), 4)
    assert [(value, tags["route"], tags["outcome"]) for value, tags in recorded["fanfold_pages_total"]] == [
        (7, "text", "read"),
        (1, "text", "unreadable"),
        (1, "ocr", "read"),
        (1, "ocr", "timeout"),
    ]
