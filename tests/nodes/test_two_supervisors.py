"""Two supervisors on one queue: both work, one dies, and every job is done exactly once."""

import pytest

from ingest.model import JobState
from serve.client import Client
from tests.checks import History, assert_invariants
from tests.crash.machine import PATIENCE_S
from tests.crash.processes import until
from tests.nodes.conftest import MakeSite, Scan
from tests.nodes.site import Node
from tests.s3_server import S3Server

JOBS, PAGES, ENDED_BEFORE = 10, 2, 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_supervisors_share_a_queue_and_one_is_killed(make_site: MakeSite, s3: S3Server, scan: Scan) -> None:
    """Killed with its node while both hold jobs: the other one ends them all, and no page is read twice."""
    site = make_site(**s3.settings, FANFOLD_SUPERVISORS="2", FANFOLD_MAX_RUNNING_JOBS="2")
    keeps, goes = site.add_node(), site.add_node()
    site.fanfold.start()
    history = History()
    with Client(site.fanfold.url) as client:
        jobs = [client.submit(scan(PAGES)).job_id for _ in range(JOBS)]

        def both_work() -> bool:
            ended = [job for job in history.look(site.stores) if job.state.terminal]
            return len(ended) >= ENDED_BEFORE and all(peer.running for peer in site.stores.roster.present())

        until(both_work, PATIENCE_S)
        assert len(site.stores.roster.present()) == 2
        home = next(node for node in (keeps, goes) if _supervisors(node))
        site.lose_node(home)
        ended = [site.fanfold.finish(client, job_id) for job_id in jobs]
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert len({attempt.holder for job in ended for attempt in job.attempts}) >= 2
    assert {attempt.outcome for job in ended for attempt in job.attempts} == {"lost", "succeeded"}
    pages = [puts for key, puts in s3.puts.items() if "/pages/" in key]
    assert pages == [1] * (JOBS * PAGES)
    assert_invariants(site.stores, history)


def _supervisors(node: Node) -> int:
    return len(node.workers("ray::SupervisorActor"))
