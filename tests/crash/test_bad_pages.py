"""A page that takes its process with it costs itself: its neighbours are published, and the reason is the right one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.ports import free_port
from cluster.service import running
from ingest.faults import Fault
from ingest.model import JobState, PageFailure
from ingest.settings import Settings
from serve.client import Client
from tests.checks import assert_published_exactly
from tests.clusters import Cluster
from tests.pdfs import SCAN, pdf_of

PAGES = 6
BAD_PAGE = 4
REASONS = {
    Fault.SEGFAULT: PageFailure.CRASH,
    Fault.EXIT: PageFailure.CRASH,
    Fault.CRASH_BEFORE: PageFailure.CRASH,
    Fault.HOARD: PageFailure.MEMORY,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose processes follow a plan; the test's own process does not."""
    home = tmp_path_factory.mktemp("bad-pages")
    settings = Settings(
        data_dir=home,
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        faults=home / "plan.json",
        retry_delay_s=0.2,
        page_timeout_s=20,
    )
    with running(settings) as service, Client(settings.http_url) as client:
        unarmed = service.blueprint.settings.model_copy(update={"faults": None})
        yield Cluster(
            service.blueprint.__class__(unarmed, service.blueprint.pipeline, service.blueprint.dimension), client
        )


def plan(cluster: Cluster, point: str, fault: Fault, times: int) -> None:
    """From now on this happens to the bad page, so many times."""
    fired = cluster.settings.home / "plan.json.fired"
    for file in fired.glob("*"):
        file.unlink()
    entry = {"point": point, "fault": fault, "argument": BAD_PAGE, "times": times}
    (cluster.settings.home / "plan.json").write_text(json.dumps([entry]), encoding="utf-8")


def a_scan(tmp_path: Path) -> Path:
    """Pages to OCR, but for the first."""
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf_of([f"The cover of {tmp_path}.", *[SCAN] * (PAGES - 1)]))
    return path


@pytest.mark.parametrize("fault", REASONS)
def test_a_page_that_ends_its_process_is_tried_twice_and_listed(cluster: Cluster, tmp_path: Path, fault: Fault) -> None:
    """By a segmentation fault, by leaving without a word, by SIGKILL, by taking all memory; one attempt is enough."""
    plan(cluster, "activities.read_page", fault, times=2)
    job = cluster.ingest(a_scan(tmp_path))
    assert job.state is JobState.PARTIALLY_SUCCEEDED, job.error
    assert [(page.page_number, page.reason) for page in job.failed_pages] == [(BAD_PAGE, REASONS[fault])]
    assert len(job.attempts) == 1
    assert job.progress.pages_done == PAGES
    assert_published_exactly(cluster.stores, job, complete=False)


def test_a_page_that_ends_its_process_once_is_read(cluster: Cluster, tmp_path: Path) -> None:
    """The second try succeeds: nothing is missing."""
    plan(cluster, "activities.read_page", Fault.SEGFAULT, times=1)
    job = cluster.ingest(a_scan(tmp_path))
    assert (job.state, job.failed_pages) == (JobState.SUCCEEDED, [])
    assert_published_exactly(cluster.stores, job)


def test_a_retry_reads_the_page_that_was_given_up(cluster: Cluster, tmp_path: Path) -> None:
    """`POST /v1/jobs/{id}/retry` of a partial success ends with every page."""
    plan(cluster, "activities.read_page", Fault.EXIT, times=2)
    partial = cluster.ingest(a_scan(tmp_path))
    assert partial.state is JobState.PARTIALLY_SUCCEEDED
    ended = cluster.finish(cluster.client.retry(partial.job_id).job_id)
    assert (ended.state, ended.failed_pages) == (JobState.SUCCEEDED, [])
    assert_published_exactly(cluster.stores, ended)


@pytest.mark.parametrize("fault", [Fault.SEGFAULT, Fault.HOARD])
def test_a_text_layer_that_ends_the_process_is_left_to_ocr(cluster: Cluster, tmp_path: Path, fault: Fault) -> None:
    """The inspection goes on without that page's text layer; the page is read from its image."""
    plan(cluster, "activities.classify", fault, times=1)
    path = tmp_path / "book.pdf"
    path.write_bytes(
        pdf_of([f"Page {number} tells of the {tmp_path.name} lighthouse." for number in range(1, PAGES + 1)])
    )
    job = cluster.ingest(path)
    assert (job.state, job.failed_pages) == (JobState.SUCCEEDED, [])
    assert len(job.attempts) == 1
    texts = " ".join(chunk.text for chunk in cluster.client.chunks(job.document_id))
    assert f"Page {BAD_PAGE} tells" in texts
    assert_published_exactly(cluster.stores, job)
