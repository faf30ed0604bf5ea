"""Setting one page of blocks in type with the fonts built into every PDF reader."""

from dataclasses import dataclass
from typing import Final

import pymupdf

from samples.pages import Block, Level, Page

_INK: Final = (0.1, 0.1, 0.12)
_GREY: Final = (0.4, 0.4, 0.42)
_BASELINE: Final = 0.78


class PageOverflowError(ValueError):
    """The text of a page does not fit on it."""


@dataclass(frozen=True)
class Face:
    """How the blocks of one level are set; `gap` is the space above, in points."""

    font: str
    size: float
    leading: float
    gap: float
    colour: tuple[float, float, float] = _INK
    centred: bool = False


@dataclass(frozen=True)
class Style:
    """The page size and margin of a document, in points, and a face for each level."""

    width: float
    height: float
    margin: float
    faces: dict[Level, Face]


HANDBOOK: Final = Style(
    width=482,
    height=680,
    margin=62,
    faces={
        Level.TITLE: Face("tibo", 21, 1.3, 0),
        Level.SECTION: Face("tibi", 13.5, 1.3, 10),
        Level.BODY: Face("tiro", 12, 1.36, 7),
        Level.FOOTER: Face("tiit", 9, 1.2, 0, _GREY, centred=True),
    },
)
TYPEWRITTEN: Final = Style(
    width=595,
    height=842,
    margin=70,
    faces={
        Level.TITLE: Face("cobo", 17, 1.3, 0),
        Level.BODY: Face("cour", 12.5, 1.36, 13),
    },
)
LEDGER: Final = Style(
    width=595,
    height=842,
    margin=84,
    faces={
        Level.TITLE: Face("hebo", 18, 1.25, 0),
        Level.SECTION: Face("hebo", 12.5, 1.3, 8),
        Level.BODY: Face("tiro", 14, 1.45, 10),
        Level.FOOTER: Face("heit", 9, 1.2, 0, _GREY, centred=True),
    },
)


def new_document() -> pymupdf.Document:
    """Return a PDF document without pages; close it, or use it as a context manager."""
    return pymupdf.Document()  # type: ignore[no-untyped-call]


def add_page(document: pymupdf.Document, style: Style) -> pymupdf.Page:
    """Append an empty page of the size that `style` asks for."""
    page: pymupdf.Page = document.new_page(width=style.width, height=style.height)
    return page


def typeset(target: pymupdf.Page, page: Page, style: Style) -> None:
    """Print every block of `page` on `target`; raise PageOverflowError if one does not fit."""
    top = style.margin
    for block in page.blocks:
        if block.level is Level.FOOTER:
            _place(target, block, style, style.height - style.margin * 0.6, style.height)
        else:
            gap = style.faces[block.level].gap
            top = _place(target, block, style, top + gap, style.height - style.margin)


def _place(target: pymupdf.Page, block: Block, style: Style, top: float, bottom: float) -> float:
    """Print `block` below `top` and return where it ends."""
    face = style.faces[block.level]
    measure = style.width - 2 * style.margin
    for line in _wrap(block.text, face, measure):
        spare = measure - _length(line, face)
        height = face.size * face.leading
        if spare < 0 or top + height > bottom:
            message = f"no room for {line!r}"
            raise PageOverflowError(message)
        left = style.margin + (spare / 2 if face.centred else 0)
        baseline = top + height * _BASELINE
        target.insert_text(
            (left, baseline),
            line,
            fontname=face.font,
            fontsize=face.size,
            color=face.colour,
        )
        top += height
    return top


def _wrap(text: str, face: Face, measure: float) -> list[str]:
    """Break `text` at spaces only, into lines that are as full as `measure` allows."""
    lines = []
    for paragraph in text.splitlines():
        line, *words = paragraph.split(" ")
        for word in words:
            longer = f"{line} {word}"
            if _length(longer, face) <= measure:
                line = longer
            else:
                lines.append(line)
                line = word
        lines.append(line)
    return lines


def _length(text: str, face: Face) -> float:
    return pymupdf.get_text_length(text, fontname=face.font, fontsize=face.size)
