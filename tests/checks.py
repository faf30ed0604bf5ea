"""What must hold whatever has happened: the one checker that every crash test calls after recovery.

`ingest.reconcile`, which users run as `fanfold fsck`, compares the stores with each other. The checker asks it, and
adds what only somebody can know who watched: that every job has ended, how, and what was seen of it before.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from ingest import ids, reconcile
from ingest.collection import kept_objects
from ingest.model import RELEASED, Document, Job, JobState, Keeping
from ingest.stores import Stores
from serve.schemas import JobView

COLLECTION_PATIENCE_S = 120
MAX_ATTEMPTS = 3  # FANFOLD_MAX_ATTEMPTS
EVERY_JOB = 1_000_000


@dataclass
class History:
    """What was seen of each job, as often as somebody looked: what has ended stays ended, what rises never falls."""

    _seen: dict[str, Job] = field(default_factory=dict)

    def look(self, stores: Stores) -> list[Job]:
        """Every job now, newest first; an AssertionError where one went back on what was seen of it."""
        jobs = stores.jobs.find("default", limit=EVERY_JOB)
        assert not self._seen.keys() - {job.job_id for job in jobs}, "an accepted job is gone"
        for job in jobs:
            if job.job_id in self._seen:
                _assert_went_on(self._seen[job.job_id], job)
            self._seen[job.job_id] = job
        return jobs


def assert_invariants(
    stores: Stores,
    history: History | None = None,
    *,
    at_work: Collection[str] = (),
    max_attempts: int = MAX_ATTEMPTS,
    keep_source: bool = False,
) -> None:
    """Every document and every job of the stores is as it must be, but for the jobs that are named as still at work.

    Waits for the collection of those that have ended, and for nothing else.
    """
    wait_until_collected(stores, at_work)
    jobs = (history or History()).look(stores)
    for job in jobs:
        if job.job_id not in at_work:
            assert job.state.terminal, f"accepted, and never ended: {job}"
            assert not job.open, f"ended, and never collected: {job}"
            _assert_attempts(job, max_attempts)
    busy = {job.document_id for job in jobs if job.job_id in at_work}
    idle = [document_id for document_id in stores.catalog.document_ids() if document_id not in busy]
    documents = [document for document_id in idle if (document := stores.catalog.known(document_id))]
    epochs: dict[tuple[str | None, int | None], set[int | None]] = defaultdict(set)
    for point in stores.vectors.points():
        epochs[point.document_id, point.revision].add(point.epoch)
    for document in documents:
        its = [job for job in jobs if job.document_id == document.document_id]
        _assert_document(stores, document, its, keep_source=keep_source)
        its_epochs = epochs.get((document.document_id, document.published_revision), set())
        _assert_one_attempt_wrote_it(stores, document, its, its_epochs)
    shown = {(one.document_id, one.published_revision) for one in documents if one.chunk_count}
    rows = {*stores.catalog.revisions(), *epochs}
    assert {row for row in rows if row[0] not in busy} == shown, "rows that no reader sees, or none to see"
    for _ in range(2):  # the second time finds what the first one did
        assert list(reconcile.findings(stores)) == []


def wait_until_collected(stores: Stores, at_work: Collection[str] = ()) -> None:
    """Return when no job but these holds its document any more."""
    _until_closed(stores, lambda job: job.job_id not in at_work)


def chunk_texts(stores: Stores, document_id: str) -> list[str]:
    """What readers see of a document, in order: to be compared with an undisturbed run's."""
    document = stores.catalog.document("default", document_id)
    return [chunk.text for chunk in stores.catalog.chunks(document, limit=max(1, document.chunk_count))]


def assert_published_exactly(stores: Stores, job: JobView, *, complete: bool = True, keep_source: bool = False) -> None:
    """MongoDB's chunk ids = Qdrant's point ids = the manifest; nothing else is left, unless pages are missing."""
    _until_closed(stores, lambda one: one.job_id == job.job_id)
    document = stores.catalog.document("default", job.document_id)
    manifest = set(ids.chunk_ids(job.document_id, job.revision, document.chunk_count))
    assert document.published_revision == job.revision
    assert stores.catalog.chunk_ids(job.document_id, job.revision) == manifest
    assert stores.vectors.point_ids(job.document_id, job.revision) == manifest
    assert (stores.objects.keys(ids.checkpoint_prefix(job.document_id)) == []) is complete
    assert stores.objects.exists(ids.source_key(job.document_id)) is (keep_source or not complete)


def assert_nothing_left(stores: Stores, document_id: str, revision: int) -> None:
    """No chunk, no point, no checkpoint, no source."""
    assert stores.catalog.chunk_ids(document_id, revision) == set()
    assert stores.vectors.point_ids(document_id, revision) == set()
    assert stores.objects.keys(ids.checkpoint_prefix(document_id)) == []
    assert not stores.objects.exists(ids.source_key(document_id))


def _until_closed(stores: Stores, meant: Callable[[Job], bool]) -> None:
    give_up_at = time.monotonic() + COLLECTION_PATIENCE_S
    while still_open := [job for job in _at_work(stores) if meant(job)]:
        assert time.monotonic() < give_up_at, f"not ended, or not collected: {still_open}"
        time.sleep(0.1)


def _at_work(stores: Stores) -> Iterator[Job]:
    """The jobs that hold their document, and those that are about to, because a sweep of theirs is due."""
    yield from stores.jobs.open_jobs()
    now = stores.jobs.now()
    yield from (job for job in stores.jobs.find("default", limit=EVERY_JOB) if job.sweep_at and job.sweep_at <= now)


def _assert_went_on(before: Job, now: Job) -> None:
    """From one look at a job to the next."""
    assert now.lease.epoch >= before.lease.epoch, f"its epoch fell: {before}, then {now}"
    if before.state.terminal:
        assert (now.state, now.error, now.attempts) == (before.state, before.error, before.attempts)
    if before.publish_decided and JobState.CANCELLED in {before.state, now.state}:
        raise AssertionError(f"decided to publish, then cancelled: {now}")
    known = before.attempts[:-1]  # the last one may still go on
    assert now.attempts[: len(known)] == known, f"a past attempt was rewritten: {before}, then {now}"
    counts, earlier = now.progress.model_dump(), before.progress.model_dump()
    assert all(counts[name] >= earlier[name] for name in counts), f"progress fell: {before}, then {now}"


def _assert_attempts(job: Job, max_attempts: int) -> None:
    """Numbered, each under a higher epoch, ended once, and few at the same progress; none if cancelled unclaimed."""
    attempts = job.attempts
    if job.state is JobState.CANCELLED and not attempts:
        assert job.cancel_requested_at is not None
        assert job.progress.units == 0, f"worked on, and never claimed: {job}"
        return
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert all(earlier.epoch < later.epoch for earlier, later in pairwise(attempts))
    assert attempts, f"ended, and never claimed: {job}"
    assert attempts[-1].epoch <= job.lease.epoch
    assert attempts[-1].outcome == job.state
    assert all(attempt.ended_at is not None for attempt in attempts)
    assert all(attempt.outcome in {"lost", "requeued", RELEASED} for attempt in attempts[:-1])
    stalled = Counter(attempt.units_at_start for attempt in attempts if attempt.outcome != RELEASED)
    assert max(stalled.values(), default=0) <= max_attempts + 1, f"one more attempt ends it: {attempts}"


def _assert_document(stores: Stores, document: Document, jobs: list[Job], *, keep_source: bool) -> None:
    """What its jobs say, newest first, is what readers see of it, and what is kept of it."""
    assert len({job.revision for job in jobs}) == len(jobs)
    latest = max(jobs, key=lambda job: job.revision, default=None)
    shown = document.published_revision
    published = {job.revision for job in jobs if job.state.published}
    if document.deleted_at is not None:
        assert shown is None
        assert stores.objects.keys(ids.checkpoint_prefix(document.document_id)) == []
        assert not stores.objects.exists(ids.source_key(document.document_id))
        return
    assert shown is None or shown in published, f"revision {shown} is shown, and no job says it succeeded"
    if latest is not None and latest.state.published:
        assert shown == latest.revision, f"succeeded, and not shown: {latest}"
        assert latest.keeping == Keeping(source=keep_source), f"fsck would judge by something else: {latest}"
    for_retry = latest is not None and latest.sweep_at is not None
    kept = kept_objects(latest, document, Keeping(source=keep_source), for_retry=for_retry)
    if kept.source:
        assert stores.objects.exists(ids.source_key(document.document_id)), f"the PDF is not kept: {latest}"


def _assert_one_attempt_wrote_it(
    stores: Stores, document: Document, jobs: list[Job], epochs_of_points: set[int | None]
) -> None:
    """All rows that readers see are of one attempt at that revision: what earlier ones left has been written again."""
    chunks = stores.catalog.chunks(document, limit=max(1, document.chunk_count))
    if not chunks:
        return
    [job] = [job for job in jobs if job.revision == document.published_revision]
    epoch = chunks[0].epoch
    assert {chunk.epoch for chunk in chunks} == {epoch} == epochs_of_points, f"rows of several attempts: {job}"
    assert epoch in {attempt.epoch for attempt in job.attempts}, f"epoch {epoch} is no attempt's: {job}"
