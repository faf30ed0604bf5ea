"""The ways of a document to its end, each disturbed by one fault; and what must hold at that end."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ray.exceptions import RayError

from cluster.composition import Blueprint
from cluster.flags import raise_flag
from cluster.supervisor import start_supervisors
from ingest import ids
from ingest.faults import Fault
from ingest.model import JobState
from serve.client import ServiceError
from serve.schemas import JobView
from serve.search_schemas import SearchMode
from tests.checks import assert_nothing_left, assert_published_exactly, chunk_texts
from tests.crash.faulty import FaultyCluster
from tests.crash.outcomes import Outcomes
from tests.crash.processes import until
from tests.crash.schedule import DETOURS, HINTED, Schedule, Way
from tests.pdfs import SCAN, encrypted_pdf, pdf_of, with_damaged_page

PROSE = "The pilot climbs aboard from the cutter before the bar, and takes the wheel until the anchor is down. "
PAGES = (PROSE * 12, SCAN)  # two chunks, each a batch
SAID = {"author": "the pilot"}  # of each document
NO_CLAIM = {"point": "jobs.waiting", "fault": Fault.DELAY, "times": 8}  # for a while
STORED_FOR_A_WHILE = [
    {"point": "catalog.chunk_ids", "fault": Fault.DELAY},
    {"point": "jobs.decide_publish", "fault": Fault.DELAY},
]
SAME_VECTOR = 0.999  # cosine of a text's vector with itself, made in a batch or alone
NOT_HEARD = {"jobs.postpone_notice": [500]}  # what the webhook answers first


def texts_undisturbed(faulty: FaultyCluster, directory: Path) -> list[str]:
    """The texts of the document's chunks when nothing happens to it."""
    return chunk_texts(faulty.stores, faulty.ingest(_document(directory)).document_id)


def strike(
    faulty: FaultyCluster, schedule: Schedule, outcomes: Outcomes, undisturbed: list[str], directory: Path
) -> str:
    """Let the fault happen on the document's way; whether it did. An AssertionError where anything is wrong."""
    outcomes.begin(schedule.name)
    faulty.receiver.statuses[:] = NOT_HEARD.get(schedule.point, [])
    _go(faulty, schedule, undisturbed, directory)
    faulty.assert_recovered()
    outcome = "exact" if faulty.meets(schedule.entry) else "not reached"
    faulty.assert_recovered()
    outcomes.end(schedule.name, outcome)
    faulty.follow([])
    return outcome


def _go(faulty: FaultyCluster, schedule: Schedule, undisturbed: list[str], directory: Path) -> None:
    match schedule.way:
        case Way.PUBLISHED:
            detour = [DETOURS[schedule.point]] if schedule.point in DETOURS else []
            faulty.follow([*detour, schedule.entry])
            _assert_published(faulty, _ingested(faulty, schedule, _document(directory)), undisturbed)
        case Way.REFUSED:
            faulty.follow([schedule.entry])
            _assert_refused(faulty, _ingested(faulty, schedule, _document(directory, encrypted_pdf())))
        case Way.CANCELLED:
            faulty.follow(STORED_FOR_A_WHILE)
            _assert_published(faulty, _cancelled_and_retried(faulty, schedule, _document(directory)), undisturbed)
        case Way.UNCLAIMED:
            faulty.follow([NO_CLAIM, schedule.entry])
            _assert_published(faulty, _cancelled_unclaimed_and_retried(faulty, _document(directory)), undisturbed)
        case Way.DELETED:
            faulty.follow([])
            _assert_deleted(faulty, _published_and_deleted(faulty, schedule, _document(directory)))
        case Way.PARTIAL:
            faulty.follow([schedule.entry])
            broken = with_damaged_page(pdf_of([*PAGES, "Gone."]), len(PAGES) + 1)
            _assert_partial(faulty, _ingested(faulty, schedule, _document(directory, broken)), undisturbed)
        case Way.RESTARTED:
            faulty.follow(STORED_FOR_A_WHILE)
            _assert_published(faulty, _restarted(faulty, schedule, _document(directory)), undisturbed)
        case Way.REPLACED:
            faulty.follow([])
            job = _published_twice(faulty, schedule, _document(directory), undisturbed)
            _assert_published(faulty, job, undisturbed)


def _document(directory: Path, pdf: bytes | None = None) -> Path:
    """A document of its own: the same text, other bytes."""
    path = directory / "pilot.pdf"
    path.write_bytes((pdf or pdf_of(PAGES)) + f"\n% {directory}\n".encode())
    return path


def _ingested(faulty: FaultyCluster, schedule: Schedule, path: Path) -> JobView:
    """The document's job at its end. What a hint brings about is hinted at where that is to meet the fault."""
    key = str(path)  # a patient client repeats its submit under the same one
    submitted = faulty.ask(lambda: faulty.client.submit(path, metadata=SAID, idempotency_key=key))
    hinted = schedule.point in HINTED
    return faulty.ended(submitted.job_id, lambda: raise_flag(submitted.job_id) if hinted else None)


def _cancelled_and_retried(faulty: FaultyCluster, schedule: Schedule, path: Path) -> JobView:
    """Cancelled in the last moment, unless that came too late; a cancelled job left nothing, and its retry goes on."""
    submitted = faulty.ask(lambda: faulty.client.submit(path))
    until(lambda: faulty.ask(lambda: faulty.client.job(submitted.job_id)).progress.chunks_stored)
    faulty.add([schedule.entry])
    if faulty.unless_too_late(lambda: faulty.client.cancel(submitted.job_id)) is None:
        return faulty.ended(submitted.job_id)
    cancelled = faulty.ended(submitted.job_id)
    assert cancelled.state is JobState.CANCELLED
    faulty.assert_recovered()
    retried = faulty.ask(lambda: faulty.client.retry(submitted.job_id))
    assert retried.job_id != submitted.job_id
    return faulty.ended(retried.job_id)


def _cancelled_unclaimed_and_retried(faulty: FaultyCluster, path: Path) -> JobView:
    """Cancelled before anybody has claimed it, and so is its first retry; both at once, unless a claim came first."""
    until(lambda: faulty.has_met(NO_CLAIM))
    job_id = faulty.ask(lambda: faulty.client.submit(path)).job_id
    for _ in range(2):
        if faulty.unless_too_late(partial(faulty.client.cancel, job_id)) is None:
            break
        assert faulty.ended(job_id).state is JobState.CANCELLED
        job_id = faulty.ask(partial(faulty.client.retry, job_id)).job_id
    return faulty.ended(job_id)


def _published_and_deleted(faulty: FaultyCluster, schedule: Schedule, path: Path) -> JobView:
    """Deleted, and swept for the first time."""
    job = faulty.ended(faulty.client.submit(path).job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    faulty.assert_recovered()
    faulty.add([schedule.entry])
    faulty.ask(lambda: faulty.client.delete(job.document_id))
    until(lambda: _is_swept(faulty, job))
    return job


def _restarted(faulty: FaultyCluster, schedule: Schedule, path: Path) -> JobView:
    """Its supervisor is stopped while all its rows are written, and another one goes on, for `repin` with new names."""
    submitted = faulty.ask(lambda: faulty.client.submit(path))
    until(lambda: faulty.ask(lambda: faulty.client.job(submitted.job_id)).progress.chunks_stored)
    faulty.add([schedule.entry])
    other = schedule.point == "jobs.repin"
    try:
        with suppress(RayError):  # it met the fault before it said that it works: the keeper starts it again
            start_supervisors(_renamed(faulty.blueprint) if other else faulty.blueprint)
        return faulty.ended(submitted.job_id)
    finally:
        if other:
            start_supervisors(faulty.blueprint)


def _published_twice(faulty: FaultyCluster, schedule: Schedule, path: Path, undisturbed: list[str]) -> JobView:
    """Published by a supervisor with other settings, then sent again; meanwhile one version or the other is whole."""
    try:
        start_supervisors(_renamed(faulty.blueprint))
        before = faulty.ended(faulty.client.submit(path).job_id)
    finally:
        start_supervisors(faulty.blueprint)
    assert before.state is JobState.SUCCEEDED, before.error
    faulty.assert_recovered()
    faulty.add([schedule.entry])
    again = faulty.ask(lambda: faulty.client.submit(path))
    assert again.job_id != before.job_id

    def read() -> None:
        chunks = faulty.ask(lambda: list(faulty.client.chunks(before.document_id)))
        hits = faulty.ask(lambda: faulty.client.search("the wheel", document_ids=[before.document_id]))
        assert [chunk.text for chunk in chunks] == undisturbed
        assert len(hits) == len(chunks)

    return faulty.ended(again.job_id, read)


def _renamed(blueprint: Blueprint) -> Blueprint:
    """The same work under other fingerprints: what was made under the former ones is not used."""
    pipeline = blueprint.pipeline
    return replace(blueprint, pipeline=pipeline.model_copy(update={"chunk": f"{pipeline.chunk}0", "embed": "another"}))


def _is_swept(faulty: FaultyCluster, job: JobView) -> bool:
    """Whether its next sweep is one that waits for late writes, so that the first has been."""
    known = faulty.stores.jobs.job("default", job.job_id)
    return not known.open and known.sweep_at is not None and known.sweep_at > faulty.stores.jobs.now()


def _assert_published(faulty: FaultyCluster, job: JobView, undisturbed: list[str]) -> None:
    """Exact in both stores, complete for readers, and word for word what it is when nothing happens."""
    assert job.state is JobState.SUCCEEDED, job.error
    assert_published_exactly(faulty.stores, job)
    chunks = faulty.ask(lambda: list(faulty.client.chunks(job.document_id)))
    hits = faulty.ask(lambda: faulty.client.search("who takes the wheel", limit=50, document_ids=[job.document_id]))
    unsaid = faulty.ask(lambda: faulty.client.search("who takes the wheel", metadata={"nobody": "said so"}))
    listed = faulty.ask(lambda: list(faulty.client.jobs(limit=5)))
    newest = faulty.ask(lambda: list(faulty.client.documents(limit=5)))
    manifest = ids.chunk_ids(job.document_id, job.revision, len(chunks))
    assert [chunk.chunk_id for chunk in chunks] == manifest
    assert sorted(hit.chunk_id for hit in hits) == sorted(manifest)
    assert unsaid == []
    assert [chunk.text for chunk in chunks] == undisturbed
    for chunk_id, text in zip(manifest, undisturbed, strict=True):
        _assert_found_by_its_own_words(faulty, job.document_id, chunk_id, text)
    assert job.job_id in {one.job_id for one in listed}
    assert job.document_id in {one.document_id for one in newest}


def _assert_found_by_its_own_words(faulty: FaultyCluster, document_id: str, chunk_id: str, text: str) -> None:
    """The point of this chunk has the vector of this text, and not another's."""
    asked = partial(faulty.client.search, text, limit=1, mode=SearchMode.DENSE, document_ids=[document_id])
    [best] = faulty.ask(asked)
    assert best.chunk_id == chunk_id
    assert best.score > SAME_VECTOR, f"another vector than its text's: {best}"


def _assert_partial(faulty: FaultyCluster, job: JobView, undisturbed: list[str]) -> None:
    """The other pages are there, word for word; what a retry needs is kept."""
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert [page.page_number for page in job.failed_pages] == [len(PAGES) + 1]
    assert_published_exactly(faulty.stores, job, complete=False)
    assert [chunk.text for chunk in faulty.ask(lambda: list(faulty.client.chunks(job.document_id)))] == undisturbed


def _assert_refused(faulty: FaultyCluster, job: JobView) -> None:
    """Failed, and nothing is kept of what can never be read."""
    assert job.state is JobState.FAILED
    faulty.assert_recovered()
    assert_nothing_left(faulty.stores, job.document_id, job.revision)


def _assert_deleted(faulty: FaultyCluster, job: JobView) -> None:
    """No reader sees it, and nothing is left."""
    assert_nothing_left(faulty.stores, job.document_id, job.revision)
    with pytest.raises(ServiceError, match="no document"):
        faulty.ask(lambda: faulty.client.document(job.document_id))
