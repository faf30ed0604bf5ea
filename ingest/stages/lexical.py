"""Words: what lexical search compares, and how much each of them weighs.

A chunk's sparse vector holds, for each of its terms, the part of Okapi BM25 that the chunk alone decides (Robertson and
Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, equation 3.15). The other factor, the inverse
document frequency, is Qdrant's, which knows how many points hold a term when it is asked (`Modifier.IDF`). The average
length is fixed, so that writing a point needs to know of no other.

A term is a word in Unicode NFKC and case-folded. Words are not stemmed, because nobody says in which language a
document is. Where scripts put no spaces between words, each pair of neighbouring characters is a term.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import regex

from ingest.points import TermWeights

SATURATION_K1 = 1.2
LENGTH_NORMALISATION_B = 0.75
AVERAGE_WORDS = 120  # of a chunk of FANFOLD_CHUNK_TOKENS=200
TERM_ID_BYTES = 4  # Qdrant's sparse vectors have 32-bit dimensions

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー"
_WORDS = regex.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[\w--[{_UNSPACED}]]+", regex.V1)


@dataclass(frozen=True, slots=True)
class Word:
    """A term and where it stands: `text[start:end]`, in code points."""

    term: str
    start: int
    end: int


def words(text: str) -> Iterator[Word]:
    """The words of the text, in its order; pairs of unspaced characters overlap."""
    for found in _WORDS.finditer(text):
        start, end = found.span()
        if found["unspaced"] is None:
            yield from (Word(term, start, end) for term in _terms(found[0]))
        else:
            for pair in range(start, max(end - 1, start + 1)):
                pair_end = min(pair + 2, end)
                yield Word(_folded(text[pair:pair_end]), pair, pair_end)


def chunk_weights(text: str) -> TermWeights:
    """The sparse vector of a chunk: BM25's term weights, without the inverse document frequency.

    Terms whose ids collide are one dimension, which has the sum of their weights.
    """
    counts = Counter(word.term for word in words(text))
    length = counts.total() / AVERAGE_WORDS
    norm = SATURATION_K1 * (1 - LENGTH_NORMALISATION_B + LENGTH_NORMALISATION_B * length)
    weights: dict[int, float] = {}
    for term, count in counts.items():
        weight = count * (SATURATION_K1 + 1) / (count + norm)
        weights[term_id(term)] = weights.get(term_id(term), 0.0) + weight
    return weights


def query_weights(query: str) -> TermWeights:
    """The sparse vector of a query: weight 1 for each distinct term, however often it is said."""
    return {term_id(word.term): 1.0 for word in words(query)}


def term_id(term: str) -> int:
    """The dimension of a term, 0 to 2**32 - 1: the first four bytes of its BLAKE2b digest (RFC 7693), big-endian.

    The same in every process and version, since stored points depend on it.
    """
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=TERM_ID_BYTES).digest(), "big")


def _terms(word: str) -> Iterator[str]:
    """Its terms: one, unless NFKC writes a single character as several words."""
    yield from (found[0] for found in _WORDS.finditer(_folded(word)))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
