"""A page that is to be alone has a node to itself: on real workers, beside a stream of other pages."""

import asyncio
from collections.abc import Iterator

import pytest

from cluster.engine import RayEngine
from cluster.nodes import cluster_cpus
from cluster.scheduler import FairScheduler
from ingest import ids
from ingest.model import Revision
from tests.clusters import Cluster
from tests.crash.conftest import Copy
from tests.crash.processes import title_of, titled

pytestmark = pytest.mark.slow
DOCUMENT, PAGES, ALONE = "a10ea10ea10e", 7, 4


@pytest.fixture
def revision(brisk: Cluster, letters: Copy) -> Iterator[Revision]:
    """A document that no job knows, so that the supervisor leaves it to the test's own engine."""
    brisk.stores.objects.put_file(ids.source_key(DOCUMENT), letters(0))
    yield Revision("default", DOCUMENT, 1, brisk.blueprint.pipeline)
    for key in (*brisk.stores.objects.keys(ids.checkpoint_prefix(DOCUMENT)), ids.source_key(DOCUMENT)):
        brisk.stores.objects.delete(key)


async def test_a_page_that_is_to_be_alone_has_a_node_to_itself(brisk: Cluster, revision: Revision) -> None:
    """Others wait while it waits, none runs while it runs, and all are read in the end: nobody starves or hangs."""
    engine = RayEngine(brisk.blueprint, FairScheduler(2 * cluster_cpus()))
    pages = [
        asyncio.create_task(engine.read_page(revision, number, alone=number == ALONE)) for number in range(1, PAGES + 1)
    ]
    alone, beside_others = 0, 0
    while not all(page.done() for page in pages):
        at_work = await asyncio.to_thread(titled, "ray::ocr")
        titles = [title for process in at_work if (title := title_of(process).strip())]
        if "ray::ocr alone" in titles:
            alone, beside_others = alone + (len(titles) == 1), beside_others + (len(titles) > 1)
        await asyncio.sleep(0.02)
    await asyncio.gather(*pages)
    assert alone > 5, "it was hardly seen"
    assert beside_others <= 1  # a look at all processes takes a moment, in which one page may end and another begin
