"""The units of work that run in worker processes. Each is idempotent: it returns at once if its checkpoint exists.

They take keys and counts and return keys and counts; text and vectors go through the object store.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ingest import ids
from ingest.checkpoints import Checkpoints
from ingest.errors import FanfoldError, NotFound, ObjectMissing, SourceNotKept, WorkerCrashed
from ingest.faults import fault_point
from ingest.model import Chunk, ChunkPlan, Inspection, Page, Revision, Route
from ingest.settings import Settings
from ingest.stages import pdf
from ingest.stages.chunking import Chunker
from ingest.stages.embedding import Embedder, load_tokenizer
from ingest.stages.marks import Mark, Word, marks_of
from ingest.stages.models import embedding_model_path
from ingest.stages.ocr import Ocr
from ingest.stages.pageimage import page_png
from ingest.stages.pdf import Pdf
from ingest.stores import Stores
from ingest.telemetry import get_logger

NO_MEMORY = re.compile("bad_alloc|bad allocation|insufficient memory|failed to allocate|out of memory", re.IGNORECASE)
OPEN_PDFS = 2  # each may hold FANFOLD_MAX_UPLOAD_BYTES in memory
PAGE_IMAGE_DPI = 110  # an A4 page is 910 pixels wide: small print can be read on a screen
Committed = TypeVar("Committed")
log = get_logger()


class OpenPdfs:
    """The PDFs that this process has open, most recently used last: one opening a document, not one a page."""

    def __init__(self, stores: Stores, *, max_pages: int) -> None:
        self._stores = stores
        self._max_pages = max_pages
        self._open: OrderedDict[str, Pdf] = OrderedDict()

    def get(self, document_id: str) -> Pdf:
        """The open PDF. Raises the `InputError` that says why it cannot be opened, or `ObjectMissing`."""
        if document_id not in self._open:
            if len(self._open) >= OPEN_PDFS:
                _, oldest = self._open.popitem(last=False)
                oldest.close()
            self._open[document_id] = self._fetch(document_id)
        self._open.move_to_end(document_id)
        return self._open[document_id]

    def _fetch(self, document_id: str) -> Pdf:
        try:
            source = self._stores.objects.get(ids.source_key(document_id))
        except ObjectMissing as error:
            raise ObjectMissing("The uploaded file is not there any more. Send it again.") from error
        return Pdf.open(source, max_pages=self._max_pages)


class Activities:
    """What a worker process can be asked to do. Models and PDFs are loaded on first use and kept."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._settings = settings
        self._pdfs = OpenPdfs(stores, max_pages=settings.max_pages)
        self._ocr: Ocr | None = None
        self._chunker: Chunker | None = None
        self._embedder: Embedder | None = None

    def inspect(self, revision: Revision, distrusted: frozenset[int] = frozenset()) -> Iterator[int | Inspection]:
        """Route every page, and read those with a good text layer, in one pass over one opening of the PDF.

        Yields the number of each page before it is read, so that it is known at which one a process died, and in the
        end the inspection. `distrusted` pages are left to OCR unread.
        """
        checkpoints = self._checkpoints(revision)
        if checkpoints.inspection() is None:
            source = self._pdfs.get(revision.document_id)
            pages = []
            for page_number in range(1, source.page_count + 1):
                yield page_number
                pages.append(
                    _distrusted(page_number) if page_number in distrusted else self.classify(source, page_number)
                )
            checkpoints.write_inspection(pages)
        yield _committed(checkpoints.inspection())

    @fault_point("activities.classify")
    def classify(self, source: Pdf, page_number: int) -> Page:
        """The page's route, and its text where its text layer is good."""
        return pdf.inspect(source, page_number)

    def load_ocr(self) -> Ocr:
        """Load the OCR models, if they are not: seconds that no page's time limit should count."""
        if self._ocr is None:
            settings = self._settings
            self._ocr = Ocr.load(settings.ocr_model, settings.home / "models", precision=settings.ocr_precision)
            log.info("ocr model loaded", model=settings.ocr_model, precision=self._ocr.precision)
        return self._ocr

    @fault_point("activities.read_page")
    def read_page(self, revision: Revision, page_number: int) -> None:
        """Render one page and OCR it.

        Raises `PageUnreadable` when it cannot be rendered, `WorkerCrashed` when OCR fails at it, and `MemoryError`.
        """
        checkpoints = self._checkpoints(revision)
        if checkpoints.has_page(page_number):
            return
        source, ocr = self._pdfs.get(revision.document_id), self.load_ocr()
        with _of_page(page_number):
            text = ocr.read(self._image_for_ocr(source, page_number))
        checkpoints.write_page(Page(page_number, Route.OCR, text))

    def cut(self, revision: Revision) -> ChunkPlan:
        """Cut the text of all pages into chunks."""
        checkpoints = self._checkpoints(revision)
        committed = checkpoints.chunk_plan()
        if committed is not None:
            return committed
        chunks = self._load_chunker().cut(checkpoints.read_pages())
        checkpoints.write_chunks(chunks, batch_size=self._settings.embedding_batch_chunks)
        return _committed(checkpoints.chunk_plan())

    def load_embedder(self, *, threads: int) -> Embedder:
        """Load the embedding model, if it is not."""
        if self._embedder is None:
            self._embedder = Embedder.load(
                embedding_model_path(self._settings.embedding_model),
                revision=self._settings.embedding_revision,
                precision=self._settings.embedding_precision,
                threads=threads,
                gpu=self._settings.embedder_gpus > 0,
            )
        return self._embedder

    def chunks_to_embed(self, revision: Revision, batch: int) -> list[Chunk]:
        """The chunks of one batch; none when their vectors are committed."""
        checkpoints = self._checkpoints(revision)
        return [] if checkpoints.has_vectors(batch) else checkpoints.read_chunks(batch)

    def commit_vectors(self, revision: Revision, batch: int, vectors: NDArray[np.float32]) -> None:
        """Commit the vectors of one batch, unless somebody was first."""
        self._checkpoints(revision).write_vectors(batch, vectors)

    def store(self, revision: Revision, batch: int) -> None:
        """Upsert one batch under its revision: chunks, then points. Written again, it changes nothing."""
        checkpoints = self._checkpoints(revision)
        chunks = checkpoints.read_chunks(batch)
        vectors = checkpoints.read_vectors(batch)
        self._stores.catalog.upsert_chunks(revision, chunks)
        self._stores.vectors.upsert(revision, chunks, vectors)

    @fault_point("activities.page_image")
    def page_image(self, document_id: str, page_number: int) -> bytes:
        """A PNG of the page as people see it, at 110 dpi or as many fewer as `FANFOLD_MAX_PAGE_PIXELS` allows.

        Raises `SourceNotKept`, `NotFound` for a page that the document does not have, and `PageUnreadable`.
        """
        source = self._source_of(document_id, page_number)
        return page_png(source, page_number, dpi=PAGE_IMAGE_DPI, max_pixels=self._settings.max_page_pixels)

    @fault_point("activities.is_scan")
    def is_scan(self, document_id: str, page_number: int) -> bool:
        """Whether `page_marks` would have to read the page by OCR. Raises as `page_image` does."""
        return pdf.inspect(self._source_of(document_id, page_number), page_number).route is Route.OCR

    @fault_point("activities.page_marks")
    def page_marks(self, document_id: str, page_number: int, chunk_text: str) -> list[Mark]:
        """Where a chunk's text lies on `page_image`, a box for each line; empty where the page holds nothing of it.

        A page without a good text layer is read by OCR again, in seconds, as it was for its chunks. Raises as
        `page_image` does.
        """
        return marks_of(self._words(self._source_of(document_id, page_number), page_number), chunk_text)

    def _source_of(self, document_id: str, page_number: int) -> Pdf:
        try:
            source = self._pdfs.get(document_id)
        except ObjectMissing as error:
            raise SourceNotKept(
                "The document's file is not kept after its ingestion. Set FANFOLD_KEEP_SOURCE=true to keep it."
            ) from error
        if not 1 <= page_number <= source.page_count:
            raise NotFound(f"The document has no page {page_number}; its last is {source.page_count}.")
        return source

    def _words(self, source: Pdf, page_number: int) -> list[Word]:
        """The words of a page, won in the way its text is."""
        route = pdf.inspect(source, page_number).route
        if route is Route.TEXT:
            return pdf.text_words(source, page_number)
        if route is Route.OCR:
            return self.load_ocr().read_lines(self._image_for_ocr(source, page_number))
        return []

    def _image_for_ocr(self, source: Pdf, page_number: int) -> NDArray[np.uint8]:
        settings = self._settings
        return pdf.render(source, page_number, dpi=settings.ocr_dpi, max_pixels=settings.max_page_pixels)

    def _checkpoints(self, revision: Revision) -> Checkpoints:
        return Checkpoints(self._stores.objects, revision.document_id, revision.pipeline, revision.missing_pages)

    def _load_chunker(self) -> Chunker:
        if self._chunker is None:
            tokenizer = load_tokenizer(
                embedding_model_path(self._settings.embedding_model), self._settings.embedding_revision
            )
            self._chunker = Chunker(tokenizer, self._settings.chunk_tokens, self._settings.chunk_overlap_tokens)
        return self._chunker


@contextmanager
def _of_page(page_number: int) -> Iterator[None]:
    """Whatever goes wrong in native code at a page is that page's failure, not its document's."""
    try:
        yield
    except (FanfoldError, MemoryError):
        raise
    except Exception as error:
        if NO_MEMORY.search(str(error)):
            raise MemoryError(str(error)) from error
        log.warning("ocr failed", page_number=page_number, exc_info=True)
        name = type(error).__name__
        raise WorkerCrashed(f"OCR failed at this page: {name}. The log has more.", page_number=page_number) from error


def _distrusted(page_number: int) -> Page:
    return Page(page_number, Route.OCR, "", "the process that read its text layer did not survive it")


def _committed(checkpoint: Committed | None) -> Committed:
    if checkpoint is None:
        raise ObjectMissing("A checkpoint that was just written is gone.")
    return checkpoint
