"""The web page's files keep to its content security policy: nothing inline, nothing from elsewhere, text as text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "serve" / "page"
MARKUP = (PAGE / "index.html").read_text(encoding="utf-8")
SCRIPTS = sorted(PAGE.glob("*.js"))
FILES = sorted(PAGE.iterdir())
LONGEST_FILE = 400
IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']""")
ELEMENT = re.compile(r"""byId\("([\w-]+)"\)""")
PARSES_MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|setHTML|srcdoc|document\.write|DOMParser"
    r"""|\beval\b|new Function|setTimeout\(\s*["'`]|javascript:|setAttribute\(\s*["'](?:style|on)"""
)
ELSEWHERE = re.compile(r"""(?:https?:)?//[\w.-]+\.\w|url\(|@import""")
NAMESPACE = "http://www.w3.org/2000/svg"


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text inside `script` and `style`."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep what a browser would run or apply."""
        if self.cdata_elem is not None and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def markup() -> Tags:
    """The page's tags."""
    tags = Tags()
    tags.feed(MARKUP)
    return tags


def test_the_page_uses_only_its_own_files(markup: Tags) -> None:
    """Every `src` and `href` is `/page/` and a file that is there, a place in the page itself, or the documentation."""
    used = [attributes.get("src") or attributes.get("href") for _, attributes in markup.tags]
    ids = {attributes.get("id") for _, attributes in markup.tags}
    for reference in filter(None, used):
        if reference.startswith("#"):
            assert reference[1:] in ids
        elif reference != "/docs":
            assert reference.startswith("/page/")
            assert (PAGE / reference.removeprefix("/page/")).is_file(), reference
    assert {"/page/app.js", "/page/style.css", "/page/icon.svg"} <= set(used)


def test_nothing_is_inline(markup: Tags) -> None:
    """No script or style between tags, no `style` or `on...` attribute: the policy would block them."""
    assert markup.inline == []
    for tag, attributes in markup.tags:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag


def test_ids_are_unique_and_every_one_that_is_named_is_there(markup: Tags) -> None:
    """`byId("...")`, `for`, `aria-labelledby`, `aria-describedby` and `aria-controls` find their element."""
    ids = [attributes["id"] for _, attributes in markup.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for script in SCRIPTS for name in ELEMENT.findall(script.read_text(encoding="utf-8"))}
    for _, attributes in markup.tags:
        for attribute in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            named |= set((attributes.get(attribute) or "").split())
    assert named <= set(ids)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_of_text(path: Path) -> None:
    """File names and texts are other people's: scripts set text, never markup."""
    assert PARSES_MARKUP.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_only_their_neighbours(path: Path) -> None:
    """Every import is `./name.js`, and the file is there."""
    for name in IMPORT.findall(path.read_text(encoding="utf-8")):
        assert name.startswith("./")
        assert (PAGE / name).is_file(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short_and_name_no_other_place(path: Path) -> None:
    """Under 400 lines; no address of another host (a name space of SVG is a name, not an address)."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST_FILE
    assert ELSEWHERE.findall(text.replace(NAMESPACE, "")) == []
