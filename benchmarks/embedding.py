"""What coalescing brings: many small documents embedded together, against one forward pass for each.

Both run over the same model and the same texts, one after the other. The naive loop is `encode_document` on each
document's chunks; Fanfold also reads the chunks from their checkpoints and commits the vectors, both on one core.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.stores import local_stores
from ingest.activities import Activities
from ingest.batching import Batcher
from ingest.checkpoints import Checkpoints
from ingest.fingerprints import pipeline_of
from ingest.model import Chunk, Revision
from ingest.settings import Settings
from ingest.stages.embedding import Embedder, load_tokenizer
from ingest.stages.models import embedding_model_path
from samples.pages import page_texts

DOCUMENTS = 200
AT_A_TIME = 128  # as many as wait at embedders with FANFOLD_MAX_RUNNING_JOBS=128
RUNS = 2


def main() -> None:
    """Print vectors a second of both, and the ratio."""
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(data_dir=Path(directory))
        activities = Activities(local_stores(settings.home), settings)
        embedder = activities.load_embedder(threads=1)
        documents = _documents(settings)
        embedder.embed([chunk.text for chunk in documents[0]], [1] * len(documents[0]), budget=512)  # warms up
        naive = min(_naive(embedder, documents) for _ in range(RUNS))
        ours = min(asyncio.run(_coalesced(activities, settings, documents, run)) for run in range(RUNS))
    chunks = sum(map(len, documents))
    table = Table(title=f"{DOCUMENTS} documents of {chunks / DOCUMENTS:.1f} chunks, one core, best of {RUNS}")
    for column in ("", "seconds", "vectors a second"):
        table.add_column(column, justify="right")
    for name, seconds in (("a forward pass for each document", naive), ("coalesced: read, embed, commit", ours)):
        table.add_row(name, f"{seconds:.2f}", f"{chunks / seconds:.0f}")
    Console().print(table, f"Coalesced, {naive / ours:.2f} times as many vectors a second.")


def _naive(embedder: Embedder, documents: list[list[Chunk]]) -> float:
    started_at = time.perf_counter()
    for chunks in documents:
        texts = [chunk.text for chunk in chunks]
        embedder.model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
    return time.perf_counter() - started_at


async def _coalesced(activities: Activities, settings: Settings, documents: list[list[Chunk]], run: int) -> float:
    pipeline = pipeline_of(settings)
    revisions = [Revision("default", f"{run:016x}{number:016x}", 1, pipeline) for number in range(len(documents))]
    stores = local_stores(settings.home)
    for revision, chunks in zip(revisions, documents, strict=True):
        Checkpoints(stores.objects, revision.document_id, pipeline).write_chunks(chunks, batch_size=len(chunks))
    batcher = Batcher(activities, activities.load_embedder(threads=1), settings)
    places = asyncio.Semaphore(AT_A_TIME)

    async def embed(revision: Revision) -> None:
        async with places:
            await batcher.embed(revision, 0)

    started_at = time.perf_counter()
    await asyncio.gather(*map(embed, revisions))
    seconds = time.perf_counter() - started_at
    batcher.close()
    return seconds


def _documents(settings: Settings) -> list[list[Chunk]]:
    """Notes of one to three chunks of very different lengths."""
    tokenizer = load_tokenizer(embedding_model_path(settings.embedding_model), settings.embedding_revision)
    words = " ".join(page_texts("field-guide")).split()
    documents = []
    for number in range(DOCUMENTS):
        texts = []
        for index in range(1 + number % 3):
            first = 37 * (number + 1) * (index + 1) % (len(words) - 150)
            texts.append(" ".join(words[first : first + 5 + 13 * (number + index) % 60]))
        lengths = [len(encoded.ids) for encoded in tokenizer.encode_batch(texts)]
        pairs = zip(texts, lengths, strict=True)
        documents.append([Chunk(index, text, 1, 1, length) for index, (text, length) in enumerate(pairs)])
    return documents


if __name__ == "__main__":
    main()
