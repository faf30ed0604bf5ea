"""Work that was lost with its node is done again, and counts as not tried."""

import pytest

from ingest.errors import NodeLost
from ingest.model import JobState, PageFailure
from ingest.pipeline import PAGE_TRIES
from ingest.tenure import MAX_NODES_LOST
from tests.integration.bench import Bench, failing

GONE = NodeLost("The node that did the work is gone.")


@pytest.mark.parametrize("call", ["inspect", "read_page", "cut", "embed", "store"])
async def test_lost_nodes_cost_neither_a_try_nor_an_attempt(bench: Bench, call: str) -> None:
    """More often than a page is tried: the same attempt goes on, and nothing is missing."""
    assert MAX_NODES_LOST > PAGE_TRIES
    number = 2 if call == "read_page" else 0
    bench.submit()
    job = await bench.run(bench.claim(), failing(call, number, GONE, times=MAX_NODES_LOST))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.failed_pages == []
    assert len(job.attempts) == 1
    bench.assert_published_exactly(job)


async def test_a_page_that_takes_down_every_node_is_given_up(bench: Bench) -> None:
    """It does not end the cluster: after so many nodes it counts as tried, and its neighbours are published."""
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 2, GONE, times=1_000))
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert [(page.page_number, page.reason) for page in job.failed_pages] == [(2, PageFailure.CRASH)]
    assert bench.engine.calls["read_page"] == 2 + PAGE_TRIES * (MAX_NODES_LOST + 1)
    bench.assert_published_exactly(job)
