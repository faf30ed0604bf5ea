"""What a search asks for and what it answers."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeAlias, TypedDict

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    Tag,
    model_validator,
)

from ingest.metadata import INT64, Conditions
from serve import examples
from serve.schemas import Schema, Text

MAX_HITS = 100
MAX_HITS_PER_DOCUMENT = 20
MAX_QUERY_CHARACTERS = 4_000
MAX_DOCUMENT_IDS = 1_000
MAX_CONDITIONS = 20
MAX_ALTERNATIVES = 100
MAX_NAME_CHARACTERS = 500
METADATA_NAME = r"^[^$.\x00][^.\x00]*(\.[^$.\x00][^.\x00]*)*$"


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("give text, a number, true or false")  # noqa: TRY004  # pydantic wants it so
    return value


_Int = Annotated[StrictInt, Field(ge=-INT64, lt=INT64)]
_Float = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Scalar: TypeAlias = Annotated[StrictBool | _Int | _Float | Text, BeforeValidator(_plain)]
Bound: TypeAlias = _Int | _Float | Text


class Asked(Schema):
    """Base of what is asked. A field that is not known is refused: a misspelt filter must not find everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchMode(StrEnum):
    """By what a search compares."""

    DENSE = "dense"  # by meaning: cosine of the embeddings
    LEXICAL = "lexical"  # by words: BM25
    HYBRID = "hybrid"  # by both, fused


class PageRange(Asked):
    """Pages from `first` to `last`, both included."""

    first: int = Field(1, ge=1, lt=INT64)
    last: int | None = Field(None, ge=1, lt=INT64, description="Null is the end of the document.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last is not None and self.last < self.first:
            raise ValueError("last is before first")
        return self


class ValueRange(Asked):
    """Values between bounds: numbers, or text by code point. At least one bound."""

    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None

    @property
    def bounds(self) -> dict[str, Any]:
        """Those that are given."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        kinds = {isinstance(bound, str) for bound in self.bounds.values()}
        if len(kinds) != 1:
            raise ValueError("give at least one bound, and only numbers or only text")
        return self


MetadataName: TypeAlias = Annotated[str, Field(pattern=METADATA_NAME, max_length=MAX_NAME_CHARACTERS)]
_Alternatives: TypeAlias = Annotated[list[Scalar], Field(min_length=1, max_length=MAX_ALTERNATIVES)]


def _form(wanted: Any) -> str:
    """Which form of a condition is meant, so that what is wrong is said of that form alone."""
    match wanted:
        case list():
            return "list"
        case dict() | ValueRange():
            return "range"
        case _:
            return "value"


Wanted: TypeAlias = Annotated[
    Annotated[Scalar, Tag("value")] | Annotated[_Alternatives, Tag("list")] | Annotated[ValueRange, Tag("range")],
    Discriminator(_form),
]


class SearchRequest(Asked):
    """What to look for, and where."""

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, examples=["when does the ferry leave?"])
    limit: int = Field(10, ge=1, le=MAX_HITS, description="Most hits; with `group_by_document`, most documents.")
    mode: SearchMode = Field(SearchMode.HYBRID, description="By meaning (dense), by words (lexical), or by both.")
    document_ids: list[Text] | None = Field(
        None, max_length=MAX_DOCUMENT_IDS, description="Only in these documents; an empty list is none."
    )
    pages: PageRange | None = Field(None, description="Only chunks that overlap these pages.")
    metadata: dict[MetadataName, Wanted] | None = Field(
        None,
        max_length=MAX_CONDITIONS,
        description="Only in documents with these metadata: a value, a list of which any will do, or a range.",
        examples=[{"author.name": "Ann", "year": {"gte": 2020, "lt": 2025}, "language": ["en", "fr"]}],
    )
    group_by_document: bool = False
    hits_per_document: int = Field(
        3, ge=1, le=MAX_HITS_PER_DOCUMENT, description="Most hits of one document, when they are grouped."
    )

    @property
    def conditions(self) -> Conditions:
        """The metadata's conditions, as the catalog takes them."""
        return {name: _operators(wanted) for name, wanted in (self.metadata or {}).items()}


class SearchOptions(TypedDict, total=False):
    """The fields of a `SearchRequest` as keyword arguments, in plain values; what is left out has its default."""

    mode: SearchMode | Literal["dense", "lexical", "hybrid"]
    document_ids: list[str] | None
    pages: PageRange | Mapping[str, int] | None
    metadata: Mapping[str, Any] | None
    group_by_document: bool
    hits_per_document: int


class Mark(Schema):
    """A word of the query within a snippet: from `start` up to, not including, `end`, in UTF-16 code units."""

    start: int
    end: int


class Snippet(Schema):
    """The part of a hit's text that shows best why it was found; `…` where text was left out."""

    text: str
    marks: list[Mark]


class Scores(Schema):
    """How well a chunk fits; null where that side was not asked, or did not find it among its best."""

    dense: float | None = Field(description="Cosine similarity; 1 is identical.")
    lexical: float | None = Field(description="BM25; 0 is no common word.")


class Hit(Schema):
    """A chunk that was found."""

    chunk_id: str
    document_id: str
    filename: str
    chunk_index: int
    first_page: int
    last_page: int
    score: float = Field(
        description="What the hits are ordered by: cosine (dense), BM25 (lexical), or both fused, 0 to 1 (hybrid). "
        "The latter two compare hits of one search only."
    )
    scores: Scores
    snippet: Snippet
    text: str


class DocumentHits(Schema):
    """The hits of one document, best first; `score` is the first one's."""

    document_id: str
    filename: str
    score: float
    hits: list[Hit]


class SearchResponse(Schema):
    """What was found, best first."""

    model_config = ConfigDict(json_schema_extra=examples.of(examples.FOUND))

    hits: list[Hit]
    groups: list[DocumentHits] | None = Field(None, description="The same hits by document, if that was asked for.")


def _operators(wanted: Wanted) -> dict[str, Any]:
    match wanted:
        case ValueRange():
            return wanted.bounds
        case list():
            return {"in": wanted}
        case _:
            return {"eq": wanted}
