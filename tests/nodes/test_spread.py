"""Where the work of a job runs: pages on every node that has CPUs, embedders where the GPUs are, supervisors apart."""

import json
from pathlib import Path

import pytest

from ingest.model import JobState
from ingest.stores.roster import Order
from serve.client import Client
from tests.checks import assert_invariants
from tests.nodes.conftest import MakeSite
from tests.nodes.site import Node, Site, doing, watched
from tests.pdfs import SCAN, pdf_of

PAGES = 8


@pytest.fixture(scope="module")
def readers_and_gpu(make_site: MakeSite) -> tuple[Site, list[Node], Node]:
    """Two nodes with a CPU each, one with a GPU and none, and two supervisors."""
    site = make_site(FANFOLD_EMBEDDER_GPUS="1", FANFOLD_SUPERVISORS="2")
    readers, gpu = [site.add_node() for _ in range(2)], site.add_node(num_cpus=0, num_gpus=1)
    site.fanfold.start()
    return site, readers, gpu


def test_a_job_uses_every_node_for_what_it_has(readers_and_gpu: tuple[Site, list[Node], Node], tmp_path: Path) -> None:
    """Each CPU node reads pages, and nobody else; vectors are made beside the GPU; the result is exact."""
    site, readers, gpu = readers_and_gpu
    scan = tmp_path / "scan.pdf"
    scan.write_bytes(pdf_of([SCAN] * PAGES + ["The pilot climbs aboard from the cutter before the bar."]))
    with Client(site.fanfold.url) as client, watched(site.head, *readers, gpu) as seen:
        ended = site.fanfold.finish(client, client.submit(scan).job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert doing(seen, "ray::ocr") == set(readers)
    assert doing(seen, "ray::embed") == {gpu}
    assert_invariants(site.stores)


def test_supervisors_live_on_different_nodes(readers_and_gpu: tuple[Site, list[Node], Node]) -> None:
    """The loss of either node leaves one."""
    site, readers, gpu = readers_and_gpu

    def homes() -> list[Node]:
        return [node for node in (site.head, *readers, gpu) for _ in node.workers("ray::SupervisorActor")]

    if len(set(homes())) == 1:  # the affinity is soft: on a busy machine Ray may have taken another node
        site.fanfold.stop()
        site.fanfold.start()
    assert len(homes()) == len(set(homes())) == 2


def test_a_cluster_that_was_joined_is_drained_from_its_data_directory(
    readers_and_gpu: tuple[Site, list[Node], Node],
) -> None:
    """`fanfold drain` finds the Ray cluster there, and both supervisors obey; so they do when it ends."""
    site = readers_and_gpu[0]
    drained = site.fanfold.fanfold("drain", "--json", "--timeout", "60")
    assert drained.returncode == 0, drained.stderr
    answer = json.loads(drained.stdout)
    assert (answer["cluster"], answer["done"], answer["running"]) == (site.ray.address, True, 0)
    assert len(site.stores.roster.present(site.ray.address)) == 2
    assert site.fanfold.fanfold("drain", "--resume").returncode == 0
    assert site.stores.roster.standing(site.ray.address).order is Order.WORK
