"""The fair page scheduler: bounded slots, no job starves another, no slot is ever lost."""

import asyncio
import random
import time
from contextlib import suppress
from typing import cast

import pytest

from cluster.scheduler import FairScheduler, Owner
from ingest.turns import Priority

BOOK, LETTER = "book", "letter"


def owner(job: str, tenant: str = "t", priority: Priority = Priority.NORMAL) -> Owner:
    """A job of a tenant; `tenant/job` and `job!` (high) and `job?` (low) say more."""
    if "/" in job:
        tenant, job = job.split("/")
    return Owner(tenant, {"!": Priority.HIGH, "?": Priority.LOW}.get(job[-1], priority), job)


class Pages:
    """Pages that hold a slot until they are told to end, in the order in which they got one."""

    def __init__(self, slots: int) -> None:
        self.scheduler = FairScheduler(slots)
        self.running: dict[asyncio.Task[None], asyncio.Event] = {}
        self.order: list[str] = []
        self.most_running = 0

    async def read(self, job: str) -> None:
        """One page of one job."""
        async with self.scheduler.slot(owner(job)):
            task = cast("asyncio.Task[None]", asyncio.current_task())
            self.running[task] = asyncio.Event()
            self.order.append(job)
            self.most_running = max(self.most_running, len(self.running))
            try:
                await self.running[task].wait()
            finally:
                del self.running[task]

    def submit(self, job: str, pages: int) -> list[asyncio.Task[None]]:
        """The job wants all its pages read, now."""
        return [asyncio.create_task(self.read(job)) for _ in range(pages)]

    async def end_one(self) -> None:
        """The page that has run longest ends."""
        await settled()
        next(iter(self.running.values())).set()
        await settled()

    async def end_all(self, tasks: list[asyncio.Task[None]]) -> None:
        """Every page ends as soon as it runs."""
        while not all(task.done() for task in tasks):
            await settled()
            for page in self.running.values():
                page.set()


async def settled() -> None:
    """Let the loop run until whatever was ready has happened."""
    for _ in range(5):
        await asyncio.sleep(0)


async def free_slots(scheduler: FairScheduler, slots: int) -> int:
    """How many slots can be held at the same time, found by taking them."""
    held = [asyncio.create_task(_hold(scheduler)) for _ in range(slots + 3)]
    await settled()
    free = sum(task.get_name() == "holding" for task in held)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    return free


async def _hold(scheduler: FairScheduler) -> None:
    async with scheduler.slot(owner("probe")):
        cast("asyncio.Task[None]", asyncio.current_task()).set_name("holding")
        await asyncio.Event().wait()


@pytest.mark.parametrize("slots", [1, 3])
async def test_slots_are_bounded_and_alone_a_job_gets_every_one(slots: int) -> None:
    """A job that is alone runs on all slots at once, and never on more."""
    pages = Pages(slots)
    book = pages.submit(BOOK, 20)
    await settled()
    assert len(pages.running) == slots
    await pages.end_all(book)
    assert pages.most_running == slots
    assert len(pages.order) == 20


@pytest.mark.parametrize("slots", [1, 2, 8])
async def test_a_letter_behind_a_book_gets_the_next_free_slot(slots: int) -> None:
    """A 500-page book cannot starve a one-page letter: the first slot that becomes free is the letter's."""
    pages = Pages(slots)
    book = pages.submit(BOOK, 500)
    await settled()
    letter = pages.submit(LETTER, 1)
    await pages.end_one()
    assert LETTER in pages.order
    assert pages.order.index(LETTER) == slots
    await pages.end_all(book + letter)


async def test_with_more_jobs_than_slots_each_gets_its_turn() -> None:
    """Three books and two slots: thirty pages later each has had about ten."""
    pages = Pages(2)
    books = [page for name in ("a", "b", "c") for page in pages.submit(name, 50)]
    for _ in range(28):
        await pages.end_one()
    counts = {name: pages.order.count(name) for name in ("a", "b", "c")}
    await pages.end_all(books)
    assert max(counts.values()) - min(counts.values()) <= 2


async def test_two_jobs_share_the_slots_evenly() -> None:
    """A second book gets half of the slots as they become free, whatever the first has waiting."""
    pages = Pages(4)
    books = pages.submit("a", 200)
    await settled()
    books += pages.submit("b", 200)
    for _ in range(2):
        await pages.end_one()
    assert pages.order[4:] == ["b", "b"]
    await pages.end_all(books)


async def test_pages_of_one_job_are_read_in_order_of_asking() -> None:
    """Within a job the first page that asked is the first that runs."""
    scheduler = FairScheduler(1)
    order: list[int] = []

    async def read(number: int) -> None:
        async with scheduler.slot(owner(BOOK)):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(read(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_page_that_fails_gives_its_slot_back() -> None:
    """An error in the block frees the slot."""
    scheduler = FairScheduler(1)
    with pytest.raises(RuntimeError):
        async with scheduler.slot(owner(BOOK)):
            raise RuntimeError
    assert await free_slots(scheduler, 1) == 1


async def test_a_waiter_that_is_cancelled_leaks_no_slot() -> None:
    """A page cancelled while it waits takes nothing with it, and those behind it go on."""
    pages = Pages(1)
    first, second, third = pages.submit(BOOK, 3)
    await settled()
    second.cancel()
    await settled()
    await pages.end_all([first, third])
    assert pages.order == [BOOK, BOOK]
    assert await free_slots(pages.scheduler, 1) == 1


async def test_a_waiter_cancelled_as_it_is_granted_leaks_no_slot() -> None:
    """The slot was given in the same turn of the loop in which the page was cancelled: it goes to the next one."""
    scheduler = FairScheduler(1)
    release = asyncio.Event()

    async def first() -> None:
        async with scheduler.slot(owner(BOOK)):
            await release.wait()

    async def second() -> None:
        async with scheduler.slot(owner(BOOK)):
            raise AssertionError("it was cancelled before it could run")

    holder, waiter = asyncio.create_task(first()), asyncio.create_task(second())
    await settled()
    release.set()
    await asyncio.sleep(0)  # the holder leaves, and grants the waiter's turn, which has not run yet
    assert holder.done()
    waiter.cancel()
    with suppress(asyncio.CancelledError):
        await waiter
    assert waiter.cancelled()
    assert await free_slots(scheduler, 1) == 1


@pytest.mark.parametrize("seed", range(25))
async def test_no_schedule_loses_or_invents_a_slot(seed: int) -> None:
    """After any mixture of asking, ending, failing and cancelling: free slots + held slots = slots."""
    rng = random.Random(seed)
    slots = rng.randint(1, 4)
    pages = Pages(slots)
    tasks: list[asyncio.Task[None]] = []
    for _ in range(150):
        step = rng.random()
        if step < 0.45:
            tasks += pages.submit(rng.choice("abc"), rng.randint(1, 3))
        elif step < 0.7 and pages.running:
            rng.choice(list(pages.running.values())).set()
        elif step < 0.95 and tasks:
            rng.choice(tasks).cancel()
        for _ in range(rng.randint(0, 3)):  # sometimes nothing runs between two steps: grants meet cancellations
            await asyncio.sleep(0)
        assert len(pages.running) <= slots
    await settled()
    waiting = sum(not task.done() for task in tasks) - len(pages.running)
    assert len(pages.running) == slots or waiting == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await free_slots(pages.scheduler, slots) == slots


async def test_more_slots_are_handed_out_at_once_and_fewer_as_they_come_back() -> None:
    """A node that joins or leaves changes how many pages run; none that runs is stopped."""
    scheduler = FairScheduler(1)
    entered: list[str] = []
    leave = asyncio.Event()

    async def hold(key: str) -> None:
        async with scheduler.slot(owner(key)):
            entered.append(key)
            await leave.wait()

    holders = [asyncio.create_task(hold(key)) for key in ("a", "b", "c")]
    await asyncio.sleep(0.01)
    assert len(entered) == 1
    scheduler.resize(2)
    await asyncio.sleep(0.01)
    assert len(entered) == 2
    scheduler.resize(1)
    leave.set()
    await asyncio.gather(*holders)
    assert sorted(entered) == ["a", "b", "c"]
    assert scheduler._free == 1


async def test_a_tenants_letter_gets_the_next_slot_however_many_books_another_has() -> None:
    """Ten books of one tenant and a letter of another: the first slot that becomes free is the letter's."""
    pages = Pages(4)
    books = [page for number in range(10) for page in pages.submit(f"a/book{number}", 50)]
    await settled()
    letter = pages.submit("b/letter", 1)
    await pages.end_one()
    assert pages.order[4] == "b/letter"
    await pages.end_all(books + letter)


async def test_tenants_share_the_slots_whatever_their_number_of_jobs() -> None:
    """One job of a tenant gets as many pages as the nine of another together."""
    pages = Pages(4)
    tasks = [page for number in range(9) for page in pages.submit(f"a/{number}", 30)] + pages.submit("b/x", 200)
    for _ in range(40):
        await pages.end_one()
    mine = pages.order[4:].count("b/x")
    await pages.end_all(tasks)
    assert 18 <= mine <= 24


async def test_a_tenant_of_one_letter_after_another_does_not_starve_a_book() -> None:
    """Who comes back with a new letter each time one is read gets every second turn, not every one."""
    pages = Pages(1)
    tasks = pages.submit("a/book", 40)
    for number in range(20):
        tasks += pages.submit(f"b/letter{number}", 1)
        await pages.end_one()
    read = pages.order.count("a/book")
    await pages.end_all(tasks)
    assert read >= 9


async def test_priorities_share_a_tenants_turns_16_to_4_to_1() -> None:
    """High goes first and most, and low still gets on: none stands still until its limit."""
    pages = Pages(1)
    tasks = [page for job in ("low?", "normal", "high!") for page in pages.submit(job, 200)]
    for _ in range(84):
        await pages.end_one()
    counts = [pages.order[1:].count(job) for job in ("high!", "normal", "low?")]
    await pages.end_all(tasks)
    assert counts == pytest.approx([64, 16, 4], abs=2)


async def test_a_high_letter_gets_the_next_slot_before_ten_books_of_its_tenant() -> None:
    """And four of five that follow, until it is read."""
    pages = Pages(2)
    tasks = [page for number in range(10) for page in pages.submit(f"book{number}", 50)]
    await settled()
    tasks += pages.submit("letter!", 3)
    for _ in range(4):
        await pages.end_one()
    assert pages.order[2] == "letter!"
    assert pages.order[2:6].count("letter!") == 3
    await pages.end_all(tasks)


async def test_handing_out_looks_at_no_page() -> None:
    """64 jobs of 1,000 pages cost no more a page than 64 jobs of 10, within three times."""

    async def seconds(pages_each: int) -> float:
        pages = Pages(4)
        tasks = [page for number in range(64) for page in pages.submit(f"{number % 8}/{number}", pages_each)]
        await settled()
        started_at = time.perf_counter()
        for _ in range(300):
            await pages.end_one()
        took = time.perf_counter() - started_at
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return took

    assert await seconds(1_000) < 3 * await seconds(10)
