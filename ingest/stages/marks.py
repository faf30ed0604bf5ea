"""Where the text of a chunk lies on the image of a page.

A chunk's text is a stretch of its pages' words, normalised: hyphens at line ends are gone, white space is folded. So
both sides are compared as letters and digits alone. A chunk that was cut from the very words at hand is found exactly.
Words that were read anew, and came out a little different, are aligned by the runs of letters that both share (Ratcliff
and Obershelp, "Pattern matching: the gestalt approach", Dr. Dobb's Journal, July 1988, as in `difflib`).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import groupby
from typing import NamedTuple, Self

_UNMISTAKABLE = 16  # letters: a shorter run is found only where it begins and ends as words do
_LEAST_OVERLAP = 8  # letters of a chunk that ends on the page, or begins there
_LEAST_ALIKE = 24  # letters in common, without which two texts that differ are not the same passage
_RUN = 6  # letters that an alignment looks for at a time
_GAP = 80  # letters that may differ in a row
_LONGEST_ALIGNED = 20_000  # letters: more are searched exactly, not aligned
_WORDS = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Mark:
    """An upright box on the image of a page, which is 1 wide and 1 high; `x` and `y` are its top left corner.

    The origin is the image's top left, and the image is the page as people see it: rotated and cropped.
    """

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def between(cls, x0: float, y0: float, x1: float, y1: float) -> Self:
        """The box with these edges, or the part of it that lies on the image: it may be empty."""
        x0, y0, x1, y1 = (min(1.0, max(0.0, edge)) for edge in (x0, y0, x1, y1))
        return cls(x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0))


@dataclass(frozen=True, slots=True)
class Word:
    """A word on a page, or as many words as were read at once, with its box; words of one line share `line`."""

    text: str
    box: Mark
    line: int


class _Token(NamedTuple):
    """What stands between two spaces: in which of the words, and which share of its width, 0 to 1."""

    word: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Letters:
    """The letters and digits of some words in a row, and for each the token that it belongs to."""

    text: str
    owners: list[int]
    tokens: list[_Token]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The letters of these words, without case and presentation forms (NFKC)."""
        parts: list[str] = []
        owners: list[int] = []
        tokens: list[_Token] = []
        for word, text in enumerate(texts):
            for match in _WORDS.finditer(text):
                parts.append(_fold(match[0]))
                owners += [len(tokens)] * len(parts[-1])
                tokens.append(_Token(word, match.start() / len(text), match.end() / len(text)))
        return cls("".join(parts), owners, tokens)

    def parts_words(self, offset: int) -> bool:
        """Whether no word goes on across `offset`."""
        return not 0 < offset < len(self.text) or self.owners[offset - 1] != self.owners[offset]


def marks_of(words: Sequence[Word], chunk_text: str) -> list[Mark]:
    """Where the chunk's text lies on a page with these words, which are in reading order: one box for each line.

    The chunk may begin before the page and end after it. Empty where nothing of it is found on the page; a few words
    that the two merely have in common do not count. Never raises.
    """
    page = _Letters.of(word.text for word in words)
    chunk = _Letters.of([chunk_text])
    if not page.text or not chunk.text:
        return []
    found = _exactly(page, chunk) or _nearly(page.text, chunk.text)
    if found is None:
        return []
    hit = (page.tokens[owner] for owner, _ in groupby(page.owners[found[0] : found[1]]))
    by_line = groupby(_boxes(words, hit), key=lambda entry: entry[0])
    marks = (_around([box for _, box in line]) for _, line in by_line)
    return [mark for mark in marks if mark.width > 0 and mark.height > 0]


def _exactly(page: _Letters, chunk: _Letters) -> tuple[int, int] | None:
    """The stretch of the page that is the chunk, or the end or the beginning of it."""
    start = _find(chunk.text, page)
    if start is not None:
        return start, start + len(chunk.text)
    size = len(page.text)
    if _find(page.text, chunk) is not None:
        return 0, size
    head = _overlap(chunk, page)
    tail = _overlap(page, chunk)
    if max(head, tail) < _LEAST_OVERLAP:
        return None
    return (0, head) if head >= tail else (size - tail, size)


def _find(needle: str, letters: _Letters) -> int | None:
    """Where `needle` first stands in the letters: a short one only as whole words."""
    start = letters.text.find(needle)
    while start >= 0:
        is_whole = letters.parts_words(start) and letters.parts_words(start + len(needle))
        if is_whole or len(needle) >= _UNMISTAKABLE:
            return start
        start = letters.text.find(needle, start + 1)
    return None


def _overlap(first: _Letters, second: _Letters) -> int:
    """With how many letters, at most, `first` ends that `second` begins with."""
    for length in range(min(len(first.text), len(second.text)), _LEAST_OVERLAP - 1, -1):
        if first.text.endswith(second.text[:length]) and (
            length >= _UNMISTAKABLE or (first.parts_words(len(first.text) - length) and second.parts_words(length))
        ):
            return length
    return 0


def _nearly(page: str, chunk: str) -> tuple[int, int] | None:
    """The stretch of the page that reads almost like a part of the chunk."""
    if max(len(page), len(chunk)) > _LONGEST_ALIGNED:
        return None
    matcher = SequenceMatcher(None, _runs(page), _runs(chunk))
    best = max(_passages(matcher.get_matching_blocks()[:-1]), key=_letters_in, default=[])
    if _letters_in(best) < _LEAST_ALIKE:
        return None
    return best[0].a, best[-1].a + best[-1].size + _RUN - 1


def _runs(text: str) -> list[str]:
    return [text[start : start + _RUN] for start in range(len(text) - _RUN + 1)]


def _passages(blocks: Iterable[Match]) -> Iterator[list[Match]]:
    """The blocks in common, those together that follow close on each other in both texts."""
    passage: list[Match] = []
    for block in blocks:
        if passage:
            last = passage[-1]
            if max(block.a - last.a, block.b - last.b) > last.size + _RUN - 1 + _GAP:
                yield passage
                passage = []
        passage.append(block)
    if passage:
        yield passage


def _letters_in(passage: list[Match]) -> int:
    return sum(block.size + _RUN - 1 for block in passage)


def _boxes(words: Sequence[Word], tokens: Iterable[_Token]) -> Iterator[tuple[int, Mark]]:
    """The line and the box of each word that holds some of these tokens; of a whole line, the part that holds them."""
    for number, group in groupby(tokens, key=lambda token: token.word):
        word = words[number]
        hit = list(group)
        left, width = word.box.x, word.box.width
        x0, x1 = left + width * hit[0].start, left + width * hit[-1].end
        yield word.line, Mark.between(x0, word.box.y, x1, word.box.y + word.box.height)


def _around(boxes: Sequence[Mark]) -> Mark:
    """The least box around those that are not empty."""
    seen = [box for box in boxes if box.width > 0 and box.height > 0] or boxes
    return Mark.between(
        min(box.x for box in seen),
        min(box.y for box in seen),
        max(box.x + box.width for box in seen),
        max(box.y + box.height for box in seen),
    )


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(filter(str.isalnum, folded))
