"""The checker of the crash tests checks: each of its invariants, broken by hand, is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids
from ingest.deletion import delete
from ingest.model import Job, JobState
from ingest.stores import Stores
from tests import checks
from tests.builders import TENANT, a_revision, an_upload, axis_vectors, some_chunks
from tests.checks import History, assert_invariants
from tests.integration.test_reconcile import RETRYABLE, publish, settle

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
DatabaseOf = Database[dict[str, Any]]
Damage = Callable[[Stores, DatabaseOf, Job], object]


def change(**fields: Any) -> Damage:
    """Write to the job behind everybody's back."""
    return lambda _stores, database, job: database["jobs"].update_one({"_id": job.job_id}, {"$set": fields})


def forget(_stores: Stores, database: DatabaseOf, job: Job) -> None:
    """The job is gone."""
    database["jobs"].delete_one({"_id": job.job_id})


def lose_a_chunk(_stores: Stores, database: DatabaseOf, job: Job) -> None:
    """MongoDB holds one chunk less."""
    database["chunks"].delete_one({"document_id": job.document_id})


def lose_the_points(stores: Stores, _database: DatabaseOf, job: Job) -> None:
    """Qdrant holds none."""
    stores.vectors.delete_revision(job.document_id, job.revision)


def hide(stores: Stores, _database: DatabaseOf, job: Job) -> None:
    """A revision that succeeded is shown to nobody, and its rows are gone."""
    stores.catalog.unpublish(job.document_id, job.revision)
    stores.catalog.delete_revision(job.document_id, job.revision)
    stores.vectors.delete_revision(job.document_id, job.revision)


def write_late(stores: Stores, _database: DatabaseOf, job: Job) -> None:
    """Points of a revision that nobody publishes."""
    stores.vectors.upsert(a_revision(job.document_id, 7), some_chunks(1), axis_vectors(1))


def leave_a_checkpoint(stores: Stores, _database: DatabaseOf, job: Job) -> None:
    """One that no retry needs."""
    stores.objects.put(ids.chunks_key(job.document_id, "e" * 16), b"PAR1")


def rewrite_a_chunk(_stores: Stores, database: DatabaseOf, job: Job) -> None:
    """One chunk is another attempt's than the rest."""
    database["chunks"].update_one({"document_id": job.document_id}, {"$set": {"epoch": 0}})


def rewrite_the_points(stores: Stores, _database: DatabaseOf, job: Job) -> None:
    """The points are a later attempt's than the chunks."""
    stores.vectors.upsert(a_revision(job.document_id, job.revision, epoch=2), some_chunks(4), axis_vectors(4))


def delete_and_write_late(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """A deleted document has points again, and nobody has swept them yet: fsck would leave that to the sweep."""
    delete(stores, TENANT, job.document_id)
    stores.catalog.delete_revision(job.document_id, job.revision)
    assert database["jobs"].find_one({"_id": job.job_id, "sweep_at": None}) is None


@pytest.fixture
def published(stores: Stores, tmp_path: Path) -> Job:
    """The job of a published document, beside one that failed and may be retried."""
    settle(stores, an_upload(tmp_path, b"%PDF-1.7 other\n"), JobState.FAILED, RETRYABLE)
    return publish(stores, an_upload(tmp_path))


def test_what_ended_well_or_badly_is_as_it_must_be(stores: Stores, published: Job, tmp_path: Path) -> None:
    """A published document, a failed one with its retry's files, and one that is at work and named so: no complaint."""
    checks.assert_invariants(stores)
    working = stores.jobs.insert(tenant=TENANT, document_id="d", revision=1, pipeline=published.pipeline)
    assert working is not None
    assert_invariants(stores, at_work=[working.job_id])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(change(state=JobState.FAILED), id="a terminal state changed"),
        pytest.param(change(**{"lease.epoch": 0}), id="an epoch fell"),
        pytest.param(change(**{"progress.pages_done": -1}), id="progress fell"),
        pytest.param(change(attempts=[]), id="attempts forgotten"),
        pytest.param(forget, id="a job forgotten"),
        pytest.param(change(open=True), id="never collected"),
        pytest.param(lose_a_chunk, id="a chunk lost"),
        pytest.param(lose_the_points, id="the points lost"),
        pytest.param(hide, id="succeeded and not shown"),
        pytest.param(write_late, id="a late row"),
        pytest.param(leave_a_checkpoint, id="an orphan object"),
        pytest.param(rewrite_a_chunk, id="a chunk of another attempt"),
        pytest.param(rewrite_the_points, id="points of a later attempt"),
        pytest.param(delete_and_write_late, id="rows of a deleted document"),
    ],
)
def test_every_broken_invariant_is_reported(
    stores: Stores, database: DatabaseOf, published: Job, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stores were in order when they were looked at first; then something happens that must not."""
    monkeypatch.setattr(checks, "COLLECTION_PATIENCE_S", 0.2)
    history = History()
    assert_invariants(stores, history)
    damage(stores, database, published)
    with pytest.raises(AssertionError):
        assert_invariants(stores, history)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(change(state=JobState.RUNNING, open=False), id="never ended"),
        pytest.param(change(**{"attempts.0.outcome": "lost"}), id="another end than its attempt's"),
        pytest.param(change(**{"attempts.0.number": 2}), id="an attempt not counted"),
    ],
)
def test_a_job_that_contradicts_itself_is_reported(
    stores: Stores, database: DatabaseOf, published: Job, damage: Damage
) -> None:
    """Also without having looked before."""
    damage(stores, database, published)
    with pytest.raises(AssertionError):
        assert_invariants(stores)
