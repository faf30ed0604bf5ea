"""The web page in a browser. Set FANFOLD_TEST_URL to try it on a service that runs already, with kept sources."""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser import IMAGE_MS, JOB_MS, PHONE, Visitor, chromium, visitor
from tests.clusters import Cluster
from tests.pdfs import SCAN, pdf_of

PAGES_TO_CANCEL = 200
STREAM = (
    ": ping\r\n\r\nid: 1\r\nevent: state\r\ndata: {\r\ndata: }\r\n\r\n"
    "event: progress\ndata:ü: 2\n\nid: 3\ndata: unfinished"
)
READ_STREAM = """
async ([text, step]) => {
  const { eventsOf } = await import("/page/events.js");
  const bytes = new TextEncoder().encode(text);
  const body = new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += step) controller.enqueue(bytes.slice(at, at + step));
      controller.close();
    },
  });
  const events = [];
  for await (const { id, event, data } of eventsOf(body)) events.push([id, event, data]);
  return events;
}
"""
HOSTILE_NAME = "<img src=x onerror=alert(1)> {word}.pdf"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for this module; closed with it, since it runs an event loop that other tests must not meet."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> str:
    """Where the page is."""
    given = os.environ.get("FANFOLD_TEST_URL")
    if given:
        return given
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.settings.http_url


@pytest.fixture
def person(browser: Browser, url: str) -> Iterator[Visitor]:
    """Somebody at a desktop, whose browser has nothing to complain about in the end."""
    with visitor(browser, url) as somebody:
        yield somebody
        assert somebody.complaints == []


@pytest.fixture
def word() -> str:
    """A word that no other document has."""
    return "zeugma" + uuid.uuid4().hex.translate(str.maketrans("0123456789", "ghijklmnop"))


@pytest.fixture
def letter(tmp_path: Path, word: str) -> Path:
    """A PDF of three pages; the word is on the second."""
    path = tmp_path / f"a letter {word}.pdf"
    path.write_bytes(pdf_of(["The harbour is calm.", f"The {word} came at noon.", "Nothing else happened."]))
    return path


def test_a_document_is_added_watched_found_and_seen(person: Visitor, letter: Path, word: str) -> None:
    """Chosen, accepted, live to the end, its pages told; found by its word, marked in the text and in the image."""
    person.choose(letter)
    job = person.await_state(letter.name, "succeeded")
    expect(job.locator(".facts")).to_contain_text("3 pages")
    if job.locator("details[open]").count() == 0:
        job.locator("summary").click()
    expect(job.locator(".cell[data-state=read]")).to_have_count(3)
    hits = person.search(word, mode="lexical")
    expect(hits).to_have_count(1)
    assert word in hits.locator("mark").first.inner_text().lower()
    boxes = person.open_hit(hits)
    viewer = person.page.locator("#viewer")
    while boxes.count() == 0:  # the hit may begin on the page before the one that holds the word
        viewer.get_by_role("button", name="Next page").click(timeout=2_000)
        expect(viewer.locator(".paper:not([aria-busy]) img")).to_be_visible(timeout=IMAGE_MS)
    box, paper = boxes.first.bounding_box(), viewer.locator(".paper").bounding_box()
    assert box is not None
    assert paper is not None
    assert paper["x"] <= box["x"] < box["x"] + box["width"] <= paper["x"] + paper["width"] + 1
    assert 0 < box["height"] < paper["height"] / 2
    expect(person.page.locator("#viewer-text")).to_contain_text(word)
    expect(person.page.locator("#viewer-text mark")).to_have_count(1)  # in a text of three paragraphs


def test_a_job_is_cancelled(person: Visitor, tmp_path: Path, word: str) -> None:
    """A long job shows its progress while it runs; Cancel ends it, Retry goes on; nothing is reloaded."""
    path = tmp_path / f"slow {word}.pdf"
    path.write_bytes(pdf_of([word] + [SCAN] * PAGES_TO_CANCEL))
    person.choose(path)
    job = person.await_state(path.name, "running")
    expect(job.locator(".facts")).to_contain_text(f"of {PAGES_TO_CANCEL + 1} pages", timeout=JOB_MS)
    expect(job.locator(".cell")).to_have_count(PAGES_TO_CANCEL + 1, timeout=JOB_MS)
    person.action(job, "cancel").click()
    person.await_state(path.name, "cancelled")
    expect(person.action(job, "retry")).to_be_visible()
    assert not person.action(job, "cancel").is_visible()
    assert job.evaluate("card => card.contains(document.activeElement)")
    person.action(job, "retry").click()
    both = person.page.locator("#jobs > .job").filter(has_text=path.name)
    expect(both).to_have_count(2)
    expect(both.first).to_have_attribute("data-state", re.compile("queued|running"), timeout=JOB_MS)
    person.action(both.first, "cancel").click()
    expect(both.first).to_have_attribute("data-state", "cancelled", timeout=JOB_MS)


def test_a_document_is_deleted_only_after_a_yes(person: Visitor, letter: Path, word: str) -> None:
    """The answer "Keep it" keeps it; "Delete" takes it from the list and from the results at once."""
    person.choose(letter)
    person.await_state(letter.name, "succeeded")
    expect(person.search(word, mode="lexical")).to_have_count(1)
    person.show("Documents")
    document = person.page.locator("#documents > .document").filter(has_text=letter.name)
    person.action(document, "remove").click()
    person.page.get_by_role("button", name="Keep it").click()
    expect(document).to_have_count(1)
    person.action(document, "remove").click()
    person.page.locator("#confirm-yes").click()
    expect(document).to_have_count(0)
    expect(person.page.locator("#hits .hit")).to_have_count(0)
    expect(person.page.locator("#results-title")).to_contain_text("Nothing found")
    assert person.search(word, mode="lexical").count() == 0
    person.show("Jobs")
    job = person.job(letter.name)
    expect(job.locator(".facts")).to_contain_text("its document was deleted")
    assert job.locator(".actions button:visible").count() == 0


def test_an_upload_is_stopped(person: Visitor, letter: Path) -> None:
    """One that does not get on is not in the way: it is broken off, and its row goes."""
    person.page.route("**/v1/documents", lambda _route: None)  # the service says nothing
    person.choose(letter)
    row = person.page.locator("#uploads .upload")
    expect(row).to_contain_text(letter.name)
    row.get_by_role("button", name="Stop").click()
    expect(person.page.locator("#uploads")).to_be_hidden()
    assert row.count() == 0


def test_an_upload_that_is_stopped_while_it_waits_for_a_key_is_not_sent_after_all(
    browser: Browser, url: str, letter: Path
) -> None:
    """The key comes later: what was stopped before stays stopped, and the keyboard keeps its place."""
    sent: list[str] = []

    def refuse(route: Route) -> None:
        sent.append(route.request.method)
        route.fulfill(status=401, content_type="application/problem+json", body="{}")

    with visitor(browser, url) as person:
        page = person.page
        page.route("**/v1/documents", refuse)
        person.choose(letter)
        page.click("#key-no")
        page.locator("#uploads .upload").get_by_role("button", name="Stop").click()
        page.click("#enter-key")
        page.fill("#key-value", "a-key")
        page.press("#key-value", "Enter")
        expect(page.locator("#enter-key")).to_be_hidden()
        expect(page.locator("#forget-key")).to_be_focused()
        page.wait_for_timeout(300)
        assert sent == ["POST"]


def test_a_search_is_grouped_and_narrowed_to_a_document(person: Visitor, tmp_path: Path, word: str) -> None:
    """Grouped, each document's name heads its hits; "Search in this" leaves the others out."""
    paths = [tmp_path / f"{name} {word}.pdf" for name in ("one", "two")]
    for path in paths:
        path.write_bytes(pdf_of([f"{word} in {path.stem}"]))
    person.choose(*paths)
    for path in paths:
        person.await_state(path.name, "succeeded")
    expect(person.search(word, mode="lexical")).to_have_count(2)
    person.page.get_by_label("Group by document").check()
    expect(person.page.locator("#hits .group")).to_have_count(2)
    person.action(person.job(paths[0].name), "searchIn").click()
    expect(person.page.locator("#hits .group")).to_have_count(1)
    assert paths[0].name in person.page.locator("#hits .group h4").inner_text()
    person.page.get_by_role("button", name="Search in all documents").click()
    expect(person.page.locator("#hits .group")).to_have_count(2)


def test_a_hostile_file_is_harmless(person: Visitor, word: str) -> None:
    """A name and a text that are markup are shown as what they are; nothing of them runs."""
    name = HOSTILE_NAME.format(word=word)
    person.drop(name, pdf_of([f"<script>alert(2)</script> {word} <img src=x onerror=alert(3)>"]))
    job = person.await_state(name, "succeeded")
    assert job.locator("h3").inner_text() == name
    hits = person.search(word, mode="lexical")
    expect(hits.first.locator(".hit-open")).to_contain_text(name)
    assert "<script>alert(2)</script>" in hits.first.locator(".snippet").inner_text()
    person.open_hit(hits.first)
    expect(person.page.locator("#viewer-title")).to_have_text(name)
    expect(person.page.locator("#viewer-text")).to_contain_text("onerror=alert(3)")
    person.page.keyboard.press("Escape")
    person.show("Documents")
    expect(person.page.locator("#documents h3").first).to_have_text(name)
    assert person.page.locator("#jobs img, #documents img, #hits img, #hits script").count() == 0


def test_a_phone_never_scrolls_sideways(browser: Browser, url: str, tmp_path: Path, word: str) -> None:
    """At 360 pixels: lists, a name of 140 characters without a space, results, viewer, confirmation."""
    path = tmp_path / f"{word}{'x' * 100}.pdf"
    path.write_bytes(pdf_of([f"{word} {'y' * 90}"]))
    with visitor(browser, url, size=PHONE) as person:
        assert not person.scrolls_sideways()
        person.choose(path)
        job = person.await_state(path.name, "succeeded")
        assert not person.scrolls_sideways()
        hits = person.search(word, mode="lexical")
        expect(hits).to_have_count(1)
        assert not person.scrolls_sideways()
        person.open_hit(hits)
        assert not person.scrolls_sideways()
        person.page.locator("#viewer-close").click()
        person.action(job, "remove").click()
        expect(person.page.locator("#confirm")).to_be_visible()
        assert not person.scrolls_sideways()
        assert person.complaints == []


def test_the_keyboard_alone_is_enough(person: Visitor, letter: Path, word: str) -> None:
    """`/` to the search, Enter to a hit, Escape back to it, arrows between lists, Tab to Delete, Enter for yes."""
    page = person.page
    person.tab_to(page.locator("#choose"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(letter)
    person.await_state(letter.name, "succeeded")
    page.keyboard.press("/")
    assert person.focused(page.locator("#query"))
    page.keyboard.type(word)
    page.keyboard.press("Enter")
    expect(page.locator("#results-title")).to_be_focused()
    hit = page.locator(".hit-open").first
    person.tab_to(hit)
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-close")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    assert person.focused(hit)
    person.tab_to(page.locator("#tab-jobs"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-documents")).to_be_focused()
    document = page.locator("#documents > .document").filter(has_text=letter.name)
    person.tab_to(person.action(document, "remove"))
    page.keyboard.press("Space")
    expect(page.locator("#confirm-no")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(document).to_have_count(0)


def test_a_refused_file_says_why(browser: Browser, url: str, tmp_path: Path) -> None:
    """What is not a PDF is refused in the service's words, until dismissed; the console has only that answer."""
    path = tmp_path / "notes.pdf"
    path.write_text("just text")
    with visitor(browser, url) as person:
        person.choose(path)
        row = person.page.locator("#uploads .failed")
        expect(row).to_contain_text("not a PDF")
        row.get_by_role("button", name="Dismiss").click()
        expect(person.page.locator("#uploads")).to_be_hidden()
        assert all("status of 400" in complaint for complaint in person.complaints)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
def test_an_event_stream_is_read_however_it_is_cut(person: Visitor, step: int) -> None:
    """WHATWG HTML, section 9.2.6: comments, both line ends, data of several lines, an unfinished last event dropped."""
    events = person.page.evaluate(READ_STREAM, [STREAM, step])
    assert events == [["1", "state", "{\n}"], ["", "progress", "ü: 2"]]


def test_a_running_job_is_followed_by_its_stream(person: Visitor, letter: Path) -> None:
    """The page asks for the job's events; without them it would look only every few seconds."""
    with person.page.expect_request("**/v1/jobs/*/events") as asked:
        person.choose(letter)
    assert asked.value.headers["accept"] == "text/event-stream"
    person.await_state(letter.name, "succeeded")
