"""Snippets: the part of a text that shows best why it was found."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from ingest.stages.lexical import Word, words
from serve.search_schemas import Mark, Snippet

SNIPPET_CHARACTERS = 240
LEFT_OUT = "…"
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[\u3002\uff01\uff1f]")  # and their full-width forms

Span = tuple[int, int]


def terms_of(query: str) -> frozenset[str]:
    """The distinct terms of a query, to be marked in what it found."""
    return frozenset(word.term for word in words(query))


def snippet(text: str, terms: Collection[str]) -> Snippet:
    """At most 240 characters of the text around its densest cluster of the terms, with every one of them marked.

    Runs of white space become one space. The ends are cut between words where there are spaces, and say so with `…`.
    Without any of the terms it is the beginning, up to the end of a sentence where one is near.
    """
    text = " ".join(text.split())
    found = [word for word in words(text) if word.term in terms]
    start, end = _around(text, _densest(found)) if found else _beginning(text)
    before, after = LEFT_OUT * (start > 0), LEFT_OUT * (end < len(text))
    shown = f"{before}{text[start:end]}{after}"
    inside = [(max(a, start), min(b, end)) for a, b in _merged(found) if a < end and b > start]
    moved = [(a - start + len(before), b - start + len(before)) for a, b in inside]
    return Snippet(text=shown, marks=[Mark(start=_utf16(shown[:a]), end=_utf16(shown[:b])) for a, b in moved])


def _densest(found: Sequence[Word]) -> Span:
    """From the first to the last word of the best run that fits; a term that is everywhere in the text counts less."""
    often = Counter(word.term for word in found)
    best, best_weight, last = (found[0].start, found[0].end), 0.0, 0
    for first, word in enumerate(found):
        while last < len(found) and found[last].end <= word.start + SNIPPET_CHARACTERS:
            last += 1
        run = found[first : max(last, first + 1)]
        weight = sum(1 / often[term] for term in {one.term for one in run})
        if weight > best_weight:
            best, best_weight = (word.start, run[-1].end), weight
    return best


def _around(text: str, cluster: Span) -> Span:
    """The window with the cluster in its middle, cut at spaces, and never through the cluster unless it is too long."""
    room = max(0, SNIPPET_CHARACTERS - (cluster[1] - cluster[0]))
    start = max(0, min(cluster[0] - room // 2, len(text) - SNIPPET_CHARACTERS))
    end = min(len(text), start + SNIPPET_CHARACTERS)
    if start > 0 and text[start - 1] != " ":
        space = text.find(" ", start, cluster[0])
        start = space + 1 if space >= 0 else start
    return start, _cut_end(text, end, at_least=min(cluster[1], end))


def _beginning(text: str) -> Span:
    if len(text) <= SNIPPET_CHARACTERS:
        return 0, len(text)
    ends = [found.end() for found in _SENTENCE_END.finditer(text, 0, SNIPPET_CHARACTERS + 1)]
    last = max((end for end in ends if end <= SNIPPET_CHARACTERS), default=0)
    return 0, last if last > SNIPPET_CHARACTERS // 2 else _cut_end(text, SNIPPET_CHARACTERS, at_least=1)


def _cut_end(text: str, end: int, *, at_least: int) -> int:
    """The last end of a word up to `end`, or `end` itself where no space is near."""
    if end >= len(text) or text[end] == " ":
        return end
    space = text.rfind(" ", at_least, end)
    return space if space >= 0 else end


def _merged(found: Sequence[Word]) -> list[Span]:
    """Where the words stand; those that overlap (pairs of unspaced characters) as one."""
    spans: list[Span] = []
    for word in found:
        if spans and word.start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], word.end))
        else:
            spans.append((word.start, word.end))
    return spans


def _utf16(text: str) -> int:
    """Length in UTF-16 code units, in which JavaScript counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
