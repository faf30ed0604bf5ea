"""Many faults at once, while users submit, cancel, retry and delete: whatever the order, everything ends as it must.

A seed is a schedule; the one that failed is in the name of the test, and runs again with `-k seed-07`.
"""

import random
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import pytest

from ingest.faults import Fault
from ingest.model import JobState
from serve.client import ServiceError
from serve.schemas import JobView
from tests.checks import chunk_texts
from tests.crash.faulty import POINTS, Entry, FaultyCluster
from tests.pdfs import SCAN, encrypted_pdf, pdf_of

SEEDS = range(16)
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.ERROR, Fault.LOST_REPLY, Fault.DELAY)
STRUCK = [point for point in POINTS if point != "activities.read_page"]  # with `ray.read_page`, two end a page
MOST_FAULTS = 4
LATEST_HIT = 3
DOCUMENTS = 4  # beside one that cannot be read
PROSE = "The heron waits in the reeds while the otter swims under the bridge, and neither of them hurries. "
PAGES = (PROSE * 12, PROSE * 3, SCAN)


class Wish(StrEnum):
    """What the document's user does, some time after submitting it."""

    WAIT = "wait"
    CANCEL = "cancel"
    CANCEL_AND_RETRY = "cancel and retry"
    DELETE = "delete"
    DELETE_AND_SEND = "delete and send again"


@dataclass(frozen=True)
class Schedule:
    """Faults, and a wish for each document with the seconds before it is said."""

    seed: int
    faults: tuple[Entry, ...]
    wishes: tuple[tuple[Wish, float], ...]

    @classmethod
    def of(cls, seed: int) -> "Schedule":
        """The seed's schedule, always the same."""
        chance = random.Random(seed)
        points = chance.sample(STRUCK, chance.randint(2, MOST_FAULTS))
        faults = [
            {"point": point, "fault": chance.choice(FAULTS), "hit": chance.randint(1, LATEST_HIT)} for point in points
        ]
        wishes = [(chance.choice(list(Wish)), chance.uniform(0, 2)) for _ in range(DOCUMENTS)]
        return cls(seed, tuple(faults), tuple(wishes))


@pytest.fixture(scope="module")
def undisturbed(faulty: FaultyCluster, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The texts of the document's chunks when nothing happens to it."""
    return chunk_texts(faulty.stores, faulty.ingest(_document(tmp_path_factory.mktemp("undisturbed"), 0)).document_id)


@pytest.fixture(scope="module")
def met() -> list[bool]:
    """Of each fault of the schedules that have run: whether it struck."""
    return []


def test_seeds_are_schedules_that_reach_everything() -> None:
    """The same seed gives the same; many of them give every fault at every point, and every wish."""
    many = [Schedule.of(seed) for seed in range(5_000)]
    assert many[:20] == [Schedule.of(seed) for seed in range(20)]
    assert {(fault["point"], fault["fault"]) for one in many for fault in one.faults} == {
        (point, fault) for point in STRUCK for fault in FAULTS
    }
    assert {wish for one in many for wish, _ in one.wishes} == set(Wish)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("schedule", [Schedule.of(seed) for seed in SEEDS], ids=lambda one: f"seed-{one.seed:02}")
def test_whatever_happens_everything_ends_as_it_must(
    faulty: FaultyCluster, undisturbed: list[str], met: list[bool], schedule: Schedule, tmp_path: Path
) -> None:
    """Faults strike while several documents are at work and their users change their minds; then all is in order."""
    faulty.follow(schedule.faults)
    papers = [_document(tmp_path, number) for number in range(DOCUMENTS)]
    locked = _document(tmp_path, DOCUMENTS, encrypted_pdf())
    first = [faulty.ask(partial(faulty.client.submit, path)).job_id for path in [*papers, locked]]
    faulty.history.look(faulty.stores)
    last = [
        _wished(faulty, path, job_id, *wish) for path, job_id, wish in zip(papers, first, schedule.wishes, strict=False)
    ]
    ended = [faulty.ended(job_id) for job_id in last]
    assert faulty.ended(first[-1]).state is JobState.FAILED
    met.extend(faulty.has_met(fault) for fault in schedule.faults)
    faulty.follow([])
    faulty.assert_recovered()
    for job, (wish, _) in zip(ended, schedule.wishes, strict=True):
        _assert_wish_came_true(faulty, job, wish, undisturbed)


@pytest.mark.slow
def test_the_seeds_faults_strike(met: list[bool]) -> None:
    """A schedule whose faults lie beside its documents' ways would show nothing: most of them are met."""
    assert sum(met) > len(met) / 2, f"{sum(met)} of {len(met)}"


def _wished(faulty: FaultyCluster, path: Path, job_id: str, wish: Wish, after_s: float) -> str:
    """Do what the user does; the job that the document has then."""
    time.sleep(after_s)
    client = faulty.client
    if wish in {Wish.CANCEL, Wish.CANCEL_AND_RETRY}:
        faulty.unless_too_late(lambda: client.cancel(job_id))
    if wish is Wish.CANCEL_AND_RETRY:
        faulty.ended(job_id)
        retried = faulty.unless_too_late(lambda: client.retry(job_id))
        return job_id if retried is None else retried.job_id
    if wish in {Wish.DELETE, Wish.DELETE_AND_SEND}:
        document_id = faulty.ask(lambda: client.job(job_id)).document_id
        faulty.ask(lambda: client.delete(document_id))
    if wish is Wish.DELETE_AND_SEND:
        return faulty.ask(lambda: client.submit(path)).job_id
    return job_id


def _assert_wish_came_true(faulty: FaultyCluster, job: JobView, wish: Wish, undisturbed: list[str]) -> None:
    """Published word for word, unless it was cancelled in time, or deleted."""
    if wish is Wish.CANCEL and job.state is JobState.CANCELLED:
        return
    if wish is Wish.DELETE:
        with pytest.raises(ServiceError, match="no document"):
            faulty.ask(lambda: faulty.client.document(job.document_id))
        return
    assert job.state.published, (wish, job)
    assert [page.page_number for page in job.failed_pages] in ([], [len(PAGES)])
    chunks = faulty.ask(lambda: list(faulty.client.chunks(job.document_id)))
    assert [chunk.text for chunk in chunks] == undisturbed, wish


def _document(directory: Path, number: int, pdf: bytes | None = None) -> Path:
    path = directory / f"paper-{number}.pdf"
    path.write_bytes((pdf or pdf_of(PAGES)) + f"\n% {directory} {number}\n".encode())
    return path
