"""A person at the web page, by way of a browser (Playwright): what they do, and what the browser complained about."""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request, expect, sync_playwright

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
JOB_MS = 120_000
IMAGE_MS = 30_000  # the first in a service waits for a process to start
DESKTOP = (1280, 800)
PHONE = (360, 740)
MOST_TABS = 60  # key presses before something counts as out of the keyboard's reach
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`);
});
"""
IS_OUTLINED = """
(element) => ["", "::after"].some((part) => getComputedStyle(element, part || null).outlineStyle === "solid")
"""
DROP = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "application/pdf" }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  }
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium if it has one, else the one that Playwright has installed; headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody who has the page open.

    `complaints` holds errors of the console, violated policies, opened dialogs and requests to anywhere else. All of
    them are wrong, but where a test provokes an answer that is an error: browsers write these to the console.
    """

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.add_init_script(REPORT_VIOLATIONS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._watch)
        self.page.on("filechooser", lambda _: None)  # a first listener takes effect only a moment after it is added

    def arrive(self) -> None:
        """Open the page and wait until it has heard from the service."""
        answer = self.page.goto(self.url)
        assert answer is not None
        assert answer.ok
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        expect(self.page.locator("#service")).to_contain_text("version")

    def choose(self, *paths: Path) -> None:
        """Choose files as the button's dialog would."""
        self.page.set_input_files("#files", list(paths))

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file onto the page."""
        self.page.evaluate(DROP, [name, base64.b64encode(content).decode()])

    def job(self, filename: str) -> Locator:
        """The newest job of that file."""
        title = self.page.get_by_text(filename, exact=True)
        return self.page.locator("#jobs > .job").filter(has=title).first

    def await_state(self, filename: str, state: str) -> Locator:
        """Wait for the file's newest job to show this state."""
        job = self.job(filename)
        expect(job.locator(".badge")).to_have_text(state, timeout=JOB_MS)
        return job

    def await_end(self, filename: str) -> Locator:
        """Wait for the file's newest job to end, however it does."""
        job = self.job(filename)
        expect(job.locator(".badge")).to_have_text(re.compile("succeeded|failed|cancelled"), timeout=JOB_MS)
        return job

    def action(self, card: Locator, name: str) -> Locator:
        """The button of a job or document: `cancel`, `retry`, `remove`, `searchIn`."""
        return card.locator(f"[data-action={name}]")

    def search(self, query: str, mode: str = "hybrid") -> Locator:
        """Search; the hits, or none."""
        self.page.check(f"input[name=mode][value={mode}]")
        self.page.fill("#query", query)
        self.page.press("#query", "Enter")
        expect(self.page.locator("#results-title")).to_contain_text(query)
        expect(self.page.locator("#search-form")).not_to_have_attribute("aria-busy", "true")
        return self.page.locator("#hits .hit")

    def open_hit(self, hit: Locator) -> Locator:
        """Open a hit and wait for its page's image; the boxes over it."""
        hit.locator(".hit-open").click()
        image = self.page.locator("#viewer .paper img")
        expect(image).to_be_visible(timeout=IMAGE_MS)
        expect(self.page.locator("#viewer .paper")).not_to_have_attribute("aria-busy", "true", timeout=IMAGE_MS)
        assert image.evaluate("image => image.naturalWidth") > 0
        return self.page.locator("#viewer .box")

    def show(self, name: str) -> None:
        """Choose the list "Jobs" or "Documents"."""
        self.page.get_by_role("tab", name=name).click()

    def tab_to(self, target: Locator) -> None:
        """Press Tab until `target` has the focus. Fails when it never gets it, or gets it without being seen."""
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                assert target.evaluate(IS_OUTLINED)
                return
        raise AssertionError(f"Tab never reaches {target}")

    def focused(self, target: Locator) -> bool:
        """Whether the element has the focus."""
        return bool(target.evaluate("element => element === document.activeElement"))

    def scrolls_sideways(self) -> bool:
        """Whether anything is wider than the window, in the page or an open dialog."""
        roots = "[document.documentElement, ...document.querySelectorAll('dialog[open]')]"
        return bool(self.page.evaluate(f"{roots}.some((root) => root.scrollWidth > innerWidth)"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _watch(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"blob", "data"} and parts.netloc != urlsplit(self.url).netloc:
            self.complaints.append(f"request to {request.url}")


@contextmanager
def visitor(browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Iterator[Visitor]:
    """Somebody with a fresh browser profile who has just arrived."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", locale="en-GB"
    )
    person = Visitor(context.new_page(), url)
    person.arrive()
    yield person
    context.close()
