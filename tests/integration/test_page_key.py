"""The web page of a service with API keys, in a browser; the service is served without a cluster."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from ingest.settings import Settings
from ingest.stores import Stores
from tests.browser import DESKTOP, Visitor, chromium
from tests.integration.web import API_KEYS, KEYS, Web, serving


@pytest.fixture
def url(stores: Stores, settings: Settings) -> Iterator[str]:
    """Where a service with two tenants answers; the first one has a document."""
    web = Web(stores, settings.model_copy(update={"api_keys": API_KEYS}))
    web.ingest("the merger with initech", tenant="acme")
    with serving(web) as address:
        yield address


def test_the_page_asks_for_a_key_and_shows_what_it_opens(url: str) -> None:
    """Asked at once; a wrong key is said to be wrong; the right one opens its tenant's jobs until it is forgotten."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
        person = Visitor(context.new_page(), url)
        page = person.page
        page.goto(url)
        dialog = page.locator("#key")
        expect(dialog).to_be_visible()
        page.fill("#key-value", "fanfold_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_contain_text("did not accept")
        page.fill("#key-value", KEYS["acme"])
        page.get_by_role("button", name="Use this key").click()
        expect(dialog).to_be_hidden()
        expect(page.locator("#service")).to_contain_text("acme")
        expect(page.locator("#jobs")).to_contain_text("the merger with initech")
        assert KEYS["acme"] not in page.content()
        page.reload()
        expect(page.locator("#jobs")).to_contain_text("the merger with initech")
        page.get_by_role("button", name="Forget API key").click()
        expect(dialog).to_be_visible()
        page.fill("#key-value", KEYS["globex"])
        page.keyboard.press("Enter")
        expect(page.locator("#service")).to_contain_text("globex")
        assert "initech" not in page.locator("body").inner_text()
        assert [said for said in person.complaints if "status of 401" not in said] == []
        context.close()
