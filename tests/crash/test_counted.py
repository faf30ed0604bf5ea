"""What is committed is not computed again: counted at the object store, which sees every checkpoint that is made."""

from pathlib import Path

import pytest

from ingest.model import JobState
from serve.client import Client
from tests.checks import assert_invariants
from tests.crash.conftest import Copy
from tests.crash.machine import PATIENCE_S, Machine
from tests.crash.processes import until
from tests.s3_server import S3Server

IN_THE_MIDDLE = 3  # pages, and batches


def _made(s3: S3Server, kind: str) -> int:
    """How many checkpoints of a kind somebody has put."""
    return sum(kind in key for key in s3.puts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_committed_page_or_batch_is_computed_again_after_a_loss_of_power(
    mortal_s3: S3Server, tmp_path: Path, letters: Copy, book: Copy
) -> None:
    """Everything is killed while one document is read and another embedded: nobody puts what was there, or puts twice.

    A page or a batch that is computed is put, also when it is there already: then the store refuses it. So no put
    means not computed.
    """
    small_batches = {"FANFOLD_EMBEDDING_BATCH_CHUNKS": "8", "FANFOLD_LEASE_TTL_S": "15"}
    with Machine(tmp_path / "home", **mortal_s3.settings, **small_batches) as machine, Client(machine.url) as client:
        jobs = [client.submit(letters(0)).job_id, client.submit(book(0)).job_id]
        until(lambda: min(_made(mortal_s3, "/pages/"), _made(mortal_s3, "/vectors/")) >= IN_THE_MIDDLE, PATIENCE_S)
        machine.lose_power()
        committed = {key for key in mortal_s3.stored() if "/checkpoints/" in key}
        before = mortal_s3.puts.copy()
        machine.start()
        ended = [machine.finish(client, job_id) for job_id in jobs]
        with machine.stores() as stores:
            assert_invariants(stores)
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 2
    assert [[attempt.outcome for attempt in job.attempts] for job in ended] == [["lost", "succeeded"]] * 2
    for kind in ("/pages/", "/vectors/"):
        assert sum(kind in key for key in committed) >= IN_THE_MIDDLE - 1, "it was killed too early"
        assert _made(mortal_s3, kind) > sum(kind in key for key in committed), "it was killed too late"
    again = mortal_s3.puts - before
    assert not committed & again.keys(), "committed, and computed again"
    assert set(again.values()) == {1}
