"""Fsck: every kind of damage is found and repaired, twice is once, and what an open job owns is left alone."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.database import Database
from qdrant_client import QdrantClient

from ingest import ids, reconcile
from ingest.errors import Category, WorkerCrashed
from ingest.findings import Finding, FindingKind
from ingest.model import Failure, Job, JobState, Keeping, PipelineSpec
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.vectors import VectorStore
from ingest.submission import Upload, submit
from tests.builders import (
    KEEP_NOTHING,
    TENANT,
    a_document,
    a_revision,
    an_upload,
    axis_vectors,
    make_visible,
    pipeline_named,
    some_chunks,
)
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, failing
from tests.integration.queue import claim, collect_and_close
from tests.pdfs import SCAN, pdf_of

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
DatabaseOf = Database[dict[str, Any]]
RETRYABLE = Failure(category=Category.CRASH, message="It died.", retryable=True)
FINAL = Failure(category=Category.INPUT, message="It is encrypted.", retryable=False)


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is being submitted while these tests look."""
    monkeypatch.setattr(reconcile, "SUBMIT_GRACE_S", 0.0)


def fsck(stores: Stores) -> list[Finding]:
    """What is wrong."""
    return list(reconcile.findings(stores))


def fsck_repair(stores: Stores) -> list[bool]:
    """Repair what is wrong, as it is found."""
    return [reconcile.repair(stores, found) for found in reconcile.findings(stores)]


def kinds(found: list[Finding]) -> list[tuple[FindingKind, int | None]]:
    """What was found, without whose it is."""
    return [(finding.kind, finding.revision) for finding in found]


def assert_repaired_for_good(stores: Stores) -> None:
    """Everything that is found is repaired; afterwards nothing is found, and repairing again does nothing."""
    assert all(fsck_repair(stores))
    assert fsck(stores) == []
    assert fsck_repair(stores) == []


def write_rows(stores: Stores, document_id: str, revision: int, count: int) -> None:
    """Both stores hold this revision's rows."""
    chunks = some_chunks(count)
    stores.catalog.upsert_chunks(a_revision(document_id, revision), chunks)
    stores.vectors.upsert(a_revision(document_id, revision), chunks, axis_vectors(count))


def write_checkpoint(stores: Stores, document_id: str, name: str = "inspection") -> str:
    """A checkpoint of the document; its key."""
    key = f"{ids.checkpoint_prefix(document_id)}{'e' * 16}/{name}.parquet"
    stores.objects.put(key, b"PAR1")
    return key


def send(stores: Stores, upload: Upload, pipeline: PipelineSpec = PIPELINE) -> Job:
    """Submit."""
    return submit(stores, upload, tenant=TENANT, pipeline=pipeline).job


def publish(
    stores: Stores,
    upload: Upload,
    *,
    chunks: int = 4,
    pipeline: PipelineSpec = PIPELINE,
    keeping: Keeping = KEEP_NOTHING,
) -> Job:
    """The document's whole way, without its pages: rows in both stores, published, collected, closed."""
    send(stores, upload, pipeline)
    held = claim(stores.jobs)
    job = held.job
    if chunks:
        write_rows(stores, job.document_id, job.revision, chunks)
    held.decide_publish()
    assert make_visible(stores, job.document_id, job.revision, chunk_count=chunks)
    held.settle(JobState.SUCCEEDED)
    collect_and_close(stores, held, keeping)
    return held.job


def settle(stores: Stores, upload: Upload, state: JobState, error: Failure | None = None, *, kept: bool = True) -> Job:
    """A job that ended without publishing, its source and one checkpoint left; `kept` for a retry, for a week."""
    send(stores, upload)
    held = claim(stores.jobs)
    write_checkpoint(stores, held.job.document_id)
    held.settle(state, error)
    held.close(keeping=KEEP_NOTHING, sweep_at=held.job.updated_at + timedelta(days=7) if kept else None)
    return held.job


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """A small PDF that has arrived."""
    return an_upload(tmp_path)


def test_a_clean_document_gives_no_finding(stores: Stores, upload: Upload) -> None:
    """Published and collected: nothing is wrong, also without a single chunk, also after a re-ingestion."""
    publish(stores, upload, chunks=0)
    assert fsck(stores) == []
    publish(stores, upload, pipeline=pipeline_named("other"))
    assert fsck(stores) == []


def damage_chunks(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """One chunk is lost."""
    database["chunks"].delete_one({"_id": ids.chunk_id(job.document_id, job.revision, 1)})


def damage_points(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """All points are lost."""
    stores.vectors.delete_revision(job.document_id, job.revision)


def damage_both(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """The stores agree with each other, and not with the manifest."""
    stores.catalog.delete_revision(job.document_id, job.revision)
    stores.vectors.delete_revision(job.document_id, job.revision)
    write_rows(stores, job.document_id, job.revision, 3)


def damage_count(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """The catalog counts fewer chunks than there are."""
    database["documents"].update_one({"_id": job.document_id}, {"$set": {"chunk_count": 3}})


def damage_ids(stores: Stores, database: DatabaseOf, job: Job) -> None:
    """As many points as there should be, but one of them is another's."""
    client: Any = stores.vectors._client
    client.delete("fanfold-test-384", [ids.chunk_id(job.document_id, job.revision, 0)])
    strange = some_chunks(1, first=9)
    stores.vectors.upsert(a_revision(job.document_id, job.revision), strange, axis_vectors(1))


DAMAGES = [damage_chunks, damage_points, damage_both, damage_count, damage_ids]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_document_is_hidden_and_can_be_sent_again(
    stores: Stores, database: DatabaseOf, upload: Upload, tmp_path: Path, damage: Callable[..., None]
) -> None:
    """Never half a document in search; the kept PDF stays to be sent again, and gets a new job; others get nothing."""
    other = publish(stores, an_upload(tmp_path, b"%PDF-1.7 another"))
    job = publish(stores, upload, keeping=Keeping(source=True))
    damage(stores, database, job)
    found = fsck(stores)
    assert kinds(found) == [(FindingKind.INCOMPLETE, 1)]
    assert "Send the file again" in found[0].detail
    assert_repaired_for_good(stores)
    assert stores.catalog.document(TENANT, job.document_id).published_revision is None
    assert stores.catalog.chunk_ids(job.document_id, 1) == stores.vectors.point_ids(job.document_id, 1) == set()
    assert len(stores.vectors.point_ids(other.document_id, 1)) == 4
    assert stores.objects.exists(ids.source_key(job.document_id))
    assert publish(stores, upload).revision == 2
    assert fsck(stores) == []


def test_a_repair_that_dies_half_way_is_finished_by_the_next(
    stores: Stores, database: DatabaseOf, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden first: what is left of the repaired revision is stray, and the same finding can be repaired again."""
    job = publish(stores, upload)
    damage_chunks(stores, database, job)
    [found] = fsck(stores)
    with monkeypatch.context() as broken:
        broken.setattr(stores.catalog, "delete_revision", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reconcile.repair(stores, found)
    assert stores.catalog.document(TENANT, job.document_id).published_revision is None
    assert kinds(fsck(stores)) == [(FindingKind.STRAY_ROWS, 1)]
    assert reconcile.repair(stores, found)
    assert reconcile.repair(stores, found)
    assert fsck(stores) == []


def test_points_in_an_earlier_models_collection_are_whole(stores: Stores, upload: Upload) -> None:
    """After a change of the embedding model a document stays where it was published; spread over two, it is damaged."""
    job = publish(stores, upload)
    client: Any = stores.vectors._client
    later = replace(stores, vectors=VectorStore(client, "fanfold-later-384"))
    later.vectors.prepare(384)
    assert fsck(later) == []
    later.vectors.upsert(a_revision(job.document_id, 1), some_chunks(4), axis_vectors(4))
    assert kinds(fsck(later)) == [(FindingKind.INCOMPLETE, 1)]
    assert_repaired_for_good(later)


def test_rows_of_other_revisions_and_of_strangers_are_removed(
    stores: Stores, database: DatabaseOf, upload: Upload
) -> None:
    """Of an unpublished revision, of a deleted document, of one that never was: found in either store, and removed."""
    job = publish(stores, upload)
    write_rows(stores, job.document_id, 7, 2)
    stores.catalog.upsert_chunks(a_revision("never was", 1), some_chunks(2))
    stores.vectors.upsert(a_revision("nor this", 3), some_chunks(1), axis_vectors(1))
    stores.catalog.register(a_document("deleted"))
    write_rows(stores, "deleted", 1, 2)
    make_visible(stores, "deleted", 1, chunk_count=2)
    gone = {"deleted_at": stores.jobs.now(), "published_revision": 1}
    database["documents"].update_one({"_id": "deleted"}, {"$set": gone})
    found = {(finding.document_id, finding.revision, finding.kind) for finding in fsck(stores)}
    stray = FindingKind.STRAY_ROWS
    expected = {(job.document_id, 7, stray), ("never was", 1, stray), ("nor this", 3, stray), ("deleted", 1, stray)}
    assert found == expected
    assert_repaired_for_good(stores)
    assert stores.catalog.chunk_ids(job.document_id, 1) == stores.vectors.point_ids(job.document_id, 1)
    assert stores.catalog.document(TENANT, job.document_id).published_revision == 1


def test_a_zombies_insert_after_the_rollback_is_found(stores: Stores, upload: Upload) -> None:
    """A worker that wakes up when its job has long failed writes rows: they are stray, what a retry needs is not."""
    job = settle(stores, upload, JobState.FAILED, RETRYABLE)
    assert fsck(stores) == []
    write_rows(stores, job.document_id, 1, 3)
    assert kinds(fsck(stores)) == [(FindingKind.STRAY_ROWS, 1)]
    assert_repaired_for_good(stores)
    assert stores.objects.exists(ids.source_key(job.document_id))


@pytest.mark.parametrize(
    ("state", "error"), [(JobState.CANCELLED, None), (JobState.FAILED, FINAL)], ids=["cancelled", "failed for good"]
)
def test_objects_that_no_retry_needs_are_removed(
    stores: Stores, upload: Upload, state: JobState, error: Failure | None
) -> None:
    """Checkpoints, and the source last, by exact key."""
    job = settle(stores, upload, state, error, kept=False)
    source = ids.source_key(job.document_id)
    [found] = fsck(stores)
    assert (found.kind, len(found.keys), found.keys[-1]) == (FindingKind.ORPHAN_OBJECTS, 2, source)
    assert_repaired_for_good(stores)
    assert not stores.objects.exists(source)


def test_objects_of_nobody_are_removed(stores: Stores, database: DatabaseOf, upload: Upload) -> None:
    """Of a document that is unknown, deleted, or was never accepted; a stranger's file is not ours to remove."""
    stores.objects.put_file(ids.source_key("never was"), upload.path)
    write_checkpoint(stores, "nor this")
    stores.catalog.register(a_document("no job"))
    stores.objects.put_file(ids.source_key("no job"), upload.path)
    stores.objects.put_file("sources/README", upload.path)
    job = settle(stores, upload, JobState.FAILED, RETRYABLE, kept=False)
    database["documents"].update_one({"_id": job.document_id}, {"$set": {"deleted_at": stores.jobs.now()}})
    found = {finding.document_id for finding in fsck(stores) if finding.kind is FindingKind.ORPHAN_OBJECTS}
    assert found == {"never was", "nor this", "no job", job.document_id}
    assert_repaired_for_good(stores)
    assert stores.objects.exists("sources/README")


@pytest.mark.parametrize("kept", [True, False])
def test_a_source_that_was_kept_is_no_orphan(stores: Stores, upload: Upload, *, kept: bool) -> None:
    """What FANFOLD_KEEP_SOURCE was when the document was published counts; no checkpoint is kept by it."""
    job = publish(stores, upload, keeping=Keeping(source=kept))
    checkpoint, source = write_checkpoint(stores, job.document_id), ids.source_key(job.document_id)
    assert stores.objects.put_file(source, upload.path) is not kept  # where it was not: by a submit that died
    [found] = fsck(stores)
    assert found.keys == ((checkpoint,) if kept else (checkpoint, source))
    assert_repaired_for_good(stores)
    assert stores.objects.exists(source) is kept


def test_what_nobody_has_decided_on_is_kept(stores: Stores, database: DatabaseOf, upload: Upload) -> None:
    """A published document whose collection said nothing of what it kept, as earlier versions did not."""
    job = publish(stores, upload, keeping=Keeping(source=True))
    database["jobs"].update_one({"_id": job.job_id}, {"$unset": {"keeping": True}})
    assert fsck(stores) == []


@pytest.mark.parametrize("kept", [True, False])
def test_pages_that_were_kept_are_no_orphans(stores: Stores, upload: Upload, *, kept: bool) -> None:
    """FANFOLD_KEEP_PAGES keeps what a published document's pages were read as, and no other checkpoint."""
    job = publish(stores, upload, keeping=Keeping(pages=kept))
    page = f"{ids.pages_prefix(job.document_id, job.pipeline.extract)}000001.parquet"
    chunks = ids.chunks_key(job.document_id, job.pipeline.chunk)
    for key in (page, chunks):
        stores.objects.put(key, b"a checkpoint")
    [found] = fsck(stores)
    assert set(found.keys) == ({chunks} if kept else {page, chunks})


@pytest.mark.parametrize("claimed", [False, True], ids=["queued", "running"])
def test_what_an_open_job_owns_is_not_looked_at(stores: Stores, upload: Upload, *, claimed: bool) -> None:
    """Source, checkpoints and half-written rows of a job that waits or runs are its own."""
    job = send(stores, upload)
    if claimed:
        claim(stores.jobs)
    write_checkpoint(stores, job.document_id)
    write_rows(stores, job.document_id, 1, 2)
    assert fsck(stores) == []


def test_what_a_settled_job_has_not_collected_yet_is_its_own(stores: Stores, upload: Upload) -> None:
    """Between `succeeded` and the end of collection the job still holds its document."""
    publish(stores, upload)
    send(stores, upload, pipeline_named("other"))
    held = claim(stores.jobs)
    write_rows(stores, held.job.document_id, 2, 4)
    held.decide_publish()
    make_visible(stores, held.job.document_id, 2, chunk_count=4)
    held.settle(JobState.SUCCEEDED)
    assert fsck(stores) == []


async def test_what_retries_need_is_no_orphan(
    database: DatabaseOf, stores: Stores, settings: Settings, pdf: Upload
) -> None:
    """A partially succeeded document is clean: its source and checkpoints wait for a retry."""
    bench = Bench(database, stores, settings, pdf)
    bench.submit()
    job = await bench.run(bench.claim(), failing("read_page", 2, WorkerCrashed("It died."), times=2))
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert stores.objects.exists(ids.source_key(job.document_id))
    assert fsck(stores) == []


def test_a_lease_that_nobody_takes_over_is_reported_and_left(
    stores: Stores, database: DatabaseOf, upload: Upload, tmp_path: Path
) -> None:
    """Dead for longer than its TTL and nobody at work: start a supervisor. While one works, it is left to that one."""
    job = send(stores, upload)
    claim(stores.jobs)
    ended = stores.jobs.now() - 2 * stores.jobs.lease_ttl
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": ended + stores.jobs.lease_ttl * 1.5}})
    assert fsck(stores) == []
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": ended}})
    [found] = fsck(stores)
    assert (found.kind, found.document_id, found.repair) == (FindingKind.DEAD_LEASE, job.document_id, None)
    assert "fanfold up" in found.detail
    assert fsck_repair(stores) == [False]
    assert stores.objects.exists(ids.source_key(job.document_id))
    send(stores, an_upload(tmp_path, b"%PDF-1.7 another"))
    database["jobs"].update_many({"state": JobState.QUEUED}, {"$set": {"available_at": ended - timedelta(hours=1)}})
    assert claim(stores.jobs).job.document_id != job.document_id
    assert fsck(stores) == []


@pytest.fixture
def pdf(tmp_path: Path) -> Upload:
    """Three pages, the second one scanned."""
    text = "The harbour master keeps the tide tables in a drawer beneath the window. " * 12
    return an_upload(tmp_path, pdf_of([text, SCAN, text]))


async def test_a_repair_at_every_moment_of_a_run_finds_and_changes_nothing(
    database: DatabaseOf, stores: Stores, settings: Settings, pdf: Upload
) -> None:
    """First ingestion and re-ingestion, fsck before every unit of work: no finding, and the end is exact."""
    bench = Bench(database, stores, settings.model_copy(update={"embedding_batch_chunks": 2}), pdf)
    looked = []

    async def look(name: str, _number: int) -> None:
        looked.append(name)
        assert fsck_repair(stores) == []

    for pipeline in (PIPELINE, PIPELINE.model_copy(update={"embed": "0" * 16})):
        bench.submit(pipeline)
        assert fsck_repair(stores) == []
        job = await bench.run(bench.claim(), look, pipeline)
        assert job.state is JobState.SUCCEEDED, job.attempts
        bench.assert_published_exactly(job)
        assert fsck_repair(stores) == []
    assert set(looked) == {"inspect", "read_page", "cut", "embed", "store"}


def test_a_repair_leaves_a_document_that_got_a_job_meanwhile(
    stores: Stores, database: DatabaseOf, upload: Upload
) -> None:
    """Found, then sent again before the repair: nothing is touched, whether that job is open or has ended."""
    job = publish(stores, upload)
    damage_points(stores, database, job)
    write_checkpoint(stores, job.document_id)
    write_rows(stores, job.document_id, 2, 2)
    found = fsck(stores)
    assert len(found) == 3
    send(stores, upload, pipeline_named("other"))
    assert [reconcile.repair(stores, finding) for finding in found] == [False] * 3
    claim(stores.jobs).settle(JobState.FAILED, RETRYABLE)
    assert [reconcile.repair(stores, finding) for finding in found] == [False] * 3
    assert stores.catalog.document(TENANT, job.document_id).published_revision == 1
    assert len(stores.catalog.chunk_ids(job.document_id, 2)) == 2


def test_a_source_that_a_submit_relies_on_is_put_back(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submit saw the orphaned source and opened its job just before the repair removed it: the job has its bytes."""
    job = settle(stores, upload, JobState.CANCELLED)
    [found] = fsck(stores)
    delete = stores.objects.delete

    def submitted_meanwhile(key: str) -> None:
        if key == ids.source_key(job.document_id):
            send(stores, upload)
        delete(key)

    monkeypatch.setattr(stores.objects, "delete", submitted_meanwhile)
    assert reconcile.repair(stores, found)
    assert stores.objects.get(ids.source_key(job.document_id)) == upload.path.read_bytes()


def test_a_submit_on_its_way_is_not_taken_for_an_orphan(
    stores: Stores, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the source and its job there is a moment: a source is an orphan only if it is one a little later."""
    stores.objects.put_file(ids.source_key(ids.document_id(TENANT, upload.sha256)), upload.path)
    monkeypatch.setattr(reconcile, "SUBMIT_GRACE_S", 1.0)
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: send(stores, upload))
    monkeypatch.setattr(reconcile, "time", clock)  # of this module only: threads of the stores' clients sleep, too
    assert fsck(stores) == []


Damage = Callable[[random.Random, Job], None]


def _damages(stores: Stores, client: QdrantClient, database: DatabaseOf) -> list[Damage]:
    """What can happen to a published document, each at a random place."""

    def lose_chunk(chance: random.Random, job: Job) -> None:
        database["chunks"].delete_one({"_id": ids.chunk_id(job.document_id, job.revision, chance.randrange(4))})

    def lose_point(chance: random.Random, job: Job) -> None:
        client.delete("fanfold-test-384", [ids.chunk_id(job.document_id, job.revision, chance.randrange(4))])

    def stray_chunks(chance: random.Random, job: Job) -> None:
        stores.catalog.upsert_chunks(a_revision(job.document_id, chance.randrange(100, 109)), some_chunks(2))

    def stray_points(chance: random.Random, job: Job) -> None:
        whose = chance.choice([job.document_id, f"{chance.randrange(16**8):032x}"])
        stores.vectors.upsert(a_revision(whose, chance.randrange(100, 109)), some_chunks(3), axis_vectors(3))

    def stray_objects(chance: random.Random, job: Job) -> None:
        whose = chance.choice([job.document_id, f"{chance.randrange(16**8):032x}"])
        write_checkpoint(stores, whose, f"pages/{chance.randrange(9):06d}")
        if chance.random() < 0.5:
            stores.objects.put(ids.source_key(whose), b"%PDF-")

    return [lose_chunk, lose_point, stray_chunks, stray_points, stray_objects]


def test_whatever_happens_is_found_repaired_and_nothing_else_touched(
    stores: Stores, database: DatabaseOf, tmp_path: Path
) -> None:
    """30 rounds of random damage: found and repaired at once, then clean; undamaged documents stay as they were."""
    uploads = [an_upload(tmp_path, b"%%PDF-1.7 %d" % number) for number in range(6)]
    jobs = [publish(stores, upload) for upload in uploads]
    spared = jobs[:2]
    before = [stores.catalog.document(TENANT, job.document_id) for job in spared]
    damages = _damages(stores, stores.vectors._client, database)  # type: ignore[arg-type]  # the fixture's own
    for seed in range(30):
        chance = random.Random(seed)
        for damage in chance.choices(damages, k=chance.randrange(1, 5)):
            damage(chance, chance.choice(jobs[2:]))
        found = fsck(stores)
        assert found, seed
        assert not {finding.document_id for finding in found} & {job.document_id for job in spared}, seed
        assert_repaired_for_good(stores)
        for place, job in enumerate(jobs):
            if stores.catalog.document(TENANT, job.document_id).published_revision is None:
                jobs[place] = publish(stores, uploads[place])
    assert [stores.catalog.document(TENANT, job.document_id) for job in spared] == before
    for job in spared:
        assert stores.catalog.chunk_ids(job.document_id, 1) == set(ids.chunk_ids(job.document_id, 1, 4))
        assert stores.vectors.point_ids(job.document_id, 1) == set(ids.chunk_ids(job.document_id, 1, 4))
