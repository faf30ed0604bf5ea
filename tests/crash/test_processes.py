"""Real processes are killed with SIGKILL in the middle of real work; what was acknowledged ends exact."""

from collections.abc import Callable
from pathlib import Path

from cluster.keeper import KEEPER
from cluster.supervisor import SUPERVISOR_ACTOR, probe_supervisors
from ingest.errors import StoreUnavailable
from ingest.model import JobState
from samples.pages import page_texts
from tests.checks import assert_invariants, assert_published_exactly
from tests.clusters import Cluster, tasks_called
from tests.crash.conftest import Copy
from tests.crash.processes import busy, kill_actor, until
from tests.pdfs import pdf_of


def test_a_killed_supervisor_is_followed_by_one_that_goes_on(cluster: Cluster, letters: Copy) -> None:
    """The job is claimed again after its lease, from the pages that are committed; none of them is read again."""
    before = len(tasks_called("ocr"))
    job = cluster.submit(letters(0))
    _wait_for_pages(cluster, job.job_id, 2)
    kill_actor(SUPERVISOR_ACTOR)
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["lost", "succeeded"]
    assert ended.attempts[1].epoch > ended.attempts[0].epoch
    assert ended.attempts[1].holder != ended.attempts[0].holder
    committed = ended.attempts[1].units_at_start
    assert committed >= 2
    in_flight = len(tasks_called("ocr")) - before - len(page_texts("letters"))
    assert in_flight <= len(page_texts("letters")) - committed
    assert len(tasks_called("ocr")) > before
    assert_published_exactly(cluster.stores, ended, keep_source=True)
    assert_invariants(cluster.stores, keep_source=True)


def test_a_supervisor_that_dies_with_its_keeper_is_started_again(cluster: Cluster, letters: Copy) -> None:
    """Ray starts the keeper again, and the keeper the supervisor."""
    job = cluster.submit(letters(0))
    _wait_for_pages(cluster, job.job_id, 1)
    kill_actor(KEEPER)
    kill_actor(SUPERVISOR_ACTOR)
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["lost", "succeeded"]
    assert_published_exactly(cluster.stores, ended, keep_source=True)
    assert_invariants(cluster.stores, keep_source=True)


def test_a_killed_page_worker_costs_no_page(cluster: Cluster, letters: Copy) -> None:
    """Its page is read again by another worker; nothing is missing."""
    job = cluster.submit(letters(0))
    _wait_for_pages(cluster, job.job_id, 1)
    busy("ray::ocr").kill()
    ended = cluster.finish(job.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert ended.failed_pages == []
    assert ended.progress.pages_done == len(page_texts("letters"))
    assert_published_exactly(cluster.stores, ended, keep_source=True)
    assert_invariants(cluster.stores, keep_source=True)


def test_a_killed_embedded_qdrant_comes_back_with_its_points(cluster: Cluster, tmp_path: Path) -> None:
    """The actor restarts on the same storage: what was published is still found, and new documents are taken."""
    ended = cluster.ingest(_letter(tmp_path, "The heron waits in the reeds."))
    kill_actor("qdrant")
    until(lambda: _answers(cluster.stores.vectors.ping))
    assert_published_exactly(cluster.stores, ended, keep_source=True)
    again = cluster.ingest(_letter(tmp_path, "The otter swims under the bridge."))
    assert again.state is JobState.SUCCEEDED, again.error
    hits = cluster.client.search("a bird by the water", document_ids=[ended.document_id])
    assert [hit.document_id for hit in hits] == [ended.document_id]


def _letter(directory: Path, text: str) -> Path:
    path = directory / "letter.pdf"
    path.write_bytes(pdf_of([f"{text} {directory.name}"]))
    return path


def _wait_for_pages(cluster: Cluster, job_id: str, pages: int) -> None:
    until(lambda: cluster.client.job(job_id).progress.pages_done >= pages)


def _answers(question: Callable[[], None]) -> bool:
    try:
        question()
        probe_supervisors()
    except StoreUnavailable:
        return False
    return True
