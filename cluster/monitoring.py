"""The Grafana dashboard and the Prometheus alert rules, written from the list of metrics.

`python -m cluster.monitoring` writes `deploy/grafana/dashboard.json` and `deploy/prometheus/alerts.yaml` again; a test
compares them. Formats: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model
and https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.metrics import (
    CANCEL_SECONDS,
    EMBEDDERS,
    JOBS_ENDED,
    LEASE_LOSSES,
    METRICS,
    PAGES,
    QUEUE_AGE,
    RETRIES,
    STORE_ERRORS,
    SUPERVISORS,
    Counter,
    Gauge,
    Histogram,
)
from ingest.model import JobState
from ingest.telemetry import configure_logging, get_logger

DEPLOY = Path(__file__).parents[1] / "deploy"
WINDOW = "5m"
QUANTILES = (0.5, 0.95)
GRAFANA_UNITS = {"seconds": "s", "ratio": "percentunit"}
COLUMNS, WIDTH, HEIGHT = 3, 8, 8  # Grafana's grid is 24 wide
SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WARNING, CRITICAL = "warning", "critical"
log = get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule; `summary` says what is wrong and what to do."""

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str


ALERTS = (
    Alert(
        "FanfoldNoSupervisor",
        f"absent({SUPERVISORS.exported})",
        "3m",
        CRITICAL,
        "No supervisor reports, so no job is worked on; what was accepted waits. Look for `SupervisorActor` in "
        "Ray's dashboard, then start Fanfold again: `fanfold up`, or `serve deploy`.",
    ),
    Alert(
        "FanfoldStoreFails",
        f"sum by (store) (increase({STORE_ERRORS.exported}[2m])) > 0",  # shorter than what it must last: no blip does
        "3m",
        CRITICAL,
        "{{ $labels.store }} does not answer or refuses. /readyz says why. Jobs wait FANFOLD_OUTAGE_TIMEOUT_S for it, "
        "then use up attempts: bring the store back, then `fanfold retry` what failed.",
    ),
    Alert(
        "FanfoldQueueIsOld",
        f"max({QUEUE_AGE.exported}) > 900",
        "10m",
        WARNING,
        "A job has waited longer than 15 minutes. If all CPUs work, add workers; if they idle, raise "
        "FANFOLD_MAX_RUNNING_JOBS; if nothing moves, look at `fanfold jobs --state running`.",
    ),
    Alert(
        "FanfoldJobsFail",
        f'sum(rate({JOBS_ENDED.exported}{{state="{JobState.FAILED}"}}[30m])) / sum(rate({JOBS_ENDED.exported}[30m]))'
        f" > 0.2 and sum(increase({JOBS_ENDED.exported}[30m])) >= 5",
        "10m",
        WARNING,
        "More than a fifth of the jobs fail, of five or more. `fanfold jobs --state failed`, then `fanfold job ID`: "
        "its error says why and what to do.",
    ),
    Alert(
        "FanfoldPagesDie",
        f'sum(rate({PAGES.exported}{{outcome=~"crash|memory|timeout"}}[30m])) / sum(rate({PAGES.exported}[30m]))'
        " > 0.05",
        "10m",
        WARNING,
        "More than one page in twenty kills its worker, its memory or its time. `failed_pages` of `fanfold job ID` "
        "says which. If the workers lack memory, give 1.5 GiB a core; if all pages are slow, raise "
        "FANFOLD_PAGE_TIMEOUT_S.",
    ),
    Alert(
        "FanfoldRetries",
        f"sum by (category) (increase({RETRIES.exported}[30m])) > 10",
        "10m",
        WARNING,
        "Attempts fail and are repeated, for this reason: {{ $labels.category }}. `fanfold job ID` shows the attempts; "
        "the log's event `attempt ended` has the error.",
    ),
    Alert(
        "FanfoldLeasesAreLost",
        f"sum(increase({LEASE_LOSSES.exported}[15m])) > 3",
        "5m",
        WARNING,
        "Supervisors lose their leases. Look for a slow MongoDB or a head without free CPU; if neither can be helped, "
        "raise FANFOLD_LEASE_TTL_S.",
    ),
    Alert(
        "FanfoldCancelsAreSlow",
        f"histogram_quantile(0.95, sum by (le) (rate({CANCEL_SECONDS.exported}_bucket[30m]))) > 30",
        "10m",
        WARNING,
        "A cancel takes longer than 30 seconds. Look for the log's event `work could not be stopped`, for nodes that "
        "do not answer, and for slow deletes in the stores.",
    ),
    Alert(
        "FanfoldNoEmbedder",
        f'sum({EMBEDDERS.exported}{{state="loading"}}) > 0 and on () sum({EMBEDDERS.exported}{{state="loaded"}}) == 0',
        "20m",
        WARNING,
        "An embedder is wanted, and none has its model. If FANFOLD_EMBEDDER_GPUS is set, is a GPU free, and does `ray "
        "status` show the demand? Otherwise see the log of `EmbedderActor` in Ray's dashboard.",
    ),
)


def main() -> None:
    """Write both files."""
    configure_logging("INFO")
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        log.info("written", path=str(path))


def files() -> dict[Path, str]:
    """The files and what must stand in them."""
    rules = yaml.safe_dump(alert_rules(), sort_keys=False, width=110)
    return {
        DEPLOY / "grafana" / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        DEPLOY / "prometheus" / "alerts.yaml": f"# Written by `python -m cluster.monitoring`; do not edit.\n{rules}",
    }


def dashboard() -> dict[str, Any]:
    """A panel for each metric; the data source is chosen in Grafana."""
    return {
        "uid": "fanfold",
        "title": "Fanfold",
        "tags": ["fanfold", "ray"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}]
        },
        "panels": [_panel(number, metric) for number, metric in enumerate(METRICS)],
    }


def alert_rules() -> dict[str, Any]:
    """One group of rules."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasting,
            "labels": {"severity": alert.severity, "service": "fanfold"},
            "annotations": {"summary": alert.summary},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "fanfold", "rules": rules}]}


def queries(metric: Counter | Gauge | Histogram) -> Iterator[tuple[str, str]]:
    """What a panel of the metric asks, in PromQL, each with its legend: summed over nodes and processes."""
    legend = " ".join(f"{{{{{tag}}}}}" for tag in metric.tags)
    match metric:
        case Counter():
            yield f"60 * sum{_by(metric.tags)} (rate({metric.exported}[{WINDOW}]))", legend
        case Gauge():
            yield f"{metric.across}{_by(metric.tags)} ({metric.exported})", legend
        case Histogram():
            buckets = f"sum{_by(('le', *metric.tags))} (rate({metric.exported}_bucket[{WINDOW}]))"
            for quantile in QUANTILES:
                yield f"histogram_quantile({quantile}, {buckets})", f"p{quantile * 100:g} {legend}".strip()


def _by(tags: tuple[str, ...]) -> str:
    return f" by ({', '.join(tags)})" if tags else ""


def _panel(number: int, metric: Counter | Gauge | Histogram) -> dict[str, Any]:
    subject = metric.name.removeprefix("fanfold_").removesuffix("_total").replace("_", " ").capitalize()
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": f"{subject} a minute" if isinstance(metric, Counter) else subject,
        "description": metric.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": GRAFANA_UNITS.get(metric.unit, "short"), "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend or subject}
            for index, (expr, legend) in enumerate(queries(metric))
        ],
    }


if __name__ == "__main__":
    main()
