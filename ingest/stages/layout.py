"""From lines to text: the order in which the lines of a page are read, and the text's normal form.

The order is a recursive XY-cut (Nagy and Seth, "Hierarchical representation of optically scanned documents", ICPR
1984; on boxes instead of pixels as in Ha, Haralick and Phillips, "Recursive X-Y cut using bounding boxes of connected
components", ICDAR 1995), with one addition: a gap is a gutter between columns only where every side looks like prose.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Quads: TypeAlias = NDArray[np.number]  # (lines, 4 corners, x and y): clockwise from the top left, y downwards, any unit
_Boxes: TypeAlias = NDArray[np.float64]  # (lines, x0 y0 x1 y1), upright

_LINE_SHARE = 0.7  # of a detected box's height, its line
_GUTTER = 0.1  # least width of a gutter, in line heights: detected boxes reach into it
_ACROSS = 0.6  # share of the page's width beyond which a line belongs to no column
_PROSE_LINES = 3  # fewer lines side by side are a heading or a form, not columns
_PROSE_FILL = 0.6  # share of a column's width that its median line fills
_PROSE_WIDTH = 6.0  # least width of a column, in line heights
_PARAGRAPH_PITCH = 1.4  # lines this much further apart than usual belong to two paragraphs
_INDENT = (0.7, 5.0)  # width of a first line's indent, in line heights

_SPACE_ALIKES = [*range(0x2000, 0x200B), 0x09, 0x0B, 0x0C, 0x0D, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000]
_LIGATURES = [*range(0xFB00, 0xFB07), *range(0xFB13, 0xFB18), *range(0xFB50, 0xFDFE), *range(0xFE70, 0xFEFD)]
_NEVER_TEXT = [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), 0xFEFF, 0xFFFE, 0xFFFF, 0x200B]
_CLEAN: dict[int, str | None] = {
    **dict.fromkeys(_NEVER_TEXT, None),
    **dict.fromkeys(_SPACE_ALIKES, " "),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _LIGATURES},
    0x0A: "\n",
    0x85: "\n",
    0x2028: "\n",
    0x2029: "\n",
}
_SPACES = re.compile(r" {2,}")
_LINE_ENDS = re.compile(r" ?\n\s*")
_HYPHENATED = re.compile(r"([^\W\d_])[-\u2010]\n([^\W\d_])")
_SOFT_HYPHEN = re.compile(r"\xad(?: *\n\s*)?")
_UNSPACED = "\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65"  # Han, kana and their punctuation
_UNSPACED_BREAK = re.compile(f"(?<=[{_UNSPACED}])\n(?=[{_UNSPACED}])")


def normalise(paragraphs: Iterable[str]) -> str:
    r"""The text of a page whose paragraphs are given with their line breaks; those that are empty are left out.

    Paragraphs are parted by one empty line and hold no line break. A word hyphenated at a line's end is joined where
    the next line goes on in lower case. NFC, with ligatures and Arabic letters' joined shapes expanded and runs of
    spaces folded; without control characters and lone surrogates, so that UTF-8, MongoDB and Parquet can hold it.
    Never raises.
    """
    return "\n\n".join(text for text in map(_normalise_paragraph, paragraphs) if text)


def _normalise_paragraph(text: str) -> str:
    text = unicodedata.normalize("NFC", text.translate(_CLEAN))
    text = _LINE_ENDS.sub("\n", _SPACES.sub(" ", _SOFT_HYPHEN.sub("", text))).strip()
    text = _HYPHENATED.sub(lambda match: match[1] + match[2] if match[2].islower() else match[0], text)
    return _UNSPACED_BREAK.sub("", text).replace("\n", " ").strip()


def reading_order(quads: Quads) -> list[list[int]]:
    """Paragraphs, each a list of line indices, in the order in which they are read; every line occurs exactly once.

    Columns of prose are read one after the other, a heading across them first; anything else row by row, a row from
    left to right. The page may be skewed by a few degrees. Never raises.
    """
    if len(quads) == 0:
        return []
    boxes = _upright(np.asarray(quads, dtype=np.float64))
    return [paragraph for region in _regions(boxes, np.arange(len(boxes))) for paragraph in _paragraphs(boxes, region)]


def _upright(quads: _Boxes) -> _Boxes:
    """Each line's box after the page's skew (the median of its lines', long ones weighing more) is turned back."""
    along = (quads[:, 1] - quads[:, 0] + quads[:, 2] - quads[:, 3]) / 2
    down = (quads[:, 3] - quads[:, 0] + quads[:, 2] - quads[:, 1]) / 2
    widths, heights = np.hypot(*along.T), np.hypot(*down.T)
    angles = np.arctan2(along[:, 1], along[:, 0])
    by_angle = np.argsort(angles)
    weights = np.cumsum(widths[by_angle])
    skew = float(angles[by_angle][np.searchsorted(weights, weights[-1] / 2)])
    turn = np.array([[np.cos(skew), -np.sin(skew)], [np.sin(skew), np.cos(skew)]])
    centres = quads.mean(axis=1) @ turn
    half = np.stack([widths, heights * _LINE_SHARE], axis=1) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def _regions(boxes: _Boxes, lines: NDArray[np.intp]) -> Iterable[NDArray[np.intp]]:
    """Cut `lines` into regions whose rows can be read from left to right, in reading order."""
    bands = _split(boxes, lines, axis=1, least_gap=0.0)
    first = 0
    pending: list[NDArray[np.intp]] = []
    while first < len(bands):
        last, columns = _columns_from(boxes, bands, first)
        if not columns:
            pending.append(bands[first])
            first += 1
            continue
        if pending:
            yield np.concatenate(pending)
            pending = []
        for column in columns:
            yield from _regions(boxes, column)
        first = last
    if pending:
        yield np.concatenate(pending)


def _columns_from(boxes: _Boxes, bands: list[NDArray[np.intp]], first: int) -> tuple[int, list[NDArray[np.intp]]]:
    """The columns that begin at band `first`, and the band after the last that a common gutter runs through."""
    columns: list[NDArray[np.intp]] = []
    end = first
    width = np.ptp(boxes[np.concatenate(bands)][:, [0, 2]])
    for last in range(first, len(bands)):
        lines = np.concatenate(bands[first : last + 1])
        gutter = _GUTTER * float(np.median(boxes[lines, 3] - boxes[lines, 1])) / _LINE_SHARE
        parts = _split(boxes, lines, axis=0, least_gap=gutter)
        if len(parts) > 1:
            columns, end = parts, last + 1
        elif columns or np.ptp(boxes[lines][:, [0, 2]]) > _ACROSS * width:
            break
    return end, columns if columns and all(_is_prose(boxes[column]) for column in columns) else []


def _is_prose(column: _Boxes) -> bool:
    width = column[:, 2].max() - column[:, 0].min()
    widths, heights = column[:, 2] - column[:, 0], column[:, 3] - column[:, 1]
    fills = float(np.median(widths)) >= _PROSE_FILL * width
    return len(column) >= _PROSE_LINES and fills and width >= _PROSE_WIDTH * float(np.median(heights)) / _LINE_SHARE


def _split(boxes: _Boxes, lines: NDArray[np.intp], *, axis: int, least_gap: float) -> list[NDArray[np.intp]]:
    """Part `lines` at every gap wider than `least_gap` in their projection on x (axis 0) or y (axis 1)."""
    ordered = lines[np.argsort(boxes[lines, axis], kind="stable")]
    reach = np.maximum.accumulate(boxes[ordered, axis + 2])
    gaps = boxes[ordered[1:], axis] - reach[:-1]
    return np.split(ordered, np.flatnonzero(gaps > least_gap) + 1)


def _rows(boxes: _Boxes, region: NDArray[np.intp]) -> list[list[int]]:
    """Lines beside each other form a row, from left to right; rows run downwards."""
    centres = (boxes[:, 1] + boxes[:, 3]) / 2
    rows: list[list[int]] = []
    for line in region[np.argsort(centres[region], kind="stable")].tolist():
        if rows and centres[line] - centres[rows[-1][0]] < 0.5 * (boxes[line, 3] - boxes[line, 1]):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: float(boxes[line, 0])) for row in rows]


def _paragraphs(boxes: _Boxes, region: NDArray[np.intp]) -> list[list[int]]:
    """Group a region's rows: a wider gap or a first line's indent begins a paragraph."""
    rows = _rows(boxes, region)
    tops = np.array([boxes[row, 1].min() for row in rows])
    lefts = np.array([boxes[row, 0].min() for row in rows])
    height = float(np.median(boxes[region, 3] - boxes[region, 1])) / _LINE_SHARE
    pitch = float(np.median(np.diff(tops))) if len(rows) > 1 else 0.0
    margin = float(np.percentile(lefts, 20))
    indents = (lefts - margin) / height
    paragraphs = [list(rows[0])]
    for above, row in pairwise(range(len(rows))):
        apart = tops[row] - tops[above] > _PARAGRAPH_PITCH * max(pitch, height)
        indented = _INDENT[0] <= indents[row] <= _INDENT[1] and indents[above] < _INDENT[0]
        if apart or indented:
            paragraphs.append([])
        paragraphs[-1].extend(rows[row])
    return paragraphs
