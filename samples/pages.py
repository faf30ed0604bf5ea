"""The sample works as data: which pages they have, and exactly what each page says."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

TEXTS_DIR: Final = Path(__file__).parent / "texts"
_PAGE_BREAK: Final = "\n---\n"


class PageKind(Enum):
    """How a page is put into its PDF file."""

    TEXT = "text"
    """Real text with a running footer; nothing to recognise."""

    SCAN = "scan"
    """One full-page image and no text at all."""

    SCAN_WITH_GARBAGE = "scan-with-garbage"
    """One full-page image under an invisible text layer that is wrong throughout."""


class Level(Enum):
    """The typographic role of a block."""

    TITLE = "# "
    SECTION = "## "
    BODY = ""
    FOOTER = "footer"


@dataclass(frozen=True)
class Block:
    """One heading, paragraph or footer."""

    level: Level
    text: str


@dataclass(frozen=True)
class Page:
    """One printed page: its blocks in reading order, a footer (if any) last."""

    kind: PageKind
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """Everything that is printed on the page and nothing else, blocks one blank line apart."""
        return "\n\n".join(block.text for block in self.blocks)


@dataclass(frozen=True)
class Work:
    """One sample document; `kinds` has one entry for each page of its source text."""

    name: str
    title: str
    kinds: tuple[PageKind, ...]

    @property
    def source(self) -> Path:
        """The file that holds the text of the work."""
        return TEXTS_DIR / f"{self.name}.md"


WORKS: Final = (
    Work("field-guide", "The Lighthouse Keeper's Handbook", (PageKind.TEXT,) * 24),
    Work("letters", "Letters from the Survey", (PageKind.SCAN,) * 7),
    Work(
        "inventory",
        "Inventory of Harrow House",
        (
            PageKind.TEXT,
            PageKind.SCAN,
            PageKind.TEXT,
            PageKind.SCAN_WITH_GARBAGE,
            PageKind.TEXT,
            PageKind.SCAN,
        ),
    ),
)


def find_work(name: str) -> Work:
    """Return the work called `name`, such as `letters`; raise KeyError if there is none."""
    for work in WORKS:
        if work.name == name:
            return work
    raise KeyError(name)


def load_pages(work: Work) -> tuple[Page, ...]:
    """Read the pages of `work`; raise ValueError unless there is one for each of its kinds."""
    sources = work.source.read_text(encoding="ascii").split(_PAGE_BREAK)
    if len(sources) != len(work.kinds):
        message = f"{work.source} has {len(sources)} pages, expected {len(work.kinds)}"
        raise ValueError(message)
    pages = []
    for number, (kind, source) in enumerate(zip(work.kinds, sources, strict=True), start=1):
        blocks = [_parse_block(part) for part in source.strip().split("\n\n")]
        if kind is PageKind.TEXT:
            blocks.append(Block(Level.FOOTER, f"{work.title}, page {number}"))
        pages.append(Page(kind, tuple(blocks)))
    return tuple(pages)


def page_texts(name: str) -> list[str]:
    """Return the exact text printed on each page of the work `name`, first page first.

    Words and their order are exact; line breaks are not, so compare after collapsing whitespace.
    """
    return [page.text for page in load_pages(find_work(name))]


def _parse_block(source: str) -> Block:
    for level in (Level.SECTION, Level.TITLE):
        if source.startswith(level.value):
            return Block(level, source.removeprefix(level.value))
    return Block(Level.BODY, source)
