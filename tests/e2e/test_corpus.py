"""Every file of the robustness corpus (real, corrupt, encrypted, huge) ends in a state with a fitting message."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from ray.util.state import list_workers

from cluster import sources
from cluster.ingestion import Ingestion
from cluster.outcome import Outcome
from ingest.errors import Category
from ingest.model import JobState
from tests.checks import assert_nothing_left, assert_published_exactly
from tests.clusters import Cluster, ray_address

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FITTING = {Category.INPUT, Category.UNREADABLE, Category.TIMEOUT}
PASSWORD_FILES = {"issue15893_reduced.pdf", "issue3371.pdf", "issue6010_2.pdf"}
DEAD = "SYSTEM_ERROR"


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus is not here ({CORPUS})")
def test_every_file_of_the_corpus_ends_well(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal state for each, a message that names the trouble, nothing left of failures, no worker lost."""
    lost_before = _lost_workers()
    outcomes = list(Ingestion(cluster.client).run(sources.find([str(CORPUS)], sources.Buckets())))
    with capsys.disabled():
        sys.stdout.write(_table(outcomes))
    for outcome in outcomes:
        if outcome.job is None:
            assert outcome.failure
        elif outcome.job.state is JobState.FAILED:
            assert outcome.job.error is not None
            assert outcome.job.error.category in FITTING, outcome
            if not outcome.job.error.retryable:
                assert_nothing_left(cluster.stores, outcome.job.document_id, outcome.job.revision)
        elif outcome.job.state is JobState.SUCCEEDED:
            assert_published_exactly(cluster.stores, outcome.job, keep_source=True)
    states = {outcome.source.label: _error(outcome) for outcome in outcomes}
    assert all("password" in states[name] for name in PASSWORD_FILES)
    assert all(outcome.job is None or outcome.job.state.terminal for outcome in outcomes)
    assert _lost_workers() == lost_before


def _lost_workers() -> int:
    """Worker processes that died in the middle of work."""
    workers = list_workers(address=ray_address(), limit=10_000, raise_on_missing_output=False)
    return sum(worker.exit_type == DEAD for worker in workers)


def _table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes by kind, then every file that is not plainly `succeeded`."""
    rows = []
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts[outcome.state] += 1
        pages = [] if outcome.job is None else [f"page {p.page_number}: {p.message}" for p in outcome.job.failed_pages]
        if outcome.failed or pages:
            said = _error(outcome) or "; ".join(pages)[:160]
            rows.append(f"{outcome.state:20} {outcome.source.label:45} {said}")
    return "\n".join(["", *(f"{count:5} {state}" for state, count in counts.most_common()), "", *sorted(rows)])


def _error(outcome: Outcome) -> str:
    return "" if outcome.failure is None else outcome.failure.message
