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


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that runs Fanfold, with nothing in it."""
    with Machine(tmp_path / "home", FANFOLD_MAX_RUNNING_JOBS="2") as machine:
        yield machine


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_cluster_killed_at_once_loses_nothing(machine: Machine, sample_pdfs: Path, letters: Copy) -> None:
    """Two half-read jobs and two queued ones: after the next `fanfold up` all succeed, with committed pages kept."""
    paths = {"letters": sample_pdfs / "letters.pdf", "copy": letters(0)}
    paths |= {name: sample_pdfs / f"{name}.pdf" for name in ("inventory", "field-guide")}
    with Client(machine.url) as client:
        jobs = {name: client.submit(path).job_id for name, path in paths.items()}
        until(lambda: client.job(jobs["letters"]).progress.pages_done >= 2)
        before = {name: client.job(job_id) for name, job_id in jobs.items()}
        assert [before[name].state for name in ("inventory", "field-guide")] == [JobState.QUEUED] * 2
        assert before["letters"].progress.pages_done < before["letters"].progress.pages_total
        machine.lose_power()
        machine.start()
        for name, job_id in jobs.items():
            ended = machine.finish(client, job_id)
            assert ended.state is JobState.SUCCEEDED, ended.error
            assert ended.progress.pages_done == len(page_texts("letters" if name == "copy" else name))
            chunks = list(client.chunks(ended.document_id))
            assert [chunk.chunk_index for chunk in chunks] == list(range(ended.progress.chunks_stored))
        scan = client.job(jobs["letters"])
        assert [attempt.outcome for attempt in scan.attempts] == ["lost", "succeeded"]
        assert scan.attempts[1].units_at_start >= 2
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
