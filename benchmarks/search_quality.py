"""How well search finds: nDCG@10 and recall@100 of each mode, with the real model and the real stores' code.

`python -m benchmarks.search_quality [DIRECTORY]`: a retrieval set in BEIR's format (`corpus.jsonl`, `queries.jsonl`,
`qrels/test.tsv`; Thakur et al. 2021), as SciFact, NFCorpus and others are published. Such a set is not part of this
repository. Without one the samples' ten questions are asked, each in other words than the page that answers it: a set
of our own, far too small to compare systems with, and made to be hard for search by words.
"""

import csv
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.stores import local_stores
from cluster.embedded import EmbeddedMongoDB
from ingest.fingerprints import pipeline_of
from ingest.model import DEFAULT_TENANT, Chunk, Document, Page, Revision, Route
from ingest.settings import Settings
from ingest.stages.chunking import Chunker
from ingest.stages.embedding import Embedder, load_tokenizer
from ingest.stages.models import embedding_model_path
from ingest.stores import Stores
from samples.pages import WORKS, page_texts
from serve.search import search
from serve.search_schemas import MAX_QUERY_CHARACTERS, SearchMode, SearchRequest

DEPTH = 100
CUT = 10
BATCH_DOCUMENTS = 256
QUESTIONS = Path(__file__).parents[1] / "samples" / "questions.json"
Gains = Mapping[str, int]  # document id -> how relevant it is


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Documents, queries, and which of the documents answer which query."""

    source: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    gains: Mapping[str, Gains]


def main() -> None:
    """Print the table of one set."""
    wanted = _beir(Path(sys.argv[1])) if len(sys.argv) > 1 else _samples()
    console = Console()
    console.print(f"{wanted.source}: {len(wanted.documents)} documents, {len(wanted.gains)} queries", soft_wrap=True)
    with tempfile.TemporaryDirectory() as directory, _empty_stores(Path(directory)) as stores:
        settings = Settings(data_dir=Path(directory))
        model = embedding_model_path(settings.embedding_model)
        embedder = Embedder.load(model, revision=settings.embedding_revision, precision="float32", threads=2)
        stores.vectors.prepare(embedder.dimension)
        _fill(stores, wanted.documents, embedder, settings)
        console.print(_table(stores, wanted, embedder), f"{stores.vectors.count()} points; model {model}")


def ndcg(ranked: Sequence[str], gains: Gains, cut: int = CUT) -> float:
    """Normalised discounted cumulative gain: Järvelin and Kekäläinen 2002, with the discount log2(1 + rank)."""
    best = sorted(gains.values(), reverse=True)[:cut]
    ideal = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(best, 1))
    found = sum(gains.get(name, 0) / math.log2(1 + rank) for rank, name in enumerate(ranked[:cut], 1))
    return found / ideal


def recall(ranked: Sequence[str], gains: Gains) -> float:
    """The share of the relevant documents that is found at all."""
    relevant = {name for name, gain in gains.items() if gain > 0}
    return len(relevant & set(ranked)) / len(relevant)


def reciprocal_ranks(rankings: Sequence[Sequence[str]]) -> list[str]:
    """Reciprocal rank fusion, what Fanfold does not do: Cormack, Clarke and Büttcher 2009, with k = 60."""
    fused: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            fused[name] = fused.get(name, 0.0) + 1 / (60 + rank)
    return sorted(fused, key=lambda name: (-fused[name], name))[:DEPTH]


def _table(stores: Stores, wanted: RetrievalSet, embedder: Embedder) -> Table:
    """One row a mode, each with its ratio to the dense one."""
    vectors = {name: embedder.embed_query(wanted.queries[name]) for name in track(wanted.gains, "Embedding queries")}
    table = Table(title=f"Search, {DEPTH} documents a query")
    for column in ("", f"nDCG@{CUT}", "to dense", f"recall@{DEPTH}", "to dense", "ms a query"):
        table.add_column(column, justify="right")
    rankings: dict[str, dict[str, list[str]]] = {}
    took_ms: dict[str, float] = {}
    for mode in SearchMode:
        started_at = time.perf_counter()
        rankings[mode] = {
            name: _ranked(stores, wanted.queries[name], vector, mode) for name, vector in track(vectors.items(), mode)
        }
        took_ms[mode] = 1_000 * (time.perf_counter() - started_at) / len(vectors)
    by_rank = {name: reciprocal_ranks([rankings["dense"][name], rankings["lexical"][name]]) for name in vectors}
    rankings["for comparison: fused by rank"] = by_rank
    measured = {
        title: (_mean(ndcg(ranked[name], gains) for name, gains in wanted.gains.items()),
                _mean(recall(ranked[name], gains) for name, gains in wanted.gains.items()))
        for title, ranked in rankings.items()
    }  # fmt: skip
    dense = measured["dense"]
    for title, (quality, found) in measured.items():
        ratios = (f"{quality / dense[0]:.2f}", f"{found / dense[1]:.2f}")
        took = f"{took_ms[title]:.0f}" if title in took_ms else ""
        table.add_row(title, f"{quality:.3f}", ratios[0], f"{found:.3f}", ratios[1], took)
    return table


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _ranked(stores: Stores, query: str, vector: Sequence[float], mode: SearchMode) -> list[str]:
    """Documents in the order of their best chunks."""
    asked = SearchRequest(query=query, mode=mode, limit=DEPTH, group_by_document=True, hits_per_document=1)
    return [hit.filename for hit in search(stores, DEFAULT_TENANT, asked, vector).hits]


@contextmanager
def _empty_stores(directory: Path) -> Iterator[Stores]:
    """The embedded stores, without Ray."""
    server = EmbeddedMongoDB(directory / "mongodb")
    server.start()
    try:
        stores = local_stores(directory, mongodb_uri=server.uri)
        stores.catalog.prepare()
        yield stores
    finally:
        server.stop()


def _fill(stores: Stores, documents: Mapping[str, str], embedder: Embedder, settings: Settings) -> None:
    """Cut, embed, store and publish every document."""
    tokenizer = load_tokenizer(embedding_model_path(settings.embedding_model), settings.embedding_revision)
    chunker = Chunker(tokenizer, settings.chunk_tokens, settings.chunk_overlap_tokens)
    pipeline, names = pipeline_of(settings), list(documents)
    for first in track(range(0, len(names), BATCH_DOCUMENTS), "Ingesting"):
        batch = names[first : first + BATCH_DOCUMENTS]
        cut = {name: chunker.cut([Page(1, Route.TEXT, documents[name])]) for name in batch}
        flat = [chunk for chunks in cut.values() for chunk in chunks]
        counts = [chunk.token_count for chunk in flat]
        vectors = embedder.embed([chunk.text for chunk in flat], counts, budget=settings.embedding_batch_tokens)
        row = 0
        for number, (name, chunks) in enumerate(cut.items(), first):
            revision = Revision(DEFAULT_TENANT, f"{number:032x}", 1, pipeline)
            if chunks:
                stores.vectors.upsert(revision, chunks, vectors[row : row + len(chunks)])
                _publish(stores, revision, name, chunks)
            row += len(chunks)


def _publish(stores: Stores, revision: Revision, name: str, chunks: Sequence[Chunk]) -> None:
    stores.catalog.upsert_chunks(revision, chunks)
    document = Document(
        document_id=revision.document_id,
        tenant=revision.tenant,
        sha256="",
        filename=name,
        size_bytes=0,
        created_at=datetime.now(UTC),
    )
    stores.catalog.register(document)
    stores.catalog.advance(revision.document_id, revision.number)
    stores.catalog.publish(revision, page_count=1, chunk_count=len(chunks))


def _samples() -> RetrievalSet:
    """Our own: the samples' pages, and ten questions."""
    pages = {
        f"{work.name}.pdf {number}": text for work in WORKS for number, text in enumerate(page_texts(work.name), 1)
    }
    asked = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    queries = {str(number): one["question"] for number, one in enumerate(asked)}
    gains = {str(number): {f"{one['document']} {one['page']}": 1} for number, one in enumerate(asked)}
    return RetrievalSet("This repository's samples (Apache-2.0), ten paraphrased questions", pages, queries, gains)


def _beir(directory: Path) -> RetrievalSet:
    """A set in BEIR's format. `SOURCE.txt` beside it, if there is one, says where it is from and its licence."""
    note = directory / "SOURCE.txt"
    source = note.read_text(encoding="utf-8").strip() if note.exists() else f"{directory.name}, of unknown licence"
    corpus = _lines(directory / "corpus.jsonl")
    documents = {one["_id"]: f"{one.get('title', '')}\n\n{one['text']}".strip() for one in corpus}
    queries = {one["_id"]: one["text"][:MAX_QUERY_CHARACTERS] for one in _lines(directory / "queries.jsonl")}
    gains: dict[str, dict[str, int]] = {}
    with (directory / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                gains.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return RetrievalSet(source, documents, queries, gains)


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


if __name__ == "__main__":
    main()
