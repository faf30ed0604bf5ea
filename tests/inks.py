"""Pages in two inks: red for what should be marked, black for the rest; marks are held against the pixels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pymupdf
from numpy.typing import NDArray

from ingest.stages.marks import Mark

_mupdf: Any = pymupdf
Line = tuple[float, float, str]  # where its baseline begins, in points, and what it says
Mask = NDArray[np.bool_]
RED, BLACK = (1, 0, 0), (0, 0, 0)


def two_inks(
    red: Iterable[Line],
    black: Iterable[Line] = (),
    *,
    prepare: Callable[[Any], object] = lambda page: None,
    font_size: float = 12,
) -> bytes:
    """A PDF of one A4 page with these lines; the red ones are drawn first. `prepare` crops or turns the page."""
    document = _mupdf.open()
    page = document.new_page(width=595, height=842)
    for lines, colour in ((red, RED), (black, BLACK)):
        for x, y, text in lines:
            page.insert_text((x, y), text, fontsize=font_size, color=colour)
    prepare(page)
    data: bytes = document.tobytes()
    return data


def red_and_black(image: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Which pixels of a page (blue green red) are red ink, and which are black."""
    blue, red = image[:, :, 0] < 128, image[:, :, 2] < 128
    return blue & ~red, blue & red


def covered(marks: Sequence[Mark], shape: tuple[int, ...]) -> Mask:
    """Which pixels of an image of this height and width lie in the marks; a pixel that a mark cuts does."""
    height, width = shape[:2]
    mask = np.zeros((height, width), dtype=np.bool_)
    for mark in marks:
        rows = slice(int(mark.y * height), int(np.ceil((mark.y + mark.height) * height)))
        columns = slice(int(mark.x * width), int(np.ceil((mark.x + mark.width) * width)))
        mask[rows, columns] = True
    return mask


def share(ink: Mask, marked: Mask) -> float:
    """How much of the ink is marked, 0 to 1."""
    assert ink.any()
    return float((ink & marked).sum() / ink.sum())
