"""Chunks: bounded in tokens, complete, deterministic, and at sentence ends where the text allows it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ingest.model import Chunk, Page, Route
from ingest.stages.chunking import PAGE_BREAK, Chunker
from ingest.stages.embedding import load_tokenizer
from ingest.stages.models import embedding_model_path
from tests.builders import text_pages, words_of

PROSE = Path(__file__).parents[2] / "samples" / "texts" / "field-guide.md"
TOKENIZER: Tokenizer = load_tokenizer(embedding_model_path("all-MiniLM-L6-v2"), "main")
SENTENCE_END = re.compile(r"[.!?:;][\"'”)]*$")

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    st.lists(words, max_size=60).map(" ".join),
    st.lists(
        st.sampled_from(["The ferry leaves.", "字字字字", "naïve", "👩‍👩‍👧", "Ωμέγα!", "a" * 90, "\n\n"]), max_size=60
    ).map(" ".join),
)


def cut(pages: list[Page], *, tokens: int = 200, overlap: int = 30) -> list[Chunk]:
    """The chunks of the pages."""
    return Chunker(TOKENIZER, tokens, overlap).cut(pages)


def token_count(text: str) -> int:
    """Tokens of the text, without the model's special ones."""
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def without_spaces(text: str) -> str:
    """What is left to compare when white space is nobody's business."""
    return "".join(text.split())


def prose_pages(pages: int = 6) -> list[Page]:
    """Ordinary prose of several pages, with paragraphs that go on across page ends."""
    prose = re.sub(r"\n{2,}", "\n\n", re.sub(r"^[#|>-].*$", "", PROSE.read_text(), flags=re.MULTILINE)).strip()
    paragraphs = prose.split("\n\n")
    share = -(-len(paragraphs) // pages)
    return text_pages(*("\n\n".join(paragraphs[first : first + share]) for first in range(0, len(paragraphs), share)))


@pytest.mark.parametrize(("tokens", "overlap"), [(200, 30), (64, 0), (16, 8)])
def test_prose_is_cut_within_bounds_and_completely(tokens: int, overlap: int) -> None:
    """No chunk exceeds `chunk_tokens`, every word is in some chunk, and indexes count from 0."""
    pages = prose_pages()
    chunks = cut(pages, tokens=tokens, overlap=overlap)
    assert all(0 < chunk.token_count == token_count(chunk.text) <= tokens for chunk in chunks)
    assert [chunk.chunk_index for chunk in chunks] == list(range(len(chunks)))
    assert set(words_of([page.text for page in pages])) <= set(words_of([chunk.text for chunk in chunks]))


def test_chunks_use_the_room_they_have() -> None:
    """Text is not shredded: on average a chunk of prose is more than half full."""
    chunks = cut(prose_pages())
    assert sum(chunk.token_count for chunk in chunks) / len(chunks) > 100


def test_most_chunks_of_prose_end_where_a_sentence_does() -> None:
    """What is found reads as whole sentences: nine chunks of ten end at one's end."""
    chunks = cut(prose_pages())
    ended = [chunk for chunk in chunks if SENTENCE_END.search(chunk.text)]
    assert len(chunks) >= 5
    assert len(ended) >= 0.9 * len(chunks)


def test_page_spans_name_the_first_and_the_last_page_of_a_chunk() -> None:
    """A chunk within a page names that page; one that runs across a page end names both; text-less pages count."""
    pages = [
        Page(1, Route.TEXT, "Alpha one."),
        Page(2, Route.BLANK, ""),
        Page(3, Route.OCR, "Beta two."),
        Page(7, Route.TEXT, " ".join(f"Gamma {number}." for number in range(60))),
    ]
    whole = cut(pages[:3])
    assert [(chunk.first_page, chunk.last_page, chunk.text) for chunk in whole] == [(1, 3, "Alpha one.\n\nBeta two.")]
    chunks = cut(pages, tokens=16, overlap=0)
    assert chunks[0].first_page == 1
    assert chunks[-1].first_page == chunks[-1].last_page == 7
    assert all(chunk.text in pages[3].text for chunk in chunks if chunk.first_page == 7)


def test_page_spans_count_characters_not_bytes() -> None:
    """Pages in scripts of several bytes a character are found right."""
    pages = text_pages(*("漢字ひらがな。" * 30, "Ωμέγα και άλφα. " * 30, "👩‍👩‍👧 🇩🇪 emoji. " * 30, "plain end."))
    for chunk in cut(pages, tokens=32, overlap=0):
        spanned = PAGE_BREAK.join(page.text for page in pages[chunk.first_page - 1 : chunk.last_page])
        assert chunk.text in spanned
    assert cut(pages, tokens=32, overlap=0)[-1].last_page == 4


def test_neighbours_overlap_as_far_as_allowed() -> None:
    """With an overlap, a chunk begins with words that ended the one before; without, no word is there twice."""
    pages = text_pages(" ".join(f"word{number}" for number in range(400)))
    apart = words_of([chunk.text for chunk in cut(pages, tokens=64, overlap=0)])
    assert apart == words_of([pages[0].text])
    chunks = cut(pages, tokens=64, overlap=20)
    shared = [set(words_of([a.text])) & set(words_of([b.text])) for a, b in pairwise(chunks)]
    assert all(shared)
    assert all(token_count(" ".join(words)) <= 20 for words in shared)


@pytest.mark.parametrize("texts", [(), ("",), ("", " \n\t ", "\u3000")])
def test_without_text_there_are_no_chunks(texts: tuple[str, ...]) -> None:
    """A document of blank pages is a document with no chunk, not an error."""
    assert cut(text_pages(*texts)) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(any_text, max_size=5), st.sampled_from([(16, 0), (24, 0), (64, 0)]))
def test_any_text_is_cut_within_bounds_completely_and_in_order(texts: list[str], sizes: tuple[int, int]) -> None:
    """For any pages: bounded, in order, every character in exactly one chunk, and each chunk on the pages it names."""
    pages = text_pages(*texts)
    chunks = cut(pages, tokens=sizes[0], overlap=sizes[1])
    assert all(chunk.token_count == token_count(chunk.text) <= sizes[0] for chunk in chunks)
    assert without_spaces("".join(chunk.text for chunk in chunks)) == without_spaces("".join(texts))
    spans = [page for chunk in chunks for page in (chunk.first_page, chunk.last_page)]
    assert spans == sorted(spans)
    for chunk in chunks:
        assert chunk.text.strip()
        on_pages = [texts[number - 1] for number in range(chunk.first_page, chunk.last_page + 1)]
        assert without_spaces(chunk.text) in without_spaces("".join(on_pages))


@settings(max_examples=15, deadline=None)
@given(st.lists(any_text, max_size=4))
def test_any_text_gives_the_same_chunks_again(texts: list[str]) -> None:
    """Deterministic, with overlap too: a retry in another process names the same chunks."""
    pages = text_pages(*texts)
    first = cut(pages, tokens=32, overlap=8)
    assert first == cut(list(pages), tokens=32, overlap=8)
    assert set(without_spaces("".join(texts))) == set(without_spaces("".join(chunk.text for chunk in first)))
