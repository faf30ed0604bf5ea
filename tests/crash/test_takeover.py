"""Everything is killed at once, or a holder sleeps through its lease: what was accepted ends exact, and once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.embedded import NAMESPACE
from cluster.supervisor import SUPERVISOR_ACTOR, SupervisorActor
from ingest.model import JobState
from samples.pages import page_texts
from serve.client import Client
from tests.checks import assert_invariants, assert_published_exactly
from tests.clusters import Cluster
from tests.crash.conftest import Copy
from tests.crash.machine import Machine
from tests.crash.processes import actor_pid, until
from tests.pdfs import repeated

SCAN_PAGES = 56  # of the sample, again and again: they take longer than half of a book's chunks


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs Fanfold, with nothing in it; batches are small."""
    with Machine(tmp_path / "home", FANFOLD_MAX_RUNNING_JOBS="2", FANFOLD_EMBEDDING_BATCH_CHUNKS="8") as machine:
        yield machine


@pytest.fixture
def scans(sample_pdfs: Path, tmp_path: Path) -> list[Path]:
    """Two long scans with the same text."""
    long = repeated((sample_pdfs / "letters.pdf").read_bytes(), SCAN_PAGES)
    paths = [tmp_path / "scan.pdf", tmp_path / "copy.pdf"]
    for path in paths:
        path.write_bytes(long + f"\n% {path.name}\n".encode())
    return paths


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_cluster_killed_at_once_loses_nothing(machine: Machine, scans: list[Path], book: Copy) -> None:
    """One job half read, one half stored, two queued: after the next `fanfold up` all succeed as if nothing had been.

    What was committed is kept, and the text of those that were met is that of their copies, which only waited.
    """
    with Client(machine.url) as client:
        half_stored = client.submit(book(0)).job_id
        until(lambda: 2 * (at := client.job(half_stored).progress).chunks_embedded >= (at.chunks_total or 1))
        ids = [half_stored, *(client.submit(path).job_id for path in (scans[0], book(1), scans[1]))]
        until(lambda: 0 < (at := client.job(half_stored).progress).chunks_stored < (at.chunks_total or 0))
        before = [client.job(job_id) for job_id in ids]
        machine.lose_power()
        machine.start()
        ended = [machine.finish(client, job_id) for job_id in ids]
        texts = [[chunk.text for chunk in client.chunks(job.document_id)] for job in ended]
    stored, read = before[0].progress, before[1].progress
    assert 0 < stored.chunks_stored < (stored.chunks_total or 0)
    assert 0 < read.pages_done < SCAN_PAGES
    assert [job.state for job in before[2:]] == [JobState.QUEUED] * 2
    assert [(job.state, job.failed_pages) for job in ended] == [(JobState.SUCCEEDED, [])] * 4
    assert [[attempt.outcome for attempt in job.attempts] for job in ended[:2]] == [["lost", "succeeded"]] * 2
    assert ended[1].attempts[1].units_at_start >= read.pages_done
    assert texts[:2] == texts[2:]
    assert all(texts)
    done = machine.fanfold("fsck", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, b"[]"), done.stderr
    with machine.stores() as stores:
        assert_invariants(stores)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_supervisor_that_sleeps_through_its_lease_writes_nothing_more(cluster: Cluster, letters: Copy) -> None:
    """Frozen by SIGSTOP while another takes over, then thawed: its late writes are refused, the result is exact."""
    job_id = cluster.client.submit(letters(0)).job_id
    until(lambda: cluster.client.job(job_id).progress.pages_done >= 1)
    sleeper = psutil.Process(actor_pid(SUPERVISOR_ACTOR))
    sleeper.suspend()
    actor: Any = SupervisorActor
    second = actor.options(name="second-supervisor", namespace=NAMESPACE).remote(cluster.blueprint)
    try:
        until(lambda: len(cluster.client.job(job_id).attempts) == 2)
        taken_over = cluster.client.job(job_id).attempts[1]
        sleeper.resume()
        ended = cluster.finish(job_id)
    finally:
        del second
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert [attempt.outcome for attempt in ended.attempts] == ["lost", "succeeded"]
    assert ended.attempts[1].holder == taken_over.holder != ended.attempts[0].holder
    assert ended.progress.pages_done == len(page_texts("letters"))
    assert_published_exactly(cluster.stores, ended, keep_source=True)
    assert_invariants(cluster.stores, keep_source=True)
