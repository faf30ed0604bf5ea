"""What a supervisor says of each attempt."""

from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from cluster import accounting, duty
from cluster.composition import Blueprint
from cluster.supervisor import Supervisor
from ingest.errors import Category
from ingest.model import Attempt, FailedPage, Failure, JobState, PageFailure, PipelineSpec, Progress, Stage
from ingest.settings import Settings
from tests.builders import NOON, a_job

BLUEPRINT = Blueprint(Settings(), PipelineSpec(extract="e", chunk="c", embed="f"), dimension=384)
FAILURE = Failure(category=Category.TIMEOUT, message="It took too long.", retryable=True, stage=Stage.EMBED)


def account(claimed: dict[str, Any], ended: dict[str, Any]) -> list[Any]:
    """The lines of an attempt at a job that was so when it was claimed, and so when the attempt ended."""
    with capture_logs() as lines:
        Supervisor(BLUEPRINT, MagicMock())._account(a_job(**claimed), a_job(**ended), 1.5)
    return lines


@pytest.fixture(autouse=True)
def _no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "attempt_ended", MagicMock())
    monkeypatch.setattr(duty, "cluster_address", lambda: "nowhere")  # there is no cluster


def test_an_attempt_is_one_line() -> None:
    """How it ended, why, how long it took, how far it came and what is missing: one structured line."""
    attempt = Attempt(
        number=1,
        epoch=1,
        holder="h",
        started_at=NOON,
        ended_at=NOON + timedelta(seconds=1),
        outcome="requeued",
        error=FAILURE,
    )
    missing = FailedPage(page_number=2, reason=PageFailure.CRASH, message="It died.")
    progress = Progress(pages_total=9, pages_done=9, chunks_total=4, chunks_embedded=2)
    [line] = account(
        {"state": JobState.RUNNING},
        {"attempts": [attempt], "failed_pages": [missing], "progress": progress.model_dump()},
    )
    assert line == {
        "event": "attempt ended",
        "log_level": "info",
        "outcome": "requeued",
        "category": "timeout",
        "error": "It took too long.",
        "seconds": 1.5,
        "failed_pages": 1,
        **progress.model_dump(),
    }


def test_a_sweep_is_no_attempt() -> None:
    """Also of a job that nobody ever attempted, because it was cancelled before."""
    swept = {"state": JobState.CANCELLED, "cancel_requested_at": NOON}
    assert account(swept, swept) == []
