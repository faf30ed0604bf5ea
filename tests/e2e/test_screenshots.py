"""The README's pictures of the web page (`make screenshots`), of two samples and a PDF with a damaged page."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import JOB_MS, Visitor, chromium, visitor
from tests.clusters import Cluster
from tests.pdfs import pdf_of, with_damaged_page

PICTURES = Path(__file__).parents[2] / "docs" / "screenshots"
MOST_BYTES = 300_000
WINDOW = (1100, 760)
TALL = (1100, 1150)
QUERY = "reading the barometer"
PHONE = (390, 760)
DAMAGED = "survey of 1931.pdf"
pytestmark = [pytest.mark.screenshots, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for this module."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def works(sample_pdfs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """In the order in which they are added: the last is shown first."""
    damaged = tmp_path_factory.mktemp("pictures") / DAMAGED
    pages = pdf_of(
        [f"Triangulation station {number}: cairn on the summit, iron bolt in the rock." for number in range(1, 9)]
    )
    damaged.write_bytes(with_damaged_page(pages, page_number=5))
    return [sample_pdfs / "field-guide.pdf", damaged, sample_pdfs / "inventory.pdf"]


def test_the_pictures_of_the_readme(browser: Browser, cluster: Cluster, works: list[Path]) -> None:
    """Jobs while they run and when they are done, hits, a hit on its page, a phone, and all of it in the dark."""
    url = cluster.settings.http_url
    with visitor(browser, url, size=WINDOW) as person:
        for path in works[:2]:
            person.choose(path)
            person.await_end(path.name)
        person.choose(works[2])
        expect(person.job(works[2].name).locator(".cell[data-state=read]").nth(2)).to_be_visible(timeout=JOB_MS)
        expect(person.page.locator("#uploads")).to_be_hidden()
        failed = person.job(DAMAGED)
        failed.locator("details.pages").evaluate("pages => { pages.open = true }")  # as it is where its work was seen
        expect(failed.locator(".cell[data-state=failed]")).to_have_count(1, timeout=JOB_MS)
        failed.locator(".cell button").focus()
        person.page.set_viewport_size({"width": TALL[0], "height": TALL[1]})
        take(person, "jobs")
        person.page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
        hits = person.search(QUERY)
        take(person, "search")
        boxes = person.open_hit(hits.filter(has_text=re.compile(r"field-guide\.pdf, page \d")).first)
        expect(boxes.first).to_be_visible()
        take(person, "viewer")
    with visitor(browser, url, size=PHONE, dark=True) as person:
        expect(person.page.locator("#jobs .job").first).to_be_visible()
        person.search(QUERY)
        take(person, "phone")
    assert sorted(path.stem for path in PICTURES.glob("*.png")) == ["jobs", "phone", "search", "viewer"]


def take(person: Visitor, name: str) -> None:
    """Take a picture from the top of the page, with nothing pointed at; refuse one that is large."""
    PICTURES.mkdir(exist_ok=True)
    person.page.mouse.move(0, 0)
    person.page.evaluate("scrollTo(0, 0)")
    path = PICTURES / f"{name}.png"
    person.page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size < MOST_BYTES, f"{name} is too large for a README"
    assert person.complaints == []
