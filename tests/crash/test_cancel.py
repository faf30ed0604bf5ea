"""Cancels that need seconds of real time: in native code, by the hundred, and what a stuck page costs the others."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.cancel import Bench, scans
from cluster.flags import FLAGS_ACTOR
from cluster.nodes import cluster_cpus
from cluster.ports import free_port
from cluster.service import running
from ingest import ids
from ingest.model import Job, JobState, PageFailure
from ingest.settings import Settings
from serve.client import Client
from serve.schemas import JobView
from tests.checks import assert_invariants
from tests.clusters import Cluster
from tests.crash.conftest import Copy
from tests.crash.processes import busy, is_gone, kill_actor, titled, until
from tests.pdfs import SCAN, endless_page, pdf_of

pytestmark = pytest.mark.slow
PAGES, STUCK_PAGE = 10, 5
QUEUED = 500
CANCELS = 10
LOADING_S = 12.0  # of computing: more than the models take, far less than the page


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """Ten pages; one of them, in the middle, stays in MuPDF's native code for minutes."""
    path = tmp_path / "stuck.pdf"
    texts = [f"Page {number} of {tmp_path}." for number in range(1, PAGES + 1)]
    path.write_bytes(endless_page(pdf_of([*texts[: STUCK_PAGE - 1], SCAN, *texts[STUCK_PAGE:]]), STUCK_PAGE))
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with places for two jobs, and patience with their pages."""
    with _cluster(tmp_path_factory.mktemp("patient"), max_running_jobs=2, page_timeout_s=60) as cluster:
        yield cluster


def in_native_code(job: Job) -> psutil.Process:
    """The worker that reads the job's one page; by now it has its models, and is inside MuPDF."""
    worker = busy("ray::ocr")
    before_s = worker.cpu_times().user
    until(lambda: worker.cpu_times().user - before_s > LOADING_S)
    return worker


def seconds_for(cluster: Cluster, path: Path) -> float:
    """How long the document takes, from upload to searchable."""
    started_at = time.monotonic()
    assert cluster.ingest(path).state is JobState.SUCCEEDED
    return time.monotonic() - started_at


@pytest.mark.timeout(600)
def test_500_queued_jobs_are_cancelled_in_half_a_minute(tmp_path: Path, stuck: Path) -> None:
    """All end `cancelled` in under 30 s, while the one that runs is not touched: same attempt, same process."""
    with _cluster(tmp_path / "home", max_running_jobs=1, page_timeout_s=300) as cluster:
        at_work = cluster.submit(stuck)
        worker = in_native_code(at_work)
        letters = [tmp_path / f"{number}.pdf" for number in range(QUEUED)]
        for path in letters:
            path.write_bytes(pdf_of([f"Letter {path}"]))
        with ThreadPoolExecutor(8) as pool:
            waiting = [submitted.job_id for submitted in pool.map(cluster.client.submit, letters)]
        asked_at = time.monotonic()
        answers = list(cluster.client.cancel_all(waiting))
        took_s = time.monotonic() - asked_at
        assert [(job_id, isinstance(job, JobView) and job.state) for job_id, job in answers] == [
            (job_id, JobState.CANCELLED) for job_id in waiting
        ]
        assert len(list(cluster.client.jobs(state=JobState.CANCELLED, limit=2 * QUEUED))) == QUEUED
        assert took_s < 30
        untouched = cluster.client.job(at_work.job_id)
        assert (untouched.state, len(untouched.attempts), worker.is_running()) == (JobState.RUNNING, 1, True)
        cluster.client.cancel(at_work.job_id)
        assert cluster.finish(at_work.job_id).state is JobState.CANCELLED
        assert_invariants(cluster.stores)


@pytest.mark.timeout(1200)
def test_a_cancel_at_any_moment_is_true_within_two_seconds(tmp_path: Path) -> None:
    """A scanned document of 60 pages: hidden at once, nothing of it runs after 2 s, nothing is left when it is said."""
    quick = {"ocr_model": "PP-OCRv6_tiny", "embedding_batch_chunks": 1}  # so that it is met in every stage
    with _cluster(tmp_path / "home", max_running_jobs=1, page_timeout_s=60, **quick) as cluster:
        bench, documents = Bench(cluster.client, cluster.stores), scans(tmp_path)
        bench.duration_s(next(documents))  # every process has its models
        whole_s = bench.duration_s(next(documents))
        moments = [whole_s * (number + 0.5) / CANCELS for number in range(CANCELS)]
        tried = [bench.cancel_after(next(documents), moment) for moment in moments]
        cancels = [cancel for cancel in tried if cancel is not None]  # None: it was published in that moment
    assert len(cancels) >= CANCELS - 1
    assert len({cancel.stage for cancel in cancels}) > 1, "all in the same stage"
    assert {(cancel.hits, cancel.left) for cancel in cancels} == {(0, 0)}
    assert max(cancel.quiet_s for cancel in cancels) <= 2
    assert max(cancel.cancelled_s for cancel in cancels) <= 5, "a batch that is embedded ends before it is said"


def test_a_cancel_ends_a_page_that_never_returns(cluster: Cluster, stuck: Path) -> None:
    """Native code that holds the GIL hears neither Ray's request nor its force: its process is killed, within 10 s."""
    job = cluster.submit(stuck)
    worker = in_native_code(job)
    asked_at = time.monotonic()
    cluster.client.cancel(job.job_id)
    assert cluster.client.search("anything", document_ids=[job.document_id]) == []
    until(lambda: not titled("ray::ocr"))
    ended = cluster.finish(job.job_id)
    assert time.monotonic() - asked_at < 10 < cluster.settings.page_timeout_s
    assert is_gone(worker)
    assert ended.state is JobState.CANCELLED
    assert cluster.stores.objects.keys(ids.checkpoint_prefix(job.document_id)) == []


def test_a_cancel_needs_no_flag(cluster: Cluster, stuck: Path) -> None:
    """The actor that carries the hints is dead: the supervisor finds the request in MongoDB."""
    job = cluster.submit(stuck)
    in_native_code(job)
    asked_at = time.monotonic()
    kill_actor(FLAGS_ACTOR)
    cluster.client.cancel(job.job_id)
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.CANCELLED
    assert time.monotonic() - asked_at < 20 < cluster.settings.page_timeout_s


def test_a_stuck_page_costs_its_neighbours_nothing_and_the_others_one_slot(
    cluster: Cluster, stuck: Path, letters: Copy
) -> None:
    """While it is stuck others are read by one process less; then its neighbours are searchable, its slot is free."""
    cluster.ingest(letters(1))  # every process has its models
    alone_s = seconds_for(cluster, letters(2))
    job = cluster.submit(stuck)
    in_native_code(job)
    beside_s = seconds_for(cluster, letters(3))
    assert cluster_cpus() == 2
    assert beside_s < 2 * 1.25 * alone_s
    assert not cluster.client.job(job.job_id).state.terminal
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.PARTIALLY_SUCCEEDED
    assert [(page.page_number, page.reason) for page in ended.failed_pages] == [(STUCK_PAGE, PageFailure.TIMEOUT)]
    found = {chunk.first_page for chunk in cluster.client.chunks(job.document_id)}
    assert found
    text = " ".join(chunk.text for chunk in cluster.client.chunks(job.document_id))
    assert all(f"Page {number} of" in text for number in range(1, PAGES + 1) if number != STUCK_PAGE)
    until(lambda: not titled("ray::ocr"))


@contextmanager
def _cluster(home: Path, *, max_running_jobs: int, page_timeout_s: float, **others: Any) -> Iterator[Cluster]:
    settings = Settings(
        data_dir=home,
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        max_running_jobs=max_running_jobs,
        page_timeout_s=page_timeout_s,
        **others,
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield Cluster(service.blueprint, client)
