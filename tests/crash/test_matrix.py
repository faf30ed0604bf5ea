"""Every fault point times every fault, in a running cluster: then recovery, then the invariants.

Run by `make crash`, in a session of its own. Each schedule is a plan with one fault (and whatever is needed to get
there), a document that nobody has sent before, and its way to an end. A part of them may be run at a time
(`-k roster`, `--last-failed`): the report is written when all have been, those on S3 too.
"""

from pathlib import Path

import pytest

from tests.checks import EVERY_JOB
from tests.crash.faulty import FaultyCluster
from tests.crash.outcomes import Outcomes
from tests.crash.processes import until
from tests.crash.schedule import Schedule, schedules
from tests.crash.ways import strike

TOLD_S = 60.0  # a notice that was taken, and not ended, is sent again after half of this
pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
@pytest.mark.parametrize("schedule", schedules(on_s3=False), ids=lambda one: one.name)
def test_a_fault_anywhere_ends_exact(
    faulty: FaultyCluster, outcomes: Outcomes, undisturbed: list[str], schedule: Schedule, tmp_path: Path
) -> None:
    """Killed, refused or unanswered at this point: every job ends, and the stores hold what they must and no more."""
    assert strike(faulty, schedule, outcomes, undisturbed, tmp_path) == "exact"


def test_every_end_is_told(faulty: FaultyCluster, undisturbed: list[str]) -> None:
    """Whatever has struck: of each job that has ended the webhook has heard, at least once."""
    assert undisturbed
    ends = {f"{job.job_id}.{job.state}" for job in faulty.stores.jobs.find("default", limit=EVERY_JOB)}
    until(lambda: ends <= faulty.receiver.heard, TOLD_S)
    assert ends
