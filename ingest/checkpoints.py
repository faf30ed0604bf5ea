"""Checkpoints: what each stage leaves behind, as Parquet, created once and never changed.

A checkpoint's key carries the fingerprint of everything its content depends on, so whoever finds one may use it, and
a changed setting simply looks elsewhere.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ingest import ids
from ingest.model import Chunk, ChunkPlan, Inspection, Page, PipelineSpec, Route
from ingest.stores.objects import ObjectStore

PAGES_SCHEMA = pa.schema(
    [("page_number", pa.int32()), ("route", pa.string()), ("text", pa.large_string()), ("reason", pa.string())]
)
CHUNKS_SCHEMA = pa.schema(
    [
        ("chunk_index", pa.int32()),
        ("text", pa.large_string()),
        ("first_page", pa.int32()),
        ("last_page", pa.int32()),
        ("token_count", pa.int32()),
    ]
)


class Checkpoints:
    """The checkpoints of one document under one pipeline.

    `missing_pages` are the pages that were given up: chunks and vectors made without them have keys of their own, so
    that a retry which reads those pages does not find, and use, chunks that lack them.

    Every `write_*` is create-if-absent; every `read_*` returns what the first writer wrote.
    """

    def __init__(
        self, objects: ObjectStore, document_id: str, pipeline: PipelineSpec, missing_pages: Collection[int] = ()
    ) -> None:
        self._objects = objects
        self._document_id = document_id
        self._extract = pipeline.extract
        self._chunk = _without(pipeline.chunk, missing_pages)
        self._embed = _without(pipeline.embed, missing_pages)
        self._missing_pages = frozenset(missing_pages)

    @property
    def inspection_key(self) -> str:
        """Key of the inspection."""
        return ids.inspection_key(self._document_id, self._extract)

    @property
    def pages_prefix(self) -> str:
        """Prefix of the keys of OCRed pages."""
        return ids.pages_prefix(self._document_id, self._extract)

    @property
    def chunks_key(self) -> str:
        """Key of the chunks."""
        return ids.chunks_key(self._document_id, self._chunk)

    @property
    def vectors_prefix(self) -> str:
        """Prefix of the keys of vector batches."""
        return ids.vectors_prefix(self._document_id, self._embed)

    def inspection(self) -> Inspection | None:
        """The committed inspection, without its text; None when there is none yet."""
        pages = self.routes()
        if not pages:
            return None
        return Inspection(
            page_count=len(pages),
            ocr_pages=tuple(page.page_number for page in pages if page.route is Route.OCR),
            unreadable_pages=tuple((page.page_number, page.reason) for page in pages if page.route is Route.UNREADABLE),
        )

    def routes(self) -> list[Page]:
        """Every page as the inspection routed it, without its text; none when there is no inspection yet."""
        if not self._objects.exists(self.inspection_key):
            return []
        with self._objects.open(self.inspection_key) as file:
            rows = pq.read_table(file, columns=["page_number", "route", "reason"], use_threads=False).to_pylist()
        return [Page(row["page_number"], Route(row["route"]), "", row["reason"]) for row in rows]

    def write_inspection(self, pages: Sequence[Page]) -> None:
        """Commit every page's route, and the text of those that need no OCR."""
        self._objects.put(self.inspection_key, _parquet(_page_table(pages)))

    def has_page(self, page_number: int) -> bool:
        """Whether this page's OCR is committed."""
        return self._objects.exists(self._page_key(page_number))

    def write_page(self, page: Page) -> None:
        """Commit one page's OCR."""
        self._objects.put(self._page_key(page.page_number), _parquet(_page_table([page])))

    def committed_pages(self) -> set[int]:
        """The numbers of the pages whose OCR is committed."""
        prefix = self.pages_prefix
        return {int(key.removeprefix(prefix).removesuffix(".parquet")) for key in self._objects.keys(prefix)}

    def read_pages(self) -> list[Page]:
        """The pages that are not missing, in order: the inspection, completed by the committed OCR."""
        pages = _read_pages(self._objects.get(self.inspection_key))
        return [
            _read_pages(self._objects.get(self._page_key(page.page_number)))[0] if page.route is Route.OCR else page
            for page in pages
            if page.page_number not in self._missing_pages
        ]

    def chunk_plan(self) -> ChunkPlan | None:
        """The committed chunks' counts; None when there are none yet."""
        if not self._objects.exists(self.chunks_key):
            return None
        with self._objects.open(self.chunks_key) as file:
            metadata = pq.read_metadata(file)
        sizes = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return ChunkPlan(batch_sizes=tuple(size for size in sizes if size))

    def write_chunks(self, chunks: Sequence[Chunk], *, batch_size: int) -> None:
        """Commit the chunks, one row group a batch of `batch_size`, so that a batch can be read alone."""
        table = pa.Table.from_pylist([asdict(chunk) for chunk in chunks], schema=CHUNKS_SCHEMA)
        self._objects.put(self.chunks_key, _parquet(table, row_group_size=batch_size))

    def read_chunks(self, batch: int) -> list[Chunk]:
        """The chunks of one batch, counted from 0."""
        with self._objects.open(self.chunks_key) as file:
            rows = pq.ParquetFile(file).read_row_group(batch, use_threads=False).to_pylist()
        return [Chunk(**row) for row in rows]

    def has_vectors(self, batch: int) -> bool:
        """Whether this batch's vectors are committed."""
        return self._objects.exists(self._vectors_key(batch))

    def write_vectors(self, batch: int, vectors: NDArray[np.float32]) -> None:
        """Commit the vectors of one batch, shape (chunks in the batch, dimension), in the order of its chunks."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
        self._objects.put(self._vectors_key(batch), _parquet(pa.table({"vector": column})))

    def read_vectors(self, batch: int) -> NDArray[np.float32]:
        """The vectors of one batch, shape (chunks in the batch, dimension)."""
        table = pq.read_table(pa.BufferReader(self._objects.get(self._vectors_key(batch))), use_threads=False)
        vectors = table["vector"].combine_chunks()
        flat: NDArray[np.float32] = vectors.values.to_numpy(zero_copy_only=False)
        return flat.reshape(len(vectors), -1)

    def _page_key(self, page_number: int) -> str:
        return f"{self.pages_prefix}{page_number:06d}.parquet"

    def _vectors_key(self, batch: int) -> str:
        return f"{self.vectors_prefix}{batch:06d}.parquet"


def _without(fingerprint: str, missing_pages: Collection[int]) -> str:
    if not missing_pages:
        return fingerprint
    return ids.fingerprint({"complete": fingerprint, "missing_pages": sorted(missing_pages)})


def _page_table(pages: Sequence[Page]) -> pa.Table:
    return pa.Table.from_pylist([asdict(page) for page in pages], schema=PAGES_SCHEMA)


def _read_pages(data: bytes) -> list[Page]:
    rows = pq.read_table(pa.BufferReader(data), use_threads=False).to_pylist()
    return [Page(**{**row, "route": Route(row["route"])}) for row in rows]


def _parquet(table: pa.Table, *, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size, compression="zstd")
    return sink.getvalue()
