"""A letter behind books, on the real queue: claims, places and pages are shared by tenant, priority and job."""

import asyncio
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from cluster import duty
from cluster.composition import Blueprint
from cluster.embedded import EmbeddedMongoDB
from cluster.queue import GUEST_PLACES, Queue
from cluster.scheduler import FairScheduler, Owner
from cluster.supervisor import ENDING_PLACES, Supervisor
from ingest.endings import all_done
from ingest.errors import StoreRefused
from ingest.model import ChunkPlan, Inspection, Job, JobState, Revision
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores, mongo
from ingest.stores.held import HeldJob
from ingest.stores.jobs import CLAIM_CANDIDATES, JobStore
from ingest.turns import Priority
from tests.builders import KEEP_NOTHING, a_document, a_job, pipeline_named
from tests.conftest import PIPELINE
from tests.integration.queue import claim, insert

SLOTS = 4
MIB = 1024**2


class StubEngine:
    """Pages that take no work but a turn, in the order in which they got it. A document's name says how long it is."""

    def __init__(self, slots: int = SLOTS) -> None:
        self.scheduler = FairScheduler(slots)
        self.read: list[str] = []
        self.most_at_hand = 0

    def at_hand(self) -> int:
        """As production's."""
        return self.scheduler.slots + 16

    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """All pages want OCR: `book-5000-1` has 5,000."""
        assert not distrusted
        assert not alone
        pages = int(revision.document_id.split("-")[1])
        return Inspection(page_count=pages, ocr_pages=tuple(range(1, pages + 1)), unreadable_pages=())

    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """One turn."""
        assert page_number
        assert not alone
        self.most_at_hand = max(self.most_at_hand, len(asyncio.all_tasks()))
        async with self.scheduler.slot(Owner(revision.tenant, revision.priority, revision.document_id)):
            self.read.append(revision.document_id)
            await asyncio.sleep(0.001)

    async def cut(self, revision: Revision) -> ChunkPlan:
        """No text, so nothing to embed or store."""
        assert revision
        return ChunkPlan(batch_sizes=())

    async def embed(self, revision: Revision, batch: int, size: int) -> None:
        """Never called."""
        raise AssertionError(revision, batch, size)

    async def store(self, revision: Revision, batch: int) -> None:
        """Never called."""
        raise AssertionError(revision, batch)


class Service:
    """A supervisor without Ray: claims as it does, and runs what it claimed."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self.stores = stores
        self.settings = settings
        self.engine = StubEngine()
        self.running: dict[asyncio.Task[None], Job] = {}
        self.queue = Queue(stores.jobs, settings, "holder")

    def submit(self, document_id: str, *, tenant: str = "a", priority: Priority = Priority.NORMAL) -> Job:
        """A document that is durable, and its job."""
        self.stores.catalog.register(a_document(document_id, tenant=tenant))
        job = self.stores.jobs.insert(
            tenant=tenant, document_id=document_id, revision=1, pipeline=pipeline_named("p"), priority=priority
        )
        assert job is not None
        return job

    async def claim(self) -> None:
        """Begin what may begin."""
        while (held := await asyncio.to_thread(self.queue.claim_next, list(self.running.values()))) is not None:
            one = Pipeline(held, self.stores, self.engine, pipeline_named("p"), self.settings)
            task = asyncio.create_task(one.run())
            self.running[task] = held.job
            task.add_done_callback(self.running.pop)

    async def until_ended(self, job: Job) -> Job:
        """Claim and work until the job has ended."""
        while not (found := self.stores.jobs.job(job.tenant, job.job_id)).state.terminal:
            await self.claim()
            await asyncio.sleep(0.02)
        return found

    async def stop(self) -> None:
        """Give back what runs."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


@pytest.fixture
def service(stores: Stores, jobs: JobStore, settings: Settings) -> Service:
    """With an empty queue; its leases outlast the test."""
    patient = settings.model_copy(update={"lease_ttl_s": 60, "poll_interval_s": 0.05})
    return Service(replace(stores, jobs=jobs), patient)


def copies(job: Job, count: int, database: Database[dict[str, Any]], tenant: str) -> None:
    """So many other jobs like this one, queued in one go."""
    record = database["jobs"].find_one({"_id": job.job_id})
    assert record is not None
    fresh = (
        {"_id": str(uuid.uuid4()), "document_id": f"book-100-{uuid.uuid4()}", "tenant": tenant} for _ in range(count)
    )
    database["jobs"].insert_many([record | one for one in fresh])


@pytest.mark.parametrize(("books", "tenant"), [(1, "a"), (10, "a"), (20, "b")])
async def test_a_letter_behind_books_is_published_in_the_time_of_a_few_pages(
    service: Service, books: int, tenant: str
) -> None:
    """One book, ten of the same tenant, or more of another's than there are places: the letter waits for no book."""
    service.queue = Queue(service.stores.jobs, service.settings.model_copy(update={"max_running_jobs": 12}), "h")
    for number in range(books):
        service.submit(f"book-5000-{number}", tenant=tenant)
    await service.claim()
    await asyncio.sleep(0.3)
    before = len(service.engine.read)
    letter = await service.until_ended(service.submit("letter-1-0"))
    first = service.engine.read.index("letter-1-0", before)
    await service.stop()
    assert letter.state is JobState.SUCCEEDED
    began = service.engine.read[before:first]
    assert max(began.count(f"book-5000-{number}") for number in range(books)) < 5000 / 4
    assert first - before < 5000


async def test_a_letters_page_is_read_next(service: Service) -> None:
    """From when it asks, its page waits for as many pages as there are slots at the most, with ten books at work."""
    for number in range(10):
        service.submit(f"book-1000-{number}")
    await service.claim()
    await asyncio.sleep(0.3)
    waited = []
    scheduler = service.engine.scheduler
    for number in range(5):
        before = len(service.engine.read)
        async with scheduler.slot(Owner("a", Priority.NORMAL, f"letter-1-{number}")):
            waited.append(len(service.engine.read) - before)
    await service.stop()
    assert max(waited) <= SLOTS


async def test_guests_are_bounded(service: Service) -> None:
    """Many tenants with books: FANFOLD_MAX_RUNNING_JOBS, and some guests, are at work, whoever still comes."""
    places = 3
    service.queue = Queue(service.stores.jobs, service.settings.model_copy(update={"max_running_jobs": places}), "h")
    for number in range(places + GUEST_PLACES + 5):
        service.submit(f"book-1000-{number}", tenant=f"tenant-{number}")
    await service.claim()
    at_work = len(service.running)
    await service.stop()
    assert at_work == places + GUEST_PLACES


async def test_a_book_of_10_000_pages_is_not_10_000_tasks(service: Service) -> None:
    """As many pages are at hand as slots can take, and a few; the rest is a list of numbers."""
    book = service.submit("book-10000-0")
    ended = await service.until_ended(book)
    assert ended.progress.pages_done == 10_000
    assert service.engine.most_at_hand < 50


@pytest.fixture
def deep(mongodb: EmbeddedMongoDB) -> JobStore:
    """10,000 jobs of tenant a wait, in a database that goes with its server: dropping it would take a minute."""
    database = mongo.connect(mongodb.uri, f"deep_{uuid.uuid4().hex[:8]}")
    jobs = JobStore(database, lease_ttl_s=60, job_timeout_s=600)
    jobs.prepare()
    first = insert(jobs, "book-100-x", tenant="a")
    copies(first, 9_999, database, "a")
    return jobs


def test_behind_10_000_jobs_of_another_tenant_a_letter_is_claimed_second(deep: JobStore, settings: Settings) -> None:
    """Claimed in the order of turns, and every claim in the time of a claim from a queue of ten."""
    letter = insert(deep, "letter", tenant="b")
    queue = Queue(deep, settings, "holder")
    running: list[Job] = []
    took = []
    for _ in range(12):
        started_at = time.monotonic()
        held = queue.claim_next(running)
        took.append(time.monotonic() - started_at)
        assert held is not None
        running.append(held.job)
    assert letter.job_id in {job.job_id for job in running[:2]}
    assert [job.tenant for job in running].count("a") == 11
    assert sorted(took)[6] < took[0] / 5  # the first one reads all the tickets, the others none
    late = insert(deep, "late", tenant="c")
    give_up_at = time.monotonic() + 30
    at_work = list(running)
    while late.job_id not in {job.job_id for job in running} and time.monotonic() < give_up_at:
        held = queue.claim_next(at_work)
        assert held is not None
        running.append(held.job)
    assert late.job_id == running[-1].job_id
    assert len(running) < 200
    writes_are_flat(deep, running)


def test_10_000_jobs_that_wait_take_a_supervisor_a_few_megabytes(deep: JobStore, settings: Settings) -> None:
    """It knows a ticket of each, and no record."""
    queue = Queue(deep, settings, "holder")
    tracemalloc.start()
    held = queue.claim_next([])
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held is not None
    assert kept < 4 * MIB
    assert most < 16 * MIB


def writes_are_flat(jobs: JobStore, running: list[Job]) -> None:
    """A write to a claimed job looks at that job, not at the 10,000 beside it."""
    held = HeldJob(jobs, running[-1], claimed_at=time.monotonic())
    started_at = time.monotonic()
    for number in range(10):
        held.report({"pages_done": number})
    assert time.monotonic() - started_at < 2.0


def test_jobs_of_an_earlier_version_are_claimed(
    jobs: JobStore, database: Database[dict[str, Any]], settings: Settings
) -> None:
    """They have no priority: they count as normal ones."""
    old, high, low = (insert(jobs, name) for name in ("old", "high", "low"))
    database["jobs"].update_one({"_id": old.job_id}, {"$unset": {"priority": 1}})
    for job, priority in ((high, Priority.HIGH), (low, Priority.LOW)):
        database["jobs"].update_one({"_id": job.job_id}, {"$set": {"priority": priority}})
    queue = Queue(jobs, settings, "holder")
    running: list[Job] = []
    while (held := queue.claim_next(running)) is not None:
        running.append(held.job)
    assert [job.document_id for job in running] == ["high", "old", "low"]


def test_a_job_whose_holder_died_is_claimed_by_the_next(
    jobs: JobStore, database: Database[dict[str, Any]], settings: Settings
) -> None:
    """Its lease runs out: the next look at what was abandoned finds it; one that had ended is taken to be collected."""
    for name in ("working", "ended"):
        insert(jobs, name)
    dead = Queue(jobs, settings, "dead")
    for _ in range(2):
        held = dead.claim_next([])
        assert held is not None
        if held.job.document_id == "ended":
            held.settle(JobState.SUCCEEDED)
    queue = Queue(jobs, settings, "alive")
    assert queue.claim_next([]) is None
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": jobs.now()}})
    give_up_at = time.monotonic() + 10
    while (held := queue.claim_next([])) is None:
        assert time.monotonic() < give_up_at
    assert held.job.document_id == "working"
    [ended] = jobs.claim_ending("alive", limit=9)
    assert ended.job.document_id == "ended"


def test_every_page_is_drawn_only_when_there_is_room() -> None:
    """Of ten pieces of work and room for three, no more than three have begun and not ended."""
    drawn: list[int] = []
    ended: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(0.001)
        ended.append(number)

    def work() -> Iterator[Any]:
        for number in range(10):
            drawn.append(number)
            assert len(drawn) - len(ended) <= 3
            yield one(number)

    asyncio.run(all_done(work(), lambda: 3))
    assert sorted(ended) == list(range(10))


def a_supervisor(stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, **changed: int) -> Supervisor:
    """One that can be asked what it would claim; there is no Ray."""
    monkeypatch.setattr(duty, "cluster_address", lambda: "nowhere")
    return Supervisor(Blueprint(settings.model_copy(update=changed), PIPELINE, dimension=384), stores)


async def test_a_supervisor_claims_by_turns(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production's own loop asks the queue with what it runs: the second of two tenants' jobs is not the first's."""
    supervisor = a_supervisor(stores, settings, monkeypatch, max_running_jobs=2)
    for number in range(3):
        insert(stores.jobs, f"a{number}", tenant="a")
    insert(stores.jobs, "b", tenant="b")
    tenants = []
    for _ in range(2):
        (held,) = await supervisor._claim()
        tenants.append(held.job.tenant)
        supervisor._running[asyncio.create_task(asyncio.sleep(60))] = held.job
    for task in supervisor._running:
        task.cancel()
    assert sorted(tenants) == ["a", "b"]


async def test_what_only_has_to_end_waits_for_no_place(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Books of the same tenant hold every place, guests' too: a delete and a cancel are carried out all the same."""
    supervisor = a_supervisor(stores, settings, monkeypatch, max_running_jobs=1)
    insert(stores.jobs, "deleted")
    deleted = claim(stores.jobs)
    deleted.settle(JobState.FAILED)
    deleted.close(keeping=KEEP_NOTHING, sweep_at=None)
    cancelled = insert(stores.jobs, "cancelled")
    stores.jobs.request_sweep(deleted.job.job_id)
    stores.jobs.request_cancel(cancelled.job_id)
    assert stores.jobs.reopen_due() == 1
    for number in range(1 + GUEST_PLACES):
        supervisor._running[asyncio.create_task(asyncio.sleep(60))] = a_job(_id=str(number), state=JobState.RUNNING)
    claimed = await supervisor._claim()
    for task in supervisor._running:
        task.cancel()
    assert {held.job.job_id for held in claimed} == {deleted.job.job_id, cancelled.job_id}


async def test_what_only_has_to_end_has_a_bound_of_its_own(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred cancels: no more at a time than there are places for them, whatever else is free; and work goes on."""
    supervisor = a_supervisor(stores, settings, monkeypatch)
    for number in range(2 * ENDING_PLACES):
        stores.jobs.request_cancel(insert(stores.jobs, f"cancelled {number}").job_id)
    work = insert(stores.jobs, "work")
    claimed: list[Job] = []
    while held := await supervisor._claim():
        for one in held:
            supervisor._running[asyncio.create_task(asyncio.sleep(60))] = one.job
            claimed.append(one.job)
    for task in supervisor._running:
        task.cancel()
    assert sum(job.cancel_requested_at is not None for job in claimed) == ENDING_PLACES
    assert [job.job_id for job in claimed if job.cancel_requested_at is None] == [work.job_id]


def test_many_cancels_hold_no_delete_up(stores: Stores) -> None:
    """Jobs to be cancelled and jobs to be collected are claimed in turn, however long the former have waited."""
    insert(stores.jobs, "deleted")
    deleted = claim(stores.jobs)
    deleted.settle(JobState.FAILED)
    deleted.close(keeping=KEEP_NOTHING, sweep_at=None)
    for number in range(9):
        stores.jobs.request_cancel(insert(stores.jobs, f"cancelled {number}").job_id)
    stores.jobs.request_sweep(deleted.job.job_id)
    assert stores.jobs.reopen_due() == 1
    claimed = stores.jobs.claim_ending("h", limit=3)
    assert len(claimed) == 3
    assert deleted.job.job_id in {held.job.job_id for held in claimed}
    assert len(stores.jobs.claim_ending("h", limit=99)) == 7


async def test_a_bulk_delete_is_carried_out_in_seconds(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While more are due than are opened at a time, the next are not left for the usual interval."""
    supervisor = a_supervisor(stores, settings, monkeypatch)
    opened, none_left = iter([CLAIM_CANDIDATES, CLAIM_CANDIDATES, 3]), asyncio.Event()
    loop = asyncio.get_running_loop()

    def reopen_due() -> int:
        count = next(opened)
        if count < CLAIM_CANDIDATES:
            loop.call_soon_threadsafe(none_left.set)
        return count

    monkeypatch.setattr(stores.jobs, "reopen_due", reopen_due)
    monkeypatch.setattr("cluster.supervisor.SWEEP_INTERVAL_S", 300.0)
    sweep = asyncio.create_task(supervisor._sweep())
    async with asyncio.timeout(60):
        await none_left.wait()
    sweep.cancel()
    assert list(opened) == []


def test_a_job_that_the_database_refuses_stands_in_nobodys_way(
    jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim raises once; then the next one's turn comes."""
    refused, fine = insert(jobs, "refused"), insert(jobs, "fine")
    queue, claim = Queue(jobs, settings, "holder"), jobs.claim

    def refuse(holder: str, job_id: str, *, for_work: bool) -> HeldJob | None:
        if job_id == refused.job_id:
            raise StoreRefused("MongoDB refuses.")
        return claim(holder, job_id, for_work=for_work)

    monkeypatch.setattr(jobs, "claim", refuse)
    monkeypatch.setattr("cluster.queue.OVERLAP", timedelta(0))  # what was just submitted would be read again
    with pytest.raises(StoreRefused):
        queue.claim_next([])
    held = queue.claim_next([])
    assert held is not None
    assert held.job.job_id == fine.job_id


def test_who_finds_nothing_but_what_others_have_taken_stops_looking(
    jobs: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second: a supervisor has orders to hear. The search goes on where it stopped."""
    for number in range(4):
        insert(jobs, f"taken {number}")
    asked: list[str] = []
    monkeypatch.setattr(jobs, "claim", lambda _holder, job_id, **_how: asked.append(job_id))
    monkeypatch.setattr("cluster.queue.LONGEST_SEARCH_S", 0.0)
    monkeypatch.setattr("cluster.queue.OVERLAP", timedelta(0))
    queue = Queue(jobs, settings, "holder")
    for looks in range(1, 5):
        assert queue.claim_next([]) is None
        assert len(set(asked)) == looks
