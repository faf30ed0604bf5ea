"""Nodes come and go in the middle of a job: it costs the pages in flight on them, and no try of any page."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ingest.model import JobState
from serve.client import Client
from serve.schemas import JobView
from tests.checks import assert_invariants
from tests.crash.machine import PATIENCE_S
from tests.crash.processes import until
from tests.nodes.conftest import MakeSite, Scan
from tests.nodes.site import Node, Site, doing, watched
from tests.s3_server import S3Server

PAGES = 8
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(make_site: MakeSite, s3: S3Server) -> Site:
    """A head with Fanfold on it. Nodes that read are the tests' to add."""
    site = make_site(**s3.settings)
    site.fanfold.start()
    return site


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    """A client of its service."""
    with Client(site.fanfold.url) as client:
        yield client


def assert_undisturbed(job: JobView) -> None:
    """As if nothing had happened: one attempt, every page."""
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.failed_pages == []
    assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]


def pages_of(s3: S3Server, document_id: str) -> Counter[str]:
    """How often somebody has put each page's checkpoint: whoever reads a page puts it."""
    return Counter({key: puts for key, puts in s3.puts.items() if document_id in key and "/pages/" in key})


def reading(node: Node) -> bool:
    """Whether one of its workers is at a page."""
    return bool(node.workers("ray::ocr"))


def test_pages_that_wait_are_demand_that_rays_autoscaler_sees(site: Site, client: Client, scan: Scan) -> None:
    """Without a node to read them, and beside one that is busy: then it adds another; when all is read, none waits."""
    job = client.submit(scan(PAGES))
    until(lambda: site.cpus_asked_for() >= 1, PATIENCE_S)
    node = site.add_node()
    until(lambda: reading(node) and site.cpus_asked_for() >= 1, PATIENCE_S)
    assert_undisturbed(site.fanfold.finish(client, job.job_id))
    until(lambda: site.cpus_asked_for() == 0, PATIENCE_S)
    site.lose_node(node)


def test_a_node_killed_in_mid_job_costs_only_its_pages_in_flight(
    site: Site, client: Client, s3: S3Server, scan: Scan
) -> None:
    """What was on it is read elsewhere; no page is read twice, none is given up, and the attempt goes on."""
    keeps, goes = site.add_node(), site.add_node()
    job = client.submit(scan(PAGES))
    until(lambda: client.job(job.job_id).progress.pages_done >= 2 and reading(keeps) and reading(goes), PATIENCE_S)
    site.lose_node(goes)
    ended = site.fanfold.finish(client, job.job_id)
    assert_undisturbed(ended)
    assert sorted(pages_of(s3, job.document_id).values()) == [1] * PAGES
    assert_invariants(site.stores)
    site.lose_node(keeps)


def test_a_page_whose_nodes_die_is_not_given_up(site: Site, client: Client, s3: S3Server, scan: Scan) -> None:
    """One page, three machines that vanish under it, with and without a warning: it has not been tried yet."""
    node = site.add_node()
    job = client.submit(scan(1))
    for warned in (False, True, True):
        until(partial(reading, node), PATIENCE_S)
        site.lose_node(node, warned=warned)
        node = site.add_node()
    ended = site.fanfold.finish(client, job.job_id)
    assert_undisturbed(ended)
    assert list(pages_of(s3, job.document_id).values()) == [1]
    assert_invariants(site.stores)
    site.lose_node(node)


def test_a_node_added_in_mid_job_is_used(site: Site, client: Client, scan: Scan) -> None:
    """The supervisor gives out more pages as soon as there are more CPUs, however busy it is."""
    first = site.add_node()
    job = client.submit(scan(PAGES))
    until(lambda: client.job(job.job_id).progress.pages_done >= 1, PATIENCE_S)
    second = site.add_node()
    with watched(first, second) as seen:
        ended = site.fanfold.finish(client, job.job_id)
    assert_undisturbed(ended)
    assert doing(seen, "ray::ocr") == {first, second}
    assert_invariants(site.stores)
    site.lose_node(first)
    site.lose_node(second)


def test_a_head_that_is_lost_brings_everything_back_from_mongodb(
    site: Site, client: Client, s3: S3Server, scan: Scan
) -> None:
    """Another head, other nodes, another `fanfold up`: jobs go on, and no page that was committed is read again."""
    site.add_node()
    jobs = [client.submit(scan(PAGES)), client.submit(scan(1))]
    until(lambda: len(pages_of(s3, jobs[0].document_id)) >= 3, PATIENCE_S)
    site.lose_head()
    committed = {key for key in s3.stored() if "/pages/" in key}
    before = s3.puts.copy()
    site.start_head()
    site.add_node()
    site.fanfold.start()
    with Client(site.fanfold.url) as after:
        ended = [site.fanfold.finish(after, job.job_id) for job in jobs]
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 2
    assert [attempt.outcome for attempt in ended[0].attempts] == ["lost", "succeeded"]
    assert all(job.failed_pages == [] for job in ended)
    again: Counter[Any] = s3.puts - before
    assert not committed & again.keys(), "committed, and read again"
    assert_invariants(site.stores)
