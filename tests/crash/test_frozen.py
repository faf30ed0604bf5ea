"""A worker that is frozen in the middle of its work is replaced; thawed, it can do nothing any more."""

import time

import psutil
import pytest

from cluster.nodes import cluster_cpus
from cluster.supervisor import SUPERVISOR_ACTOR
from ingest.model import JobState
from serve.schemas import JobView
from tests.checks import History, assert_invariants, chunk_texts
from tests.clusters import JOB_TIMEOUT_S, Cluster
from tests.crash.conftest import Copy
from tests.crash.processes import busy, every_cpu_is_free, frozen, is_gone, kill_actor, titled, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLED = ["lost", "succeeded"]  # the supervisor, too: another one takes the job over when its lease has run out
LATE_S = 3.0  # for a thawed process to do what it was about to do


@pytest.mark.parametrize("outcomes", [["succeeded"], KILLED], ids=["past its limit", "past its lease"])
def test_a_frozen_page_worker_costs_no_page_and_no_place(brisk: Cluster, letters: Copy, outcomes: list[str]) -> None:
    """Past its limit, or its holder's lease: another reads the page; its CPU is free; late, it changes nothing."""
    undisturbed = brisk.ingest(letters(0))
    history = History()
    job = brisk.submit(letters(1))
    with frozen(busy("ray::ocr")) as worker:
        ended = _ended_elsewhere(brisk, job.job_id, outcomes, history)
        assert ended.failed_pages == []
        until(every_cpu_is_free)
    _assert_nothing_comes_late(brisk, worker, history)
    assert chunk_texts(brisk.stores, ended.document_id) == chunk_texts(brisk.stores, undisturbed.document_id)
    following = brisk.submit(letters(2))
    until(lambda: len(titled("ray::ocr")) == cluster_cpus())
    assert brisk.finish(following.job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("outcomes", [["succeeded"], KILLED], ids=["past its limit", "past its lease"])
def test_a_frozen_embedder_is_replaced(brisk: Cluster, book: Copy, outcomes: list[str]) -> None:
    """In the middle of its batches: another embeds them, its process is gone, and nothing of it is written."""
    undisturbed = brisk.ingest(book(0))
    history = History()
    job = brisk.submit(book(1))
    until(lambda: brisk.client.job(job.job_id).progress.chunks_embedded)
    with frozen(busy("ray::EmbedderActor")) as embedder:
        ended = _ended_elsewhere(brisk, job.job_id, outcomes, history)
        until(lambda: is_gone(embedder))
    _assert_nothing_comes_late(brisk, embedder, history)
    assert chunk_texts(brisk.stores, ended.document_id) == chunk_texts(brisk.stores, undisturbed.document_id)
    assert brisk.ingest(book(2)).state is JobState.SUCCEEDED


def test_an_embedder_that_does_not_load_is_replaced(brisk: Cluster, note: Copy) -> None:
    """Frozen before its model is there: as long as an attempt may stall, then another one loads instead."""
    brisk.ingest(note(0))
    [dead] = titled("ray::EmbedderActor")
    dead.kill()
    job = brisk.submit(note(1))
    until(lambda: [process for process in titled("ray::EmbedderActor") if process != dead])
    [embedder] = [process for process in titled("ray::EmbedderActor") if process != dead]
    with frozen(embedder):
        ended = brisk.finish(job.job_id, timeout_s=JOB_TIMEOUT_S + 2 * brisk.settings.stall_timeout_s)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert len(ended.attempts) <= brisk.settings.max_attempts
    until(lambda: is_gone(embedder))
    assert_invariants(brisk.stores)


def _ended_elsewhere(cluster: Cluster, job_id: str, outcomes: list[str], history: History) -> JobView:
    """Wait for the job's end, whoever brings it there; its attempts ended so."""
    history.look(cluster.stores)
    if outcomes is KILLED:
        kill_actor(SUPERVISOR_ACTOR)
    ended = cluster.finish(job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == outcomes
    assert_invariants(cluster.stores, history)
    return ended


def _assert_nothing_comes_late(cluster: Cluster, thawed: psutil.Process, history: History) -> None:
    """The process, if it is still there, has had time to do what it was about to do."""
    if not is_gone(thawed):
        time.sleep(LATE_S)
    assert_invariants(cluster.stores, history)
