"""The one list of metrics. What counts them, the Grafana dashboard and the alert rules all come from here.

Ray exports every metric on each node's metrics port, with the prefix `ray_` and labels that tell node and process:
https://docs.ray.io/en/latest/ray-observability/user-guides/add-app-metrics.html. Names and units follow
https://prometheus.io/docs/practices/naming. Nothing here may stop the work: no call raises while Ray is not there.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import ClassVar, Literal

from ray.util import metrics as ray_metrics

EXPORT_PREFIX = "ray_"
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


class Kind(StrEnum):
    """The kinds of Prometheus's data model."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric's name, and what it says."""

    kind: ClassVar[Kind]
    name: str
    unit: str
    description: str
    tags: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus; a histogram's series append `_bucket`, `_sum` and `_count`."""
        return f"{EXPORT_PREFIX}{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter(Metric):
    """Rises with every event, in each process from zero."""

    kind: ClassVar[Kind] = Kind.COUNTER

    def inc(self, amount: float = 1, **tags: str) -> None:
        """Count this many events; none is no event."""
        if amount:
            _ray_counter(self).inc(amount, tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge(Metric):
    """A value now. `across` says how the values that several supervisors report make one."""

    kind: ClassVar[Kind] = Kind.GAUGE
    across: Literal["max", "sum"]

    def set(self, value: float, **tags: str) -> None:
        """The value from now on."""
        _ray_gauge(self).set(value, tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram(Metric):
    """How values are spread over buckets, each named by its upper bound."""

    kind: ClassVar[Kind] = Kind.HISTOGRAM
    buckets: tuple[float, ...]

    def observe(self, value: float, **tags: str) -> None:
        """Count one value."""
        _ray_histogram(self).observe(value, tags)


@cache
def _ray_counter(metric: Counter) -> ray_metrics.Counter:
    return ray_metrics.Counter(metric.name, metric.description, tag_keys=metric.tags)


@cache
def _ray_gauge(metric: Gauge) -> ray_metrics.Gauge:
    return ray_metrics.Gauge(metric.name, metric.description, tag_keys=metric.tags)


@cache
def _ray_histogram(metric: Histogram) -> ray_metrics.Histogram:
    return ray_metrics.Histogram(metric.name, metric.description, list(metric.buckets), tag_keys=metric.tags)


SUPERVISORS = Gauge(
    name="fanfold_supervisors",
    unit="actors",
    description="Supervisors that are at work, whatever the stores do.",
    across="sum",
)
JOBS = Gauge(
    name="fanfold_jobs",
    unit="jobs",
    description="Open jobs by state. Each supervisor reports the whole queue.",
    tags=("state",),
    across="max",
)
QUEUE_AGE = Gauge(
    name="fanfold_queue_age_seconds",
    unit="seconds",
    description="How long the job that has waited longest could have been claimed; 0 when none waits.",
    across="max",
)
JOBS_ENDED = Counter(
    name="fanfold_jobs_ended_total", unit="jobs", description="Jobs that ended, by state.", tags=("state",)
)
ATTEMPTS = Counter(
    name="fanfold_attempts_total",
    unit="attempts",
    description="Attempts that ended, by outcome, and by the error's category where there was one.",
    tags=("outcome", "category"),
)
ATTEMPT_SECONDS = Histogram(
    name="fanfold_attempt_seconds", unit="seconds", description="How long attempts took.", buckets=SECONDS
)
RETRIES = Counter(
    name="fanfold_retries_total",
    unit="attempts",
    description="Attempts after which the job was queued again, by the error's category.",
    tags=("category",),
)
LEASE_LOSSES = Counter(
    name="fanfold_lease_losses_total",
    unit="attempts",
    description="Attempts that stopped because their lease was lost, or could not be ended.",
)
ROLLBACKS = Counter(
    name="fanfold_rollbacks_total",
    unit="jobs",
    description="Jobs that ended unpublished and whose rows were removed, by state.",
    tags=("state",),
)
CANCEL_SECONDS = Histogram(
    name="fanfold_cancel_seconds",
    unit="seconds",
    description="From the request to `cancelled`: nothing runs, nothing is left.",
    buckets=SECONDS,
)
STAGE_SECONDS = Histogram(
    name="fanfold_stage_seconds",
    unit="seconds",
    description="From a stage's first start to its end, over all attempts of a job that ended.",
    tags=("stage",),
    buckets=SECONDS,
)
PAGES = Counter(
    name="fanfold_pages_total",
    unit="pages",
    description="Pages that came back from workers, by route (text, ocr), and by outcome: read, or why not. "
    "Repeated work counts again.",
    tags=("outcome", "route"),
)
BATCH_FILL = Histogram(
    name="fanfold_batch_fill_ratio",
    unit="ratio",
    description="Tokens of an embedder's forward pass, without padding, as a share of FANFOLD_EMBEDDING_BATCH_TOKENS.",
    buckets=RATIOS,
)
EMBEDDERS = Gauge(
    name="fanfold_embedders",
    unit="actors",
    description="Embedder actors of each supervisor: loaded, or waiting for their place and loading their model.",
    tags=("state",),
    across="sum",
)
STORE_ERRORS = Counter(
    name="fanfold_store_errors_total",
    unit="calls",
    description="Calls of supervisors that a store did not answer or refused, of those that look for jobs and the "
    "regular probes. A probe that is not answered counts again every 10 seconds.",
    tags=("store",),
)
METRICS: tuple[Counter | Gauge | Histogram, ...] = (
    SUPERVISORS,
    JOBS,
    QUEUE_AGE,
    JOBS_ENDED,
    ATTEMPTS,
    ATTEMPT_SECONDS,
    RETRIES,
    LEASE_LOSSES,
    ROLLBACKS,
    CANCEL_SECONDS,
    STAGE_SECONDS,
    PAGES,
    BATCH_FILL,
    EMBEDDERS,
    STORE_ERRORS,
)
