"""A node that runs out of memory ends some page, not always the one that took it: only alone it is held against one."""

import pytest

from ingest.errors import NodeOutOfMemory, OutOfMemory, WorkerCrashed, WorkError
from ingest.model import JobState, PageFailure
from tests.integration.bench import Bench
from tests.integration.engines import Hook

NODE = NodeOutOfMemory("Its node ran out of memory, and the work was stopped.")
OWN = OutOfMemory("It needs more memory than FANFOLD_PAGE_MEMORY_BYTES allows.")
CRASH = WorkerCrashed("It died.")
PAGE = 4  # the bench's document has one page to OCR beside others


def ending(*ends: tuple[str, WorkError]) -> Hook:
    """The first try of the page is of the first kind and ends so, and so on; what comes after these goes well."""
    left = list(ends)

    async def before(name: str, number: int) -> None:
        if name.startswith("read_page") and number == PAGE and left:
            kind, error = left.pop(0)
            assert name == kind
            raise error

    return before


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        pytest.param([("read_page", NODE)], None, id="a neighbour took it, once"),
        pytest.param(
            [("read_page", NODE), ("read_page alone", CRASH), ("read_page", NODE)], None, id="a neighbour, and a crash"
        ),
        pytest.param([("read_page", CRASH), ("read_page", NODE)], None, id="a crash, and a neighbour"),
        pytest.param([("read_page", NODE), ("read_page alone", NODE)], None, id="its own doing, once"),
        pytest.param(
            [("read_page", NODE), ("read_page alone", NODE), ("read_page alone", NODE)],
            PageFailure.MEMORY,
            id="its own doing",
        ),
        pytest.param([("read_page", OWN), ("read_page", OWN)], PageFailure.MEMORY, id="its own limit"),
    ],
)
async def test_a_page_fails_by_memory_that_it_took_itself(
    bench: Bench, ends: list[tuple[str, WorkError]], reason: PageFailure | None
) -> None:
    """A kill counts when the page was alone on its node; it is tried so after the first one, and twice at the most."""
    bench.submit()
    ended = await bench.run(bench.claim(), ending(*ends))
    failed = [] if reason is None else [(PAGE, reason)]
    assert [(page.page_number, page.reason) for page in ended.failed_pages] == failed
    assert ended.state is (JobState.PARTIALLY_SUCCEEDED if failed else JobState.SUCCEEDED)
    assert sum(count for name, count in bench.engine.calls.items() if name.startswith("read_page")) == 3 + len(
        ends
    ) - len(failed)
    bench.assert_published_exactly(ended)


@pytest.mark.parametrize("kills", [1, 2])
async def test_an_inspection_that_was_ended_beside_others_distrusts_no_page(bench: Bench, kills: int) -> None:
    """It is done again alone; ended there too, the page that it had come to is left to OCR."""
    bench.submit()
    left = ["inspect", "inspect alone"][:kills]
    page = NodeOutOfMemory(NODE.message, page_number=1)

    async def before(name: str, _number: int) -> None:
        if left and name.startswith("inspect"):
            assert name == left.pop(0)
            raise page

    ended = await bench.run(bench.claim(), before)
    assert ended.state is JobState.SUCCEEDED
    assert bench.engine.calls["read_page"] == (3 if kills == 1 else 4)
