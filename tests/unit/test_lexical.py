"""Words: the same text gives the same terms whoever wrote it, and BM25's weights are those of the paper."""

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.stages.lexical import AVERAGE_WORDS, chunk_weights, query_weights, term_id, words

TEXTS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("abcAB ßÉé́ﬁ東京タワーｶﾞनमस्ते.,'😀")), max_size=60
)


def terms(text: str) -> list[str]:
    """The terms of a text, in order."""
    return [word.term for word in words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic, Dr. No_1!", ["don", "t", "panic", "dr", "no_1"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("cafe\u0301 café CAFÉ", ["café"] * 3),
        ("ﬁnd \uff46\uff49\uff4e\uff44 find", ["find"] * 3),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("A東b京", ["a", "東", "b", "京"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("* — ... !", []),
        ("", []),
    ],
)
def test_a_text_is_its_words(text: str, expected: list[str]) -> None:
    """Case, ligatures, widths and ways to write an accent make no difference; marks do not tear words apart."""
    assert terms(text) == expected


@given(TEXTS)
def test_each_word_stands_where_it_says(text: str) -> None:
    """Words come in order, none is empty, and each lies within the text."""
    found = list(words(text))
    assert [word.start for word in found] == sorted(word.start for word in found)
    assert all(0 <= word.start < word.end <= len(text) and word.term for word in found)


@given(TEXTS)
def test_a_term_that_is_read_again_is_itself(text: str) -> None:
    """What was folded once stays as it is: a word of an answer, sent as a query, finds the same chunks."""
    for term in terms(text):
        assert terms(term) == [term]


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=60))
def test_case_makes_no_difference(text: str) -> None:
    """Capitals, as in headings, are found by small letters."""
    assert terms(text) == terms(text.upper()) == terms(text.lower())


@given(st.text(alphabet="aeou n\u0301\u0308\u0303éü", max_size=40))
def test_the_way_an_accent_is_written_makes_no_difference(text: str) -> None:
    """Composed or decomposed, as PDFs have both."""
    assert terms(unicodedata.normalize("NFC", text)) == terms(unicodedata.normalize("NFD", text))


def test_weights_are_those_of_bm25() -> None:
    """Tf (k1 + 1) / (tf + k1 (1 - b + b length / average)), Robertson and Zaragoza 2009, computed by hand."""
    weights = chunk_weights("tide tide tide table")
    norm = 1.2 * (0.25 + 0.75 * 4 / AVERAGE_WORDS)
    assert weights == {
        term_id("tide"): pytest.approx(3 * 2.2 / (3 + norm)),
        term_id("table"): pytest.approx(2.2 / (1 + norm)),
    }


@given(st.integers(1, 200), st.integers(0, 400))
def test_weights_saturate_and_shrink_with_length(count: int, others: int) -> None:
    """Once more never weighs less, never reaches k1 + 1; in a longer chunk the same count weighs less."""
    filler = " ".join(f"w{number}" for number in range(others))
    weight, more, longer = (
        chunk_weights(text)[term_id("tide")]
        for text in ("tide " * count + filler, "tide " * (count + 1) + filler, "tide " * count + filler + " another")
    )
    assert longer < weight < more < 2.2


def test_a_query_weighs_each_term_once() -> None:
    """However often it is said; none is no term."""
    assert query_weights("Tide tide TABLE") == {term_id("tide"): 1.0, term_id("table"): 1.0}
    assert query_weights("?!") == {}


def test_a_terms_id_never_changes() -> None:
    """Stored points depend on it: known answers, `printf tide | b2sum -l 32`."""
    assert [term_id("tide"), term_id("東京")] == [0xFF8DD627, 0xBD8AA045]
    assert all(0 <= term_id(str(number)) < 2**32 for number in range(1_000))


def test_terms_whose_ids_collide_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two terms in one dimension weigh together: a sparse vector holds no dimension twice."""
    apart = chunk_weights("tide table")
    monkeypatch.setattr("ingest.stages.lexical.term_id", lambda _term: 7)
    assert list(chunk_weights("tide table")) == [7]
    assert chunk_weights("tide table")[7] == pytest.approx(math.fsum(apart.values()))
