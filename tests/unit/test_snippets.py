"""Snippets: the words that were looked for are in them, marked where a browser will find them."""

from hypothesis import given
from hypothesis import strategies as st

from ingest.stages.lexical import words
from serve.search_schemas import Snippet
from serve.snippets import LEFT_OUT, SNIPPET_CHARACTERS, snippet, terms_of

FILLER = "Nothing of it is said here, and the lamps along the quay are lit. "
TEXTS = st.lists(
    st.sampled_from(
        ["tide", "Table", "of", "the", "harbour.", "東京タワー", "😀", "cafe\u0301", "\n\n", "x" * 90, "ﬁn"]
    ),
    max_size=120,
).map(" ".join)


def marked(shown: Snippet) -> list[str]:
    """The marked words, cut out as JavaScript would."""
    encoded = shown.text.encode("utf-16-le")
    return [encoded[2 * mark.start : 2 * mark.end].decode("utf-16-le") for mark in shown.marks]


def test_a_short_text_is_shown_whole() -> None:
    """Nothing is cut, white space is one space, every query word is marked whatever its case."""
    shown = snippet("The tide\n\n  table: TIDE by tide.", terms_of("Tide?"))
    assert shown.text == "The tide table: TIDE by tide."
    assert marked(shown) == ["tide", "TIDE", "tide"]


def test_the_densest_cluster_is_shown() -> None:
    """A lone word at the beginning loses against all of them together further on; both ends say that text is left."""
    text = "A tide. " + FILLER * 10 + "The tide table hangs in the harbour office. " + FILLER * 10
    shown = snippet(text, terms_of("harbour tide table"))
    assert marked(shown) == ["tide", "table", "harbour"]
    assert shown.text.startswith(LEFT_OUT)
    assert shown.text.endswith(LEFT_OUT)


def test_words_that_are_everywhere_do_not_decide() -> None:
    """Three small words stand together in twenty sentences, `cistern` once and alone: the snippet is there."""
    text = FILLER * 20 + "Lamps. " * 60 + "A cistern. " + "Lamps. " * 60
    assert "cistern" in marked(snippet(text, terms_of("the said of cistern")))


def test_without_a_word_it_is_the_beginning_up_to_a_sentences_end() -> None:
    """A hit by meaning alone: the first sentences, no mark."""
    shown = snippet(FILLER * 20, terms_of("reservoir"))
    assert shown.marks == []
    assert shown.text == (FILLER * 3).strip() + LEFT_OUT
    assert snippet("", terms_of("reservoir")) == Snippet(text="", marks=[])


def test_marks_count_utf16_code_units() -> None:
    """A character beyond the basic plane is two: what JavaScript cuts out is the word."""
    shown = snippet("😀😀 tide", terms_of("tide"))
    assert [(mark.start, mark.end) for mark in shown.marks] == [(5, 9)]


def test_neighbouring_pairs_of_unspaced_characters_are_one_mark() -> None:
    """東京タワー is found by four overlapping pairs, and marked once."""
    assert marked(snippet("昔の東京タワーです", terms_of("東京タワー"))) == ["東京タワー"]


@given(TEXTS, st.sampled_from(["tide", "table harbour", "東京", "café fin", "x" * 90, "absent", "the of 😀"]))
def test_a_snippet_is_a_piece_of_the_text_with_every_query_word_marked(text: str, query: str) -> None:
    """Never longer than promised, never through a word next to a space, marks in order; one is there if a word is."""
    shown, terms, whole = snippet(text, terms_of(query)), terms_of(query), " ".join(text.split())
    inner = shown.text.removeprefix(LEFT_OUT).removesuffix(LEFT_OUT)
    assert inner in whole
    assert len(inner) <= SNIPPET_CHARACTERS
    assert (shown.text == whole) is (len(inner) == len(whole))
    assert bool(shown.marks) is any(word.term in terms for word in words(whole))
    ends = [0, *(end for mark in shown.marks for end in (mark.start, mark.end))]
    assert ends == sorted(ends)
    assert [word.term for word in words(" ".join(marked(shown)))] == [
        word.term for word in words(inner) if word.term in terms
    ]


@given(st.lists(st.sampled_from(["tide", "table", "harbour", "master"]), min_size=60, max_size=120).map(" ".join))
def test_it_is_cut_between_words(text: str) -> None:
    """Where there are spaces, no word loses a letter."""
    inner = snippet(text, terms_of("master")).text.strip(LEFT_OUT)
    assert set(inner.split()) <= {"tide", "table", "harbour", "master"}
