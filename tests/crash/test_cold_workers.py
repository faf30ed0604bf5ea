"""A worker process whose models are not there yet."""

import pytest

from ingest.model import JobState
from tests.checks import assert_invariants
from tests.clusters import Cluster
from tests.crash.conftest import Copy
from tests.crash.processes import busy

LOADING_S = 1.0  # of computing: the models take several


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cancel_while_models_load_costs_no_other_document(brisk: Cluster, letters: Copy) -> None:
    """Python code that is stopped in the middle of an import cannot import again: such a process serves nobody."""
    job = brisk.submit(letters(0))
    busy("ray::ocr", LOADING_S)
    brisk.client.cancel(job.job_id)
    assert brisk.finish(job.job_id).state is JobState.CANCELLED
    following = brisk.ingest(letters(1))
    assert following.state is JobState.SUCCEEDED, following.error
    assert following.failed_pages == []
    assert_invariants(brisk.stores)
