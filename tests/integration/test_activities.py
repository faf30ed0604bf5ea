"""The units of work in a worker process: what they open, load and skip."""

import hashlib
from pathlib import Path
from unittest.mock import patch

import pymupdf
import pytest

from ingest import ids
from ingest.activities import Activities
from ingest.checkpoints import Checkpoints
from ingest.errors import ObjectMissing, WorkerCrashed
from ingest.model import Revision, Route
from ingest.settings import Settings
from ingest.stages import pdf
from ingest.stages.ocr import Ocr
from ingest.stages.pdf import Pdf
from ingest.stores import Stores
from tests.conftest import PIPELINE
from tests.integration.engines import embed, inspection_of
from tests.pdfs import SCAN, pdf_of

DOCUMENT = "d" * 32
PROSE = "The keeper writes down the wind, the glass and the state of the sea at every change of the watch. " * 18


@pytest.fixture
def activities(stores: Stores, settings: Settings) -> Activities:
    """The activities of one worker process."""
    return Activities(stores, settings)


def revision_of(data: bytes, stores: Stores) -> Revision:
    """A revision whose source is there."""
    document_id = hashlib.sha256(data).hexdigest()[:32]
    stores.objects.put(ids.source_key(document_id), data)
    return Revision("default", document_id, 1, PIPELINE)


def test_the_pdf_is_opened_once_per_worker_and_document(activities: Activities, stores: Stores) -> None:
    """Inspection and every page's OCR of one document share one opening, not one a page."""
    revision = revision_of(pdf_of([PROSE, SCAN, SCAN, SCAN]), stores)
    with patch.object(Pdf, "open", wraps=Pdf.open) as opened:
        inspection_of(activities, revision)
        for page_number in (2, 3, 4):
            activities.read_page(revision, page_number)
    assert opened.call_count == 1


def test_pages_of_two_documents_in_turn_open_each_once(activities: Activities, stores: Stores) -> None:
    """A worker that serves two jobs fairly keeps both PDFs open."""
    one, two = (revision_of(pdf_of([SCAN, SCAN, text]), stores) for text in ("one", "two"))
    with patch.object(Pdf, "open", wraps=Pdf.open) as opened:
        for page_number in (1, 2):
            activities.read_page(one, page_number)
            activities.read_page(two, page_number)
    assert opened.call_count == 2


def test_work_whose_checkpoint_exists_is_not_done_again(activities: Activities, stores: Stores) -> None:
    """Each unit returns at once with what the first run committed, even when the source is gone."""
    revision = revision_of(pdf_of([PROSE, SCAN]), stores)
    first = inspection_of(activities, revision)
    activities.read_page(revision, 2)
    plan = activities.cut(revision)
    embed(activities, revision, 0)
    committed = stores.objects.keys(ids.checkpoint_prefix(revision.document_id))
    stores.objects.delete(ids.source_key(revision.document_id))
    fresh = Activities(stores, Settings())
    with (
        patch.object(fresh, "load_ocr", side_effect=AssertionError),
        patch.object(fresh, "load_embedder", side_effect=AssertionError),
    ):
        assert inspection_of(fresh, revision) == first
        fresh.read_page(revision, 2)
        assert fresh.cut(revision) == plan
        assert fresh.chunks_to_embed(revision, 0) == []
    assert stores.objects.keys(ids.checkpoint_prefix(revision.document_id)) == committed


def test_a_source_that_is_gone_is_said_so(activities: Activities) -> None:
    """The user is told to send the file again."""
    with pytest.raises(ObjectMissing, match="Send it again"):
        inspection_of(activities, Revision("default", DOCUMENT, 1, PIPELINE))


def test_real_vectors_are_near_for_near_meanings(activities: Activities, stores: Stores) -> None:
    """The real model, through the checkpoints: unit length, and a paraphrase nearer than another subject."""
    pages = ["The boat could not land because of the surf.", "Bread is baked on Tuesdays."]
    revision = revision_of(pdf_of(pages), stores)
    inspection_of(activities, revision)
    plan = activities.cut(revision)
    assert plan.chunk_count == 1  # both sentences fit into one chunk
    embed(activities, revision, 0)
    [vector] = Checkpoints(stores.objects, revision.document_id, PIPELINE).read_vectors(0)
    near, far = (
        activities.load_embedder(threads=1).embed_query(text) for text in ("heavy seas at the jetty", "tax law")
    )
    assert vector @ vector == pytest.approx(1, abs=1e-4)
    assert vector @ near > vector @ far


def test_a_born_digital_book_needs_no_ocr(activities: Activities, stores: Stores) -> None:
    """Every page's text is read and committed by the inspection alone."""
    revision = revision_of(pdf_of([f"Sheet {number}. {PROSE}" for number in range(1, 51)]), stores)
    assert inspection_of(activities, revision).ocr_pages == ()
    pages = Checkpoints(stores.objects, revision.document_id, PIPELINE).read_pages()
    assert {page.route for page in pages} == {Route.TEXT}
    assert [page.text.split(".")[0] for page in pages] == [f"Sheet {number}" for number in range(1, 51)]


def test_the_committed_inspection_of_another_worker_wins(
    activities: Activities, stores: Stores, tmp_path: Path
) -> None:
    """Two workers at the same inspection read the same checkpoint afterwards, whoever was first."""
    revision = revision_of(pdf_of([PROSE, SCAN]), stores)
    other = Activities(stores, Settings(data_dir=tmp_path))
    assert inspection_of(activities, revision) == inspection_of(other, revision)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (RuntimeError("Input shape is wrong"), WorkerCrashed),
        (KeyError("rec_text"), WorkerCrashed),
        (RuntimeError("std::bad_alloc"), MemoryError),
        (RuntimeError("OpenCV(4.10.0) error: (-4:Insufficient memory)"), MemoryError),
    ],
    ids=["onnx", "key", "bad_alloc", "opencv"],
)
def test_what_goes_wrong_at_a_page_is_the_pages_failure(
    activities: Activities, stores: Stores, raised: Exception, told: type[Exception]
) -> None:
    """Whatever its libraries raise: its neighbours lose nothing by it, and running out of memory is told apart."""
    revision = revision_of(pdf_of([PROSE, SCAN]), stores)
    inspection_of(activities, revision)
    with patch.object(Ocr, "read", side_effect=raised), pytest.raises(told) as caught:
        activities.read_page(revision, 2)
    assert getattr(caught.value, "page_number", 2) == 2


def test_memory_that_runs_out_is_not_held_against_a_page_for_ever(activities: Activities, stores: Stores) -> None:
    """The limit may have struck: an inspection that commits "unreadable" would keep every retry from the page."""
    revision = revision_of(pdf_of([PROSE, PROSE]), stores)
    struck = pymupdf.mupdf.FzErrorSystem("malloc failed")
    with patch.object(pdf, "_classify", side_effect=struck), pytest.raises(MemoryError):
        inspection_of(activities, revision)
    assert inspection_of(activities, revision).unreadable_pages == ()
