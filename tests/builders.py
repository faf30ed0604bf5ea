"""Values that several test files need, made from as few words as a test has to say."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ingest.model import (
    Attempt,
    Chunk,
    Document,
    Job,
    JobState,
    Keeping,
    Page,
    PipelineSpec,
    Revision,
    Route,
    Stage,
    StageRecord,
)
from ingest.stores import Stores
from ingest.submission import Upload

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PDF_BYTES = b"%PDF-1.7\nnot much of a document\n%%EOF\n"
KEEP_NOTHING = Keeping()  # FANFOLD_KEEP_SOURCE and FANFOLD_KEEP_PAGES as they are by default
TENANT = "default"
T = TypeVar("T")


def text_pages(*texts: str) -> list[Page]:
    """Pages with a text layer, numbered from 1."""
    return [Page(number, Route.TEXT, text) for number, text in enumerate(texts, start=1)]


def some_chunks(count: int, *, first: int = 0, words: str = "words of chunk") -> list[Chunk]:
    """`count` chunks in a row, one a page."""
    return [Chunk(index, f"{words} {index}", index + 1, index + 1, 4) for index in range(first, first + count)]


def axis_vectors(count: int, *, axis: int = 0, dimension: int = 384, tilt: float = 0.0) -> NDArray[np.float32]:
    """Unit vectors along one axis; each a little further from it than the one before, from `tilt` on."""
    vectors = np.zeros((count, dimension), dtype=np.float32)
    angles = tilt + np.arange(count) * 1e-3
    vectors[:, axis] = np.cos(angles)
    vectors[:, (axis + 1) % dimension] = np.sin(angles)
    return vectors


def pipeline_named(name: str) -> PipelineSpec:
    """A pipeline whose fingerprints all differ from another name's."""
    return PipelineSpec(extract=f"extract-{name}", chunk=f"chunk-{name}", embed=f"embed-{name}")


def a_revision(document_id: str, number: int = 1, *, tenant: str = TENANT, epoch: int = 1) -> Revision:
    """A revision as an attempt of this epoch writes it."""
    return Revision(tenant, document_id, number, pipeline_named("p"), epoch=epoch)


def make_visible(
    stores: Stores, document_id: str, revision: int = 1, *, page_count: int = 1, chunk_count: int = 1
) -> bool:
    """Publish a revision as the first attempt at it does; whether it is shown."""
    stores.catalog.advance(document_id, revision, epoch=1)
    return stores.catalog.publish(a_revision(document_id, revision), page_count=page_count, chunk_count=chunk_count)


def a_document(document_id: str, *, tenant: str = TENANT, filename: str = "letter.pdf") -> Document:
    """A document as a submit registers it."""
    return Document(
        document_id=document_id, tenant=tenant, sha256="0" * 64, filename=filename, size_bytes=10, created_at=NOON
    )


def an_attempt(number: int, *, units_at_start: int) -> Attempt:
    """An attempt that began when so many units were durable."""
    return Attempt(number=number, epoch=number, holder="h", started_at=NOON, units_at_start=units_at_start)


def a_job(**changes: Any) -> Job:
    """A queued job that nobody has claimed yet, but for `changes`."""
    record: dict[str, Any] = {
        "_id": "job",
        "document_id": "document",
        "tenant": TENANT,
        "revision": 1,
        "state": JobState.QUEUED,
        "stages": {stage: StageRecord() for stage in Stage},
        "progress": {},
        "attempts": [],
        "lease": {"holder": None, "epoch": 0, "expires_at": NOON},
        "cancel_requested_at": None,
        "error": None,
        "failed_pages": [],
        "pipeline": pipeline_named("p"),
        "available_at": NOON,
        "deadline_at": None,
        "created_at": NOON,
        "updated_at": NOON,
        "open": True,
    }
    return Job.model_validate(record | changes)


def an_upload(directory: Path, data: bytes = PDF_BYTES, *, filename: str = "letter.pdf") -> Upload:
    """A file that has arrived whole."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = directory / f"{sha256[:12]}.upload"
    path.write_bytes(data)
    return Upload(path=path, filename=filename, sha256=sha256, size_bytes=len(data))


def at_once(count: int, call: Callable[[int], T]) -> list[T]:
    """The results of `call(0)` ... `call(count - 1)`, each in a thread of its own, all let go at the same moment."""
    barrier = threading.Barrier(count)

    def wait_and_call(number: int) -> T:
        barrier.wait(30)
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(wait_and_call, range(count)))


def words_of(texts: Sequence[str]) -> list[str]:
    """Every word of the texts, in order."""
    return [word for text in texts for word in text.split()]
