"""What the command line says about where to search, and what the service takes of it."""

import re
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from cluster.display import search_results
from cluster.filters import parse_pages, parse_where
from ingest.errors import InputError
from ingest.metadata import mongo_filter
from serve.search_schemas import Hit, Mark, Scores, SearchRequest, SearchResponse, Snippet


@pytest.mark.parametrize(
    ("conditions", "metadata"),
    [
        (["author=Ann"], {"author": "Ann"}),
        (["author = Ann B. "], {"author": "Ann B. "}),
        (["author=Ann", "author=Bob"], {"author": ["Ann", "Bob"]}),
        (["year>=2020", "year<2025"], {"year": {"gte": 2020, "lt": 2025}}),
        (["year>2020.5"], {"year": {"gt": 2020.5}}),
        (["year<=1"], {"year": {"lte": 1}}),
        (['year="2020"'], {"year": "2020"}),
        (["draft=true"], {"draft": True}),
        (["x=null"], {"x": "null"}),
        (["equation=a=b"], {"equation": "a=b"}),
        (["x="], {"x": ""}),
        ([], {}),
    ],
)
def test_conditions_are_read_as_typed(conditions: list[str], metadata: dict[str, Any]) -> None:
    """Numbers and truth values are themselves, all else is text; several values are alternatives, bounds a range."""
    assert parse_where(conditions) == metadata


@pytest.mark.parametrize("conditions", [["author"], ["=Ann"], [""], ["year=2020", "year>3"]])
def test_what_is_no_condition_is_refused(conditions: list[str]) -> None:
    """With a message that names it."""
    with pytest.raises(ValueError, match=r"is not like|both a value and a range"):
        parse_where(conditions)


def test_pages_are_read_as_typed() -> None:
    """A range, an open one, a single page."""
    assert [parse_pages(pages) for pages in ("3-7", "3-", "3")] == [
        {"first": 3, "last": 7},
        {"first": 3},
        {"first": 3, "last": 3},
    ]
    for wrong in ("", "-3", "a", "3-7-9"):
        with pytest.raises(ValueError, match="is not like"):
            parse_pages(wrong)


@pytest.mark.parametrize(
    "asked",
    [
        {"metadata": {"$where": "1"}},
        {"metadata": {"a.$gt": 1}},
        {"metadata": {"a..b": 1}},
        {"metadata": {"": 1}},
        {"metadata": {"a\0": 1}},
        {"metadata": {"a": {"$gt": 1}}},
        {"metadata": {"a": {}}},
        {"metadata": {"a": {"gt": 1, "lt": "x"}}},
        {"metadata": {"a": {"gt": True}}},
        {"metadata": {"a": []}},
        {"metadata": {"a": [{"$gt": 1}]}},
        {"metadata": {"a": None}},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": float("inf")}},
        {"metadata": {f"a{number}": 1 for number in range(21)}},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"a": {"gt": "\ud800"}}},
        {"document_ids": ["\udc00"]},
        {"pages": {"first": 3, "last": 2}},
        {"pages": {"first": 0}},
        {"mode": "sparse"},
        {"hits_per_document": 0},
        {"hits_per_document": 21},
        {"limit": 101},
        {"metdata": {"a": 1}},
        {"query": ""},
    ],
)
def test_what_is_no_search_is_refused(asked: dict[str, Any]) -> None:
    """Operators of MongoDB's, empty and mixed ranges, misspelt fields: nothing of it reaches a store."""
    with pytest.raises(ValidationError):
        SearchRequest.model_validate({"query": "x", **asked})


def test_metadata_become_a_filter_with_our_operators_only() -> None:
    """Values keep their types; each name is below `metadata`."""
    metadata = {"a.b": 1, "c": [True, "x"], "d": {"gte": 2, "lt": 3.5}, "e": "$x"}
    asked = SearchRequest.model_validate({"query": "x", "metadata": metadata})
    assert mongo_filter(asked.conditions) == {
        "metadata.a.b": {"$eq": 1},
        "metadata.c": {"$in": [True, "x"]},
        "metadata.d": {"$gte": 2, "$lt": 3.5},
        "metadata.e": {"$eq": "$x"},
    }


@pytest.mark.parametrize("conditions", [{"$or": {"eq": 1}}, {"a.$x": {"eq": 1}}, {"a": {"where": 1}}, {"a": {}}])
def test_the_filter_itself_refuses_what_the_service_would(conditions: dict[str, dict[str, Any]]) -> None:
    """Whoever calls it: no name and no operator of MongoDB's gets through."""
    with pytest.raises(InputError):
        mongo_filter(conditions)


def test_the_words_that_were_found_are_bold() -> None:
    """Marks count UTF-16 code units, as browsers do; the terminal shows the same words, and what each side says."""
    snippet = Snippet(text="😀 The tide [b] table", marks=[Mark(start=7, end=11), Mark(start=16, end=21)])
    hit = Hit(
        chunk_id="c", document_id="d", filename="a [x].pdf", chunk_index=0, first_page=2, last_page=3, score=0.03,
        scores=Scores(dense=0.5, lexical=None), snippet=snippet, text="",
    )  # fmt: skip
    console = Console(width=80, force_terminal=True, color_system="standard", record=True)
    with console.capture() as captured:
        console.print(search_results(SearchResponse(hits=[hit])))
    shown = captured.get()
    assert "\x1b[1mtide\x1b[0m" in shown
    assert "\x1b[1mtable\x1b[0m" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "1. a [x].pdf, pages 2-3 meaning 0.50 " in plain
    assert "words" not in plain
