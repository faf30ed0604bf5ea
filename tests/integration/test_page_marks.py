"""A search hit on the image of its page: through the activities, with the real OCR."""

import hashlib
from collections.abc import Iterable
from math import ceil
from typing import Any

import cv2
import numpy as np
import pymupdf
import pytest
from numpy.typing import NDArray

from ingest import ids
from ingest.activities import PAGE_IMAGE_DPI, Activities
from ingest.errors import NotFound, SourceNotKept
from ingest.model import Route
from ingest.settings import Settings
from ingest.stages.marks import marks_of
from ingest.stages.pdf import Pdf, inspect, render, text_words
from ingest.stores import Stores
from samples.scanner import scan
from tests.inks import Line, Mask, covered, red_and_black, share, two_inks
from tests.pdfs import pdf_of

mupdf: Any = pymupdf
SEED = 11
TITLE = [(70.0, 60.0, "Two Reports from the Coast, with Remarks on the Harvest Inland")]
LEFT = [
    "The harbour was quiet when the",
    "first boats came home. Nobody on",
    "the quay had expected them then,",
    "and the nets were still hanging in",
    "the sheds. A boy ran up the hill to",
    "tell the keeper of the light, who",
    "wrote the hour, 14:35, into his book",
    "and went down to look for himself.",
]
RIGHT = [
    "Further inland the fields had been",
    "cut a week ago. Carts stood in the",
    "yards, loaded with 1,250 bundles of",
    "straw, and the miller counted sacks",
    "twice a day. He trusted his clerk, he",
    "said, but he trusted his own chalk",
    "marks on the wooden door a good",
    "deal more than that.",
]


def column(x: float, texts: Iterable[str], top: float = 110) -> list[Line]:
    """Lines below each other, wide enough apart that the box of a slanted one reaches no other."""
    return [(x, top + 26 * number, text) for number, text in enumerate(texts)]


LINES = column(70, LEFT) + column(310, RIGHT)
HIT = LINES[4:11]  # from the foot of the left column to the head of the right one


@pytest.fixture
def activities(stores: Stores, settings: Settings) -> Activities:
    """The activities of one worker process."""
    return Activities(stores, settings)


def kept(stores: Stores, data: bytes) -> str:
    """The id of a document whose source is there."""
    document_id = hashlib.sha256(data).hexdigest()[:32]
    stores.objects.put(ids.source_key(document_id), data)
    return document_id


def scanned(lines: Iterable[Line]) -> bytes:
    """These lines as the samples' scanner sees them: the same slant each time, whatever the lines."""
    page = mupdf.open(stream=two_inks([], lines))[0]
    return scan(page, np.random.default_rng(SEED))


def ink(lines: Iterable[Line], shape: tuple[int, ...]) -> Mask:
    """Where the scanner puts these lines, on an image of this size."""
    image = cv2.imdecode(np.frombuffer(scanned(lines), dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    dark: Mask = cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) < 150
    return dark


def image_of(png: bytes) -> NDArray[np.uint8]:
    """The pixels, blue green red."""
    return np.asarray(cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


def test_marks_on_a_scan_cover_what_the_scanner_drew(activities: Activities, stores: Stores) -> None:
    """Two slanted columns: whether the chunk's text is what OCR read or what was printed, its ink is marked.

    Of what stands beside it, next to nothing is.
    """
    document = mupdf.open()
    document.new_page(width=595, height=842).insert_image((0, 0, 595, 842), stream=scanned(TITLE + LINES))
    data = document.tobytes()
    document_id = kept(stores, data)
    image = image_of(activities.page_image(document_id, 1))
    hit, rest = ink(HIT, image.shape), ink([*TITLE, *(line for line in LINES if line not in HIT)], image.shape)
    with Pdf.open(data, max_pages=1) as pdf:
        assert inspect(pdf, 1).route is Route.OCR
        pixels = render(pdf, 1, dpi=200, max_pixels=6_000_000)
    lines = activities.load_ocr().read_lines(pixels)
    text = activities.load_ocr().read(pixels)
    assert " ".join(line.text for line in lines) == text.replace("\n\n", " ")
    read = text[text.index("the sheds") : text.index("of straw") + 2]
    printed = " ".join(line for _, _, line in HIT).replace("1,250", "1.25O").replace("hour", "h0ur")
    for chunk_text in (read, printed):
        marks = activities.page_marks(document_id, 1, chunk_text)
        marked = covered(marks, image.shape)
        assert len(marks) == len(HIT)
        assert share(hit, marked) >= 0.99
        assert share(rest, marked) <= 0.02
    assert marks_of(lines, "Bread is baked on Tuesdays, and the tax is due on the first of the month.") == []


def test_marks_on_a_text_page_lie_on_its_image(activities: Activities, stores: Stores) -> None:
    """The text layer is enough: no model is loaded; the image is coloured, turned as the page, at its own dpi."""
    content = two_inks(
        HIT, [*TITLE, *(line for line in LINES if line not in HIT)], prepare=lambda page: page.set_rotation(90)
    )
    document_id = kept(stores, content)
    image = image_of(activities.page_image(document_id, 1))
    assert image.shape[:2] == (ceil(595 / 72 * PAGE_IMAGE_DPI), ceil(842 / 72 * PAGE_IMAGE_DPI))
    marked = covered(activities.page_marks(document_id, 1, " ".join(line for _, _, line in HIT)), image.shape)
    red, black = red_and_black(image)
    assert (share(red, marked), share(black, marked)) == (1, 0)
    assert activities._ocr is None


def test_a_blank_page_has_an_image_and_no_marks(activities: Activities, stores: Stores) -> None:
    """There is nothing to be read on it."""
    document_id = kept(stores, pdf_of([""]))
    assert image_of(activities.page_image(document_id, 1)).min() == 255
    assert activities.page_marks(document_id, 1, "anything") == []


def test_the_image_is_bounded_by_the_setting(stores: Stores) -> None:
    """`FANFOLD_MAX_PAGE_PIXELS` holds for people's images too."""
    document_id = kept(stores, pdf_of(["text"]))
    image = image_of(Activities(stores, Settings(max_page_pixels=100_000)).page_image(document_id, 1))
    assert image.shape[0] * image.shape[1] <= 100_000


def test_a_source_that_was_not_kept_is_said_so(activities: Activities) -> None:
    """Neither an image nor marks, and the message names the setting."""
    with pytest.raises(SourceNotKept, match="FANFOLD_KEEP_SOURCE=true"):
        activities.page_image("d" * 32, 1)
    with pytest.raises(SourceNotKept, match="FANFOLD_KEEP_SOURCE=true"):
        activities.page_marks("d" * 32, 1, "text")


@pytest.mark.parametrize("page_number", [-1, 0, 3])
def test_a_page_that_the_document_does_not_have_is_not_found(
    activities: Activities, stores: Stores, page_number: int
) -> None:
    """Page numbers run from 1 to the last page; the source is there, so it is not that."""
    document_id = kept(stores, pdf_of(["one", "two"]))
    with pytest.raises(NotFound, match=f"no page {page_number}") as no_image:
        activities.page_image(document_id, page_number)
    with pytest.raises(NotFound, match=f"no page {page_number}") as no_marks:
        activities.page_marks(document_id, page_number, "two")
    assert (no_image.type, no_marks.type) == (NotFound, NotFound)
    assert len(activities.page_marks(document_id, 2, "two")) == 1


def test_a_document_of_short_pages_is_marked_on_each(activities: Activities, stores: Stores) -> None:
    """A chunk that spans several pages marks the words that each of them holds."""
    data = pdf_of(["one", "two", "three"])
    document_id = kept(stores, data)
    with Pdf.open(data, max_pages=3) as pdf:
        boxes = [[word.box for word in text_words(pdf, page_number)] for page_number in (1, 2, 3)]
    assert [activities.page_marks(document_id, number, "one\n\ntwo\n\nthree") for number in (1, 2, 3)] == boxes
