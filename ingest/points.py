"""Points as the vector store holds and finds them, and where it may look for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

POINTS_VERSION = 2  # raise when points hold something else: they then go to another collection, and are made again

TermWeights: TypeAlias = Mapping[int, float]  # term id -> weight: a sparse vector


@dataclass(frozen=True, slots=True)
class Match:
    """A point that a query found: which chunk of which revision, and how well it fits.

    `score` is the cosine (1 is identical) where the query was a vector, and BM25 where it was words.
    """

    chunk_id: str
    document_id: str
    revision: int
    score: float


@dataclass(frozen=True, slots=True)
class Point:
    """A point as Qdrant holds it, without its vectors; a stranger's point has no document."""

    point_id: str
    document_id: str | None
    revision: int | None
    epoch: int | None  # of the attempt that wrote it
    collection: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a search looks: in these documents (None is all of them), in chunks that overlap these pages."""

    document_ids: Sequence[str] | None = None
    first_page: int | None = None
    last_page: int | None = None


EVERYWHERE = Scope()
