"""The fault points of the object store once more, with S3 instead of a directory. In a session of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.faulty import FaultyCluster, running_faulty
from tests.crash.outcomes import Outcomes
from tests.crash.schedule import Schedule, schedules
from tests.crash.ways import strike
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    """Here it keeps its objects on S3."""
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.settings.items():
            patch.setenv(name, value)
        with running_faulty(tmp_path_factory.mktemp("on-s3")) as cluster:
            yield cluster


@pytest.mark.timeout(400)
@pytest.mark.parametrize("schedule", schedules(on_s3=True), ids=lambda one: one.name)
def test_a_fault_at_s3_ends_exact(
    faulty: FaultyCluster, outcomes: Outcomes, undisturbed: list[str], schedule: Schedule, tmp_path: Path
) -> None:
    """As in the matrix: what a conditional put, or a delete, of S3 was answered or not makes no difference."""
    assert strike(faulty, schedule, outcomes, undisturbed, tmp_path) == "exact"
