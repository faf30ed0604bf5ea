"""PDFs through MuPDF: open one, say how each page's text is won, read text layers, render pages for OCR.

MuPDF is native code that reads hostile files: callers run this in a worker process with a time limit around it.
Lengths are points (1/72 inch) unless their name says pixels. Page numbers count from 1.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import pymupdf
from numpy.typing import NDArray

from ingest.errors import CorruptPdf, EmptyFile, EncryptedPdf, NoPages, NotAPdf, PageUnreadable, TooManyPages
from ingest.model import Page, Route
from ingest.stages.layout import normalise
from ingest.stages.marks import Mark, Word

MAX_SIDE_PIXELS = 4_000  # PaddleOCR shrinks anything longer
MAX_IMAGE_PIXELS = 256_000_000  # an embedded image beyond this is not decoded
MAX_JPX_PIXELS = 64_000_000  # nor a JPEG 2000 beyond this: decoding takes 15 bytes a pixel, where others are subsampled

_HEADER_WITHIN = 1024  # bytes: readers accept a PDF header that begins within the first kilobyte
_PAGE_IMAGE_COVER = 0.6  # a picture over this share of a page makes it a scan, unless there is text to read
_FULL_COVER = 0.95  # an opaque picture over this share hides what was drawn before it
_LITTLE_TEXT = 50  # characters: a page number, a stamp, a figure's labels
_STRANGE_SHARE = 0.1  # characters without a meaning; a few are bullets from a symbol font
_WORD_SHARE = 0.5  # letters, marks, digits and emoji among the characters; leaders counted once

_MuPdf: TypeAlias = Any  # PyMuPDF's own annotations cover a part of it
_Box: TypeAlias = tuple[float, float, float, float]  # x0 y0 x1 y1
_Drawn: TypeAlias = list[tuple[str, _Box]]  # what is drawn, in order, and where
_mupdf: _MuPdf = pymupdf

_NO_MEMORY = (MemoryError, _mupdf.mupdf.FzErrorSystem)
_MUPDF_ERRORS = (_mupdf.mupdf.FzErrorBase, RuntimeError, ValueError, IndexError)
_TEXT_FLAGS = (
    pymupdf.TEXT_PRESERVE_LIGATURES
    | pymupdf.TEXT_PRESERVE_WHITESPACE
    | pymupdf.TEXT_MEDIABOX_CLIP
    | pymupdf.TEXT_PARAGRAPH_BREAK
)
_SHOWN = _mupdf.mupdf.FZ_STEXT_FILLED | _mupdf.mupdf.FZ_STEXT_STROKED
_PAINTED = {"fill-text", "stroke-text"}
_NOT_PAINTED = "ignore-text"  # how OCR layers are drawn
_CID = re.compile(r"\(cid:\d+\)")
_LEADER = re.compile(r"([.\-_·•…=*~])(?:\s*\1)+")  # dots to a page number, rules of dashes

_BROKEN_PAGE = "This page is damaged and cannot be read."

_mupdf.TOOLS.mupdf_display_errors(False)
_mupdf.TOOLS.mupdf_display_warnings(False)


class Pdf:
    """An open PDF; a context manager, for one thread. Opened once per worker and document."""

    def __init__(self, document: _MuPdf) -> None:
        self.document = document
        self.page_count: int = document.page_count

    @classmethod
    def open(cls, data: bytes | Path, *, max_pages: int) -> Self:
        """Open a PDF that needs no password, and has one to `max_pages` pages.

        Raises EmptyFile, NotAPdf, EncryptedPdf, CorruptPdf, NoPages or TooManyPages, with messages for its owner, and
        OSError where a path cannot be read.
        """
        content = data if isinstance(data, bytes) else data.read_bytes()
        if not content:
            raise EmptyFile("The file is empty. Check that it was saved completely, and send it again.")
        if b"%PDF-" not in content[:_HEADER_WITHIN]:
            raise NotAPdf("The file is not a PDF, whatever its name says. Export it as PDF and send that.")
        try:
            document = _mupdf.open(stream=content, filetype="pdf")
            if document.needs_pass:
                document.close()
                raise EncryptedPdf("The PDF is protected by a password. Save a copy without one, and send that.")
            pdf = cls(document)
        except (*_MUPDF_ERRORS, MemoryError) as error:
            raise CorruptPdf(
                "The PDF is damaged and could not be repaired. Export it again from its source, and send that."
            ) from error
        pdf._check_page_count(max_pages)
        return pdf

    def _check_page_count(self, max_pages: int) -> None:
        if 1 <= self.page_count <= max_pages:
            return
        repaired = self.document.is_repaired
        self.close()
        if self.page_count > max_pages:
            raise TooManyPages(
                f"The PDF has {self.page_count} pages; at most {max_pages} are accepted. Split it, and send the parts."
            )
        if repaired:
            raise CorruptPdf("The PDF is damaged: no page in it could be recovered. Export it again, and send that.")
        raise NoPages("The PDF has no pages. Check that its export went through, and send it again.")

    def close(self) -> None:
        """Give the document's memory back; a second time does nothing."""
        if not self.document.is_closed:
            self.document.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def inspect(pdf: Pdf, page_number: int) -> Page:
    """The page with the route its text is won by and, on Route.TEXT alone, the text itself, normalised.

    A broken page is Route.UNREADABLE. Nothing is rendered, no image decoded. Raises MemoryError.
    """
    try:
        with _page_errors(page_number):
            return _classify(_load(pdf, page_number), page_number)
    except PageUnreadable as error:
        return Page(page_number, Route.UNREADABLE, "", error.message)


def render(pdf: Pdf, page_number: int, *, dpi: int, max_pixels: int) -> NDArray[np.uint8]:
    """The page as people see it (rotated, cropped, with annotations): an array (height, width, 3), blue green red.

    At `dpi` dots an inch, or as many fewer as keep it within `max_pixels` pixels and 4,000 pixels a side; the limits
    hold before anything is allocated. Raises PageUnreadable or MemoryError.
    """
    page = _load(pdf, page_number)
    try:
        with _page_errors(page_number):
            _refuse_huge_images(page, page_number)
            matrix = _scale(page.rect, dpi, max_pixels)
            pixmap = page.get_pixmap(matrix=matrix, colorspace=_mupdf.csRGB, alpha=False)
            rows = np.frombuffer(pixmap.samples_mv, dtype=np.uint8).reshape(pixmap.height, pixmap.stride)
            image = rows[:, : pixmap.width * 3].reshape(pixmap.height, pixmap.width, 3)
            return np.ascontiguousarray(image[:, :, ::-1])
    finally:
        _mupdf.TOOLS.store_shrink(100)  # decoded images: up to 256 MB that the next page has no use for


def text_words(pdf: Pdf, page_number: int) -> list[Word]:
    """The words of the visible text layer, in the order in which `inspect` reads them.

    Boxes are those of the page as `render` shows it; a word that was cropped away has an empty one. Raises
    PageUnreadable or MemoryError.
    """
    page = _load(pdf, page_number)
    with _page_errors(page_number):
        kinds = {kind for kind, _ in page.get_bboxlog()}
        if kinds.isdisjoint(_PAINTED):
            return []
        blocks = _text_blocks(page.get_text("rawdict", flags=_TEXT_FLAGS)["blocks"])
        lines = [line["spans"] for block in blocks for line in block["lines"]]
        if _NOT_PAINTED in kinds:
            lines = [[span for span in line if _is_shown(span)] for line in lines]
        to_image = page.rotation_matrix * _mupdf.Matrix(1 / page.rect.width, 1 / page.rect.height)
        return [word for number, line in enumerate(lines) for word in _words(line, number, to_image)]


@contextmanager
def _page_errors(page_number: int) -> Iterator[None]:
    """What MuPDF's errors say of a page; running out of memory says nothing, for there are limits: `MemoryError`."""
    try:
        yield
    except _NO_MEMORY as error:
        raise MemoryError(str(error)) from error
    except _MUPDF_ERRORS as error:
        raise PageUnreadable(_BROKEN_PAGE, page_number=page_number) from error


def _load(pdf: Pdf, page_number: int) -> _MuPdf:
    _mupdf.TOOLS.reset_mupdf_warnings()  # what is left there afterwards is this page's
    with _page_errors(page_number):
        page = pdf.document.load_page(page_number - 1)
    if page.rect.is_empty or page.rect.is_infinite:
        raise PageUnreadable("This page has no area.", page_number=page_number)
    return page


def _scale(rect: _MuPdf, dpi: int, max_pixels: int) -> _MuPdf:
    """The matrix that renders `rect` within every limit."""
    zoom = min(
        dpi / 72, math.sqrt(max_pixels / (rect.width * rect.height)), MAX_SIDE_PIXELS / max(rect.width, rect.height)
    )
    while True:
        pixels = (rect * _mupdf.Matrix(zoom, zoom)).irect
        if pixels.width * pixels.height <= max_pixels and max(pixels.width, pixels.height) <= MAX_SIDE_PIXELS:
            return _mupdf.Matrix(zoom, zoom)
        zoom *= 0.999  # whole pixels round up


def _refuse_huge_images(page: _MuPdf, page_number: int) -> None:
    """Raise PageUnreadable if an image that the page draws is declared too large; none is decoded to find out."""
    large = {(image["width"], image["height"]) for image in page.get_image_info()}
    large = {(width, height) for width, height in large if width * height > MAX_JPX_PIXELS}
    if not large:
        return
    jpx = {(width, height) for _, _, width, height, *_, name, _ in page.get_images(full=True) if name == "JPXDecode"}
    for width, height in large:
        if width * height > MAX_IMAGE_PIXELS or (width, height) in jpx:
            raise PageUnreadable(
                f"This page holds an image of {width} x {height} pixels, which is too large to decode.",
                page_number=page_number,
            )


def _classify(page: _MuPdf, page_number: int) -> Page:
    drawn: _Drawn = page.get_bboxlog()
    kinds = {kind for kind, _ in drawn}
    paragraphs = _text_layer(page, kinds)
    if not "".join(paragraphs).strip() and not any(map(_leaves_a_mark, drawn)):
        if _mupdf.TOOLS.mupdf_warnings():  # empty because its object or content is missing, or could not be decoded
            raise PageUnreadable(_BROKEN_PAGE, page_number=page_number)
        return Page(page_number, Route.BLANK, "", "nothing visible is drawn")
    reason = _why_ocr(page, drawn, kinds, paragraphs)
    if reason:
        _refuse_huge_images(page, page_number)
        return Page(page_number, Route.OCR, "", reason)
    return Page(page_number, Route.TEXT, normalise(paragraphs))


def _leaves_a_mark(entry: tuple[str, _Box]) -> bool:
    """Whether something drawn can be seen: spaces have no height, and an OCR layer is not painted."""
    kind, (x0, y0, x1, y1) = entry
    return kind != _NOT_PAINTED and x1 > x0 and y1 > y0


def _text_layer(page: _MuPdf, kinds: set[str]) -> list[str]:
    """The visible text, a block an entry, with its line breaks."""
    if kinds.isdisjoint(_PAINTED):
        return []
    if _NOT_PAINTED not in kinds:
        return [block[4] for block in page.get_text("blocks", flags=_TEXT_FLAGS)]
    blocks = _text_blocks(page.get_text("dict", flags=_TEXT_FLAGS)["blocks"])
    return ["\n".join(_visible(line) for line in block["lines"]) for block in blocks]


def _text_blocks(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The blocks that hold lines: MuPDF puts what it takes for a heading into a block of its own."""
    for block in blocks:
        if "lines" in block:
            yield block
        yield from _text_blocks(block.get("blocks", []))


def _visible(line: dict[str, Any]) -> str:
    return "".join(span["text"] for span in line["spans"] if _is_shown(span))


def _is_shown(span: dict[str, Any]) -> bool:
    return bool(span["char_flags"] & _SHOWN)


def _words(spans: list[dict[str, Any]], line: int, to_image: _MuPdf) -> Iterator[Word]:
    """The words of a line's spans. `to_image` takes points on the unrotated page to shares of the image's sides."""
    characters = (character for span in spans for character in span["chars"])
    for is_space, group in groupby(characters, key=lambda character: character["c"].isspace()):
        if is_space:
            continue
        word = list(group)
        lefts, tops, rights, bottoms = zip(*(character["bbox"] for character in word), strict=True)
        box = _mupdf.Rect(min(lefts), min(tops), max(rights), max(bottoms)) * to_image
        yield Word("".join(character["c"] for character in word), Mark.between(*box), line)


def _why_ocr(
    page: _MuPdf,
    drawn: _Drawn,
    kinds: set[str],
    paragraphs: list[str],
) -> str:
    """Why the text layer will not do, in words; empty when it will."""
    text = "".join(paragraphs)
    length = len("".join(text.split()))
    pictured = _pictured_share(page, drawn) if kinds & {"fill-image", "fill-imgmask"} else 0.0
    if not length:
        return _why_no_text(kinds, pictured)
    if length < _LITTLE_TEXT and pictured >= _PAGE_IMAGE_COVER:
        return "little text on a page-size image"
    if _is_garbage(text):
        return "garbage text layer"
    if pictured >= _FULL_COVER and _is_text_hidden(page, drawn):
        return "text hidden under a page-size image"
    return ""


def _why_no_text(kinds: set[str], pictured: float) -> str:
    if _NOT_PAINTED in kinds and pictured:
        return "invisible text over an image"
    if pictured:
        return "no text layer"
    return "garbage text layer" if kinds & _PAINTED else "text drawn as shapes"


def _pictured_share(page: _MuPdf, drawn: _Drawn) -> float:
    """How much of the page images cover, 0 to 1; where they overlap, they count twice."""
    width, height = page.rect.width, page.rect.height
    if page.rotation in {90, 270}:
        width, height = height, width
    covered = 0.0
    for kind, (x0, y0, x1, y1) in drawn:
        if kind in {"fill-image", "fill-imgmask"}:
            covered += max(0.0, min(x1, width) - max(x0, 0.0)) * max(0.0, min(y1, height) - max(y0, 0.0))
    return float(min(1.0, covered / (width * height)))


def _is_text_hidden(page: _MuPdf, drawn: _Drawn) -> bool:
    """Whether every text was drawn before the last of the images, none of which is transparent."""
    last_text = max(index for index, (kind, _) in enumerate(drawn) if kind in _PAINTED)
    if _pictured_share(page, [entry for entry in drawn[last_text:] if entry[0] == "fill-image"]) < _FULL_COVER:
        return False
    return not any(soft_mask for _, soft_mask, *_ in page.get_images())


def _is_garbage(text: str) -> bool:
    """Whether the characters cannot be what the page shows: its fonts do not say what their glyphs mean."""
    characters = Counter(_LEADER.sub(r"\1", _CID.sub("�", text)))
    classes: Counter[str] = Counter()
    for character, count in characters.items():
        classes[_character_class(character)] += count
    total = classes.total() - classes["space"]
    return classes["strange"] > _STRANGE_SHARE * total or classes["word"] < _WORD_SHARE * total


@cache
def _character_class(character: str) -> str:
    if character.isspace():
        return "space"
    category = unicodedata.category(character)
    if character == "�" or category in {"Cc", "Co", "Cs", "Cn"}:
        return "strange"
    return "word" if category[0] in "LMN" or category == "So" else "other"
