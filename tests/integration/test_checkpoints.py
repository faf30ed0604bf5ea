"""Checkpoints: what a stage wrote is read back exactly, by whoever has the same fingerprints, and never changes."""

from pathlib import Path

import numpy as np
import pytest

from ingest.checkpoints import Checkpoints
from ingest.errors import ObjectMissing
from ingest.model import Chunk, ChunkPlan, Inspection, Page, PipelineSpec, Route
from ingest.stores.objects import DirectoryStore
from tests.builders import some_chunks, text_pages

PIPELINE = PipelineSpec(extract="e" * 16, chunk="c" * 16, embed="f" * 16)
PAGES = [
    Page(1, Route.TEXT, "Text layer.\n\nSecond paragraph, naïve 字 👩‍👩‍👧.", "good text layer"),
    Page(2, Route.OCR, "", "no text layer"),
    Page(3, Route.BLANK, "", "nothing is drawn"),
    Page(4, Route.UNREADABLE, "", "broken"),
    Page(5, Route.OCR, "", "garbage text layer"),
]


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryStore:
    """An empty object store."""
    return DirectoryStore(tmp_path / "objects")


def of(objects: DirectoryStore, *missing_pages: int, **changes: str) -> Checkpoints:
    """The document's checkpoints under a pipeline that differs by `changes`."""
    return Checkpoints(objects, "d", PIPELINE.model_copy(update=changes), missing_pages)


def test_nothing_is_there_before_it_is_written(objects: DirectoryStore) -> None:
    """Absence is visible for every kind of checkpoint, and reading what is absent says so."""
    empty = of(objects)
    assert (empty.inspection(), empty.chunk_plan(), empty.committed_pages()) == (None, None, set())
    assert not empty.has_page(1)
    assert not empty.has_vectors(0)
    for read in (empty.read_pages, lambda: empty.read_chunks(0), lambda: empty.read_vectors(0)):
        with pytest.raises(ObjectMissing):
            read()


def test_an_inspection_comes_back_as_counts_and_numbers(objects: DirectoryStore) -> None:
    """The supervisor learns how many pages there are, which need OCR and which are broken; no text."""
    of(objects).write_inspection(PAGES)
    assert of(objects).inspection() == Inspection(page_count=5, ocr_pages=(2, 5), unreadable_pages=((4, "broken"),))


def test_pages_come_back_as_they_were_completed_by_ocr(objects: DirectoryStore) -> None:
    """`read_pages` is every page in order: text layers from the inspection, the others from their own checkpoint."""
    of(objects).write_inspection(PAGES)
    five, two = Page(5, Route.OCR, "Fünf.\n\nAbsatz."), Page(2, Route.OCR, "Zwei.")
    of(objects).write_page(five)
    assert of(objects).committed_pages() == {5}
    assert of(objects).has_page(5)
    assert not of(objects).has_page(2)
    with pytest.raises(ObjectMissing):
        of(objects).read_pages()
    of(objects).write_page(two)
    assert of(objects).read_pages() == [PAGES[0], two, PAGES[2], PAGES[3], five]


@pytest.mark.parametrize(
    ("count", "batch_size", "batch_sizes"), [(10, 4, (4, 4, 2)), (8, 4, (4, 4)), (3, 100, (3,)), (0, 4, ())]
)
def test_chunks_come_back_batch_by_batch(
    objects: DirectoryStore, count: int, batch_size: int, batch_sizes: tuple[int, ...]
) -> None:
    """One row group a batch: the plan knows the sizes, and each batch can be read alone."""
    chunks = some_chunks(count, words="Wörter 字 of")
    of(objects).write_chunks(chunks, batch_size=batch_size)
    plan = of(objects).chunk_plan()
    assert plan == ChunkPlan(batch_sizes)
    read: list[list[Chunk]] = [of(objects).read_chunks(batch) for batch in reversed(range(len(batch_sizes)))]
    assert [chunk for batch in reversed(read) for chunk in batch] == chunks
    assert [len(batch) for batch in reversed(read)] == list(batch_sizes)


@pytest.mark.parametrize("shape", [(1, 384), (128, 384), (7, 1)])
def test_vectors_come_back_bit_by_bit(objects: DirectoryStore, shape: tuple[int, int]) -> None:
    """Shape, dtype, order and every bit of a float32 survive, denormals and signed zeros included."""
    vectors = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    vectors[0, 0] = np.float32(-0.0)
    vectors[-1, -1] = np.float32(1e-42)
    of(objects).write_vectors(3, vectors)
    read = of(objects).read_vectors(3)
    assert (read.shape, read.dtype) == (shape, np.dtype(np.float32))
    assert read.tobytes() == vectors.tobytes()
    assert of(objects).has_vectors(3)
    assert not of(objects).has_vectors(0)


def test_the_first_writer_of_every_checkpoint_wins(objects: DirectoryStore) -> None:
    """A committed checkpoint never changes: a late attempt with other output reads the first one's."""
    first, late = of(objects), of(objects)
    page, chunks, vectors = Page(2, Route.OCR, "first"), some_chunks(5), np.ones((2, 3), dtype=np.float32)
    first.write_inspection(PAGES)
    first.write_page(page)
    first.write_page(Page(5, Route.OCR, "five"))
    first.write_chunks(chunks, batch_size=2)
    first.write_vectors(0, vectors)
    late.write_inspection(text_pages("only one page"))
    late.write_page(Page(2, Route.OCR, "late"))
    late.write_chunks(some_chunks(1, words="late"), batch_size=9)
    late.write_vectors(0, vectors * 2)
    assert late.inspection() == Inspection(5, (2, 5), ((4, "broken"),))
    assert late.read_pages()[1] == page
    assert late.chunk_plan() == ChunkPlan((2, 2, 1))
    assert late.read_chunks(0) == chunks[:2]
    assert late.read_vectors(0).tolist() == vectors.tolist()


def test_given_up_pages_give_chunks_and_vectors_keys_of_their_own(objects: DirectoryStore) -> None:
    """A retry that reads the pages finds no chunks that lack them; the pages themselves are shared."""
    complete, partial, other = of(objects), of(objects, 5, 2), of(objects, 5)
    assert len({each.chunks_key for each in (complete, partial, other)}) == 3
    assert len({each.vectors_prefix for each in (complete, partial, other)}) == 3
    assert partial.chunks_key == of(objects, 2, 5).chunks_key
    assert partial.inspection_key == complete.inspection_key
    assert partial.pages_prefix == complete.pages_prefix
    partial.write_chunks(some_chunks(2), batch_size=2)
    assert complete.chunk_plan() is None


def test_given_up_pages_are_left_out(objects: DirectoryStore) -> None:
    """Without pages 4 and 5 the others are read, and nobody asks for what was given up."""
    of(objects).write_inspection(PAGES)
    of(objects).write_page(Page(2, Route.OCR, "Zwei."))
    assert [page.page_number for page in of(objects, 4, 5).read_pages()] == [1, 2, 3]


def test_another_embedding_model_leaves_pages_and_chunks(objects: DirectoryStore) -> None:
    """Only `embed` changed: inspection, OCR and chunks are found where they were; vectors are looked for elsewhere."""
    before, after = of(objects), of(objects, embed="0" * 16)
    before.write_inspection(PAGES)
    before.write_page(Page(2, Route.OCR, "Zwei."))
    before.write_chunks(some_chunks(2), batch_size=2)
    before.write_vectors(0, np.ones((2, 3), dtype=np.float32))
    assert after.inspection() == before.inspection()
    assert after.committed_pages() == {2}
    assert after.read_chunks(0) == before.read_chunks(0)
    assert not after.has_vectors(0)


def test_another_chunk_size_leaves_pages(objects: DirectoryStore) -> None:
    """Only `chunk` and `embed` changed: nothing is read by OCR again."""
    before, after = of(objects), of(objects, chunk="0" * 16, embed="1" * 16)
    before.write_inspection(PAGES)
    before.write_page(Page(2, Route.OCR, "Zwei."))
    before.write_chunks(some_chunks(2), batch_size=2)
    assert after.committed_pages() == {2}
    assert after.chunk_plan() is None


def test_other_pages_or_another_document_share_nothing(objects: DirectoryStore) -> None:
    """Another `extract` fingerprint, and another document under the same pipeline, look elsewhere."""
    of(objects).write_inspection(PAGES)
    assert of(objects, extract="0" * 16).inspection() is None
    assert Checkpoints(objects, "d2", PIPELINE).inspection() is None


def test_everything_of_a_document_lies_under_its_prefix(objects: DirectoryStore) -> None:
    """Collection removes `checkpoints/{document_id}/`: no checkpoint lies anywhere else."""
    for checkpoints in (of(objects), of(objects, 2), of(objects, extract="x", chunk="y", embed="z")):
        checkpoints.write_inspection(PAGES)
        checkpoints.write_page(Page(2, Route.OCR, "Zwei."))
        checkpoints.write_chunks(some_chunks(1), batch_size=1)
        checkpoints.write_vectors(0, np.ones((1, 3), dtype=np.float32))
    keys = objects.keys("checkpoints/")
    assert keys == objects.keys("checkpoints/d/")
    assert "checkpoints/d/eeeeeeeeeeeeeeee/pages/000002.parquet" in keys
    assert "checkpoints/d/ffffffffffffffff/vectors/000000.parquet" in keys
