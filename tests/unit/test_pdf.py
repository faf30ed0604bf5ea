"""Opening, classifying and rendering PDFs that are made here, in memory."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
import pytest
from PIL import Image

from ingest.errors import CorruptPdf, EmptyFile, EncryptedPdf, NoPages, NotAPdf, PageUnreadable, TooManyPages
from ingest.model import Page, Route
from ingest.stages.pdf import Pdf, inspect, render

mupdf: Any = pymupdf
SENTENCE = "The harbour master wrote down every ship that came in before the storm. "
A4 = mupdf.Rect(0, 0, 595, 842)


def make(*draw: Callable[[Any], object], **save: object) -> bytes:
    """A PDF with one A4 page for each function, which draws it."""
    document = mupdf.open()
    for draw_page in draw:
        draw_page(document.new_page(width=A4.width, height=A4.height))
    content: bytes = document.tobytes(**save)
    return content


def write(text: str, **options: object) -> Callable[[Any], object]:
    """Draws text into the page's middle."""
    return lambda page: page.insert_textbox((60, 60, 540, 800), text, **options)


def picture(rect: Any = A4) -> Callable[[Any], object]:
    """Draws an opaque image."""
    pixmap = mupdf.Pixmap(mupdf.csGRAY, mupdf.IRect(0, 0, 20, 30))
    pixmap.clear_with(200)
    return lambda page: page.insert_image(rect, pixmap=pixmap, keep_proportion=False)


def both(*draw: Callable[[Any], object]) -> Callable[[Any], object]:
    """Draws one thing after the other."""
    return lambda page: [step(page) for step in draw]


def raw(*objects: bytes) -> bytes:
    """A PDF of these objects, the first its catalog."""
    body, entries = b"%PDF-1.5\n", b"0000000000 65535 f \n"
    for number, text in enumerate(objects, 1):
        entries += b"%010d 00000 n \n" % len(body)
        body += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    size = len(objects) + 1
    trailer = b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF" % (size, len(body))
    return body + b"xref\n0 %d\n" % size + entries + trailer


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """A stream object."""
    return b"<</Length %d %s>>stream\n%s\nendstream" % (len(content), entries, content)


def pages_of(content: bytes) -> list[Page]:
    """What the inspection yields."""
    with Pdf.open(content, max_pages=100) as pdf:
        return [inspect(pdf, page_number) for page_number in range(1, pdf.page_count + 1)]


def one(content: bytes) -> Page:
    """What the inspection yields for a PDF of one page."""
    (page,) = pages_of(content)
    return page


def image_of(content: bytes, *, dpi: int = 72, max_pixels: int = 6_000_000) -> np.ndarray[Any, Any]:
    """The first page, rendered."""
    with Pdf.open(content, max_pages=100) as pdf:
        return render(pdf, 1, dpi=dpi, max_pixels=max_pixels)


def test_an_empty_file_is_refused() -> None:
    """Zero bytes have their own error."""
    with pytest.raises(EmptyFile):
        Pdf.open(b"", max_pages=10)


@pytest.mark.parametrize(
    "content", [b"Dear Sir or Madam", b"\x89PNG\r\n\x1a\n" + bytes(2000), bytes(2000) + b"%PDF-1.4"]
)
def test_a_file_of_another_kind_is_refused(content: bytes) -> None:
    """The PDF header decides, within the first kilobyte; the name does not."""
    with pytest.raises(NotAPdf):
        Pdf.open(content, max_pages=10)


NO_PAGES = (
    b"\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n2 0 obj\n<</Type/Pages/Kids[]>>\nendobj\ntrailer<</Root 1 0 R>>"
)


@pytest.mark.parametrize("rest", [b"", b"\n" + bytes(range(256)) * 8, NO_PAGES])
def test_a_header_without_a_document_is_corrupt(rest: bytes) -> None:
    """What MuPDF cannot repair is the file's fault, not an internal error."""
    with pytest.raises(CorruptPdf):
        Pdf.open(b"%PDF-1.7" + rest, max_pages=10)


def test_a_password_is_asked_for_by_an_error() -> None:
    """A PDF with a user password cannot be opened."""
    content = make(write(SENTENCE), encryption=mupdf.PDF_ENCRYPT_AES_256, user_pw="secret", owner_pw="owner")
    with pytest.raises(EncryptedPdf, match="password"):
        Pdf.open(content, max_pages=10)


def test_an_empty_user_password_opens() -> None:
    """Most encrypted PDFs merely restrict printing; everybody may read them."""
    content = make(write(SENTENCE), encryption=mupdf.PDF_ENCRYPT_AES_256, user_pw="", owner_pw="owner")
    assert one(content).text == SENTENCE.strip()


def test_a_pdf_without_pages_is_refused() -> None:
    """It opens and holds nothing."""
    with pytest.raises(NoPages):
        Pdf.open(raw(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"), max_pages=10)


def test_more_pages_than_allowed_are_refused() -> None:
    """The limit itself is allowed, and the message names both numbers."""
    content = make(*[write(SENTENCE)] * 3)
    Pdf.open(content, max_pages=3).close()
    with pytest.raises(TooManyPages, match=r"3 pages; at most 2"):
        Pdf.open(content, max_pages=2)


def test_a_path_opens_like_bytes(tmp_path: Path) -> None:
    """A worker may have the source as a file."""
    file = tmp_path / "source.pdf"
    file.write_bytes(make(write(SENTENCE)))
    with Pdf.open(file, max_pages=10) as pdf:
        assert pdf.page_count == 1


def test_a_text_layer_is_read_in_paragraphs() -> None:
    """Lines of a paragraph are unwrapped, paragraphs are parted by one empty line."""
    page = one(make(both(write(SENTENCE * 3), lambda page: page.insert_text((60, 300), "A second paragraph."))))
    assert page == Page(1, Route.TEXT, (SENTENCE * 3).strip() + "\n\nA second paragraph.")


@pytest.mark.parametrize(
    "text",
    [
        "Съешь же ещё этих мягких булок",
        "私は毎日学校へ行きます。",
        "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
        "한국어 텍스트",
        "שלום עולם",
        "สวัสดีชาวโลก",
    ],
)
def test_every_script_is_good_text(text: str) -> None:
    """Letters are letters, in whichever alphabet."""
    assert one(make(lambda page: page.insert_htmlbox(A4, f"<p>{text}</p>"))).route is Route.TEXT


def test_leader_dots_are_not_garbage() -> None:
    """A table of contents is text."""
    assert one(make(write("Introduction " + "." * 60 + " 7\nMethods " + ". " * 60 + "12"))).route is Route.TEXT


def test_glyphs_without_meaning_are_garbage() -> None:
    """A font that does not say which characters its glyphs are gives a text layer that nobody can read."""
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>"
    content = raw(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        stream(b"BT /F 12 Tf 50 700 Td (ABABABAB ABAB) Tj ET"),
        font,
        stream(
            b"begincmap 1 begincodespacerange <00> <FF> endcodespacerange "
            b"2 beginbfchar <41> <E001> <42> <E002> endbfchar endcmap"
        ),
    )
    page = one(content)
    assert (page.route, page.reason, page.text) == (Route.OCR, "garbage text layer", "")


def test_a_scan_goes_to_ocr() -> None:
    """A picture of a page has no text to read."""
    assert one(make(picture())) == Page(1, Route.OCR, "", "no text layer")


def test_text_drawn_as_shapes_goes_to_ocr() -> None:
    """Outlines look like text and are none."""
    page = one(make(lambda page: page.draw_line((50, 50), (300, 90))))
    assert (page.route, page.reason) == (Route.OCR, "text drawn as shapes")


def test_an_invisible_text_layer_over_a_scan_is_not_trusted() -> None:
    """Somebody else's OCR is done again."""
    page = one(make(both(picture(), write(SENTENCE * 5, render_mode=3))))
    assert (page.route, page.reason) == (Route.OCR, "invisible text over an image")


def test_invisible_text_is_not_part_of_the_text() -> None:
    """Only what is painted is read."""
    page = one(make(both(write(SENTENCE), lambda page: page.insert_text((60, 400), "hidden words", render_mode=3))))
    assert page.text == SENTENCE.strip()


def test_headings_are_read_beside_invisible_text() -> None:
    """MuPDF keeps them in blocks within blocks."""
    heading = both(
        lambda page: page.insert_text((60, 50), "The Harbour", fontsize=24, fontname="hebo"), write(SENTENCE)
    )
    hidden = both(heading, lambda page: page.insert_text((60, 400), "hidden words", render_mode=3))
    assert one(make(hidden)).text == one(make(heading)).text == f"The Harbour\n\n{SENTENCE.strip()}"


def test_a_page_number_over_a_scan_is_not_its_text() -> None:
    """A little text on a page-size image is a stamp, a page number or a figure's labels."""
    page = one(make(both(picture(), lambda page: page.insert_text((280, 820), "Page 12"))))
    assert (page.route, page.reason) == (Route.OCR, "little text on a page-size image")


def test_real_text_over_a_background_picture_is_read() -> None:
    """Letterheads and slides have page-size pictures behind good text."""
    assert one(make(both(picture(), write(SENTENCE * 5)))).route is Route.TEXT


def test_text_under_an_opaque_picture_goes_to_ocr() -> None:
    """Nobody sees that text; what they see is the picture."""
    page = one(make(both(write(SENTENCE * 5), picture())))
    assert (page.route, page.reason) == (Route.OCR, "text hidden under a page-size image")


def test_a_small_picture_beside_text_changes_nothing() -> None:
    """A logo is no scan."""
    assert one(make(both(picture(mupdf.Rect(0, 0, 90, 90)), write("Kind regards")))).route is Route.TEXT


def test_coverage_is_measured_on_a_turned_page() -> None:
    """Rotation turns the page, not the share of it that a picture covers."""
    turned = both(
        picture(mupdf.Rect(0, 250, 595, 842)),
        lambda page: page.insert_text((280, 820), "Page 12"),
        lambda page: page.set_rotation(90),
    )
    assert one(make(turned)).route is Route.OCR


@pytest.mark.parametrize(
    "draw", [lambda _: None, lambda page: page.insert_text((60, 60), "   "), write(SENTENCE, render_mode=3)]
)
def test_a_page_with_nothing_to_see_is_blank(draw: Callable[[Any], object]) -> None:
    """Spaces and invisible text leave no mark."""
    assert one(make(draw)).route is Route.BLANK


def test_filled_form_fields_are_text() -> None:
    """What somebody typed into a form is on the page."""

    def fill(page: Any) -> None:
        field = mupdf.Widget()
        field.field_name, field.field_type, field.field_value = "name", mupdf.PDF_WIDGET_TYPE_TEXT, "Ada Lovelace"
        field.rect = mupdf.Rect(60, 300, 400, 330)
        page.add_widget(field)

    assert "Ada Lovelace" in one(make(both(write(SENTENCE), fill))).text


@pytest.mark.parametrize("lost", ["page", "contents"])
def test_a_broken_page_is_unreadable_and_alone(lost: str) -> None:
    """A page whose object or content is missing is not passed off as blank, and its neighbours are read."""
    document = mupdf.open(stream=make(*[write(SENTENCE)] * 3))
    page = document[1]
    document.update_object(page.xref if lost == "page" else page.get_contents()[0], "null")
    pages = pages_of(document.tobytes())
    assert [page.route for page in pages] == [Route.TEXT, Route.UNREADABLE, Route.TEXT]
    assert [page.page_number for page in pages] == [1, 2, 3]
    assert pages[1].reason


def test_rendering_gives_blue_green_red_at_the_resolution_asked_for() -> None:
    """The array is what OpenCV and PaddleOCR expect."""
    image = image_of(make(lambda page: page.draw_rect(A4, fill=(1, 0, 0), color=(1, 0, 0))), dpi=144)
    assert image.dtype == np.uint8
    assert image.shape == (1684, 1190, 3)
    assert image[800, 600].tolist() == [0, 0, 255]


def test_rendering_honours_rotation_and_crop_box() -> None:
    """The image is the page as a reader shows it."""
    content = make(both(lambda page: page.set_cropbox(mupdf.Rect(0, 0, 200, 100)), lambda page: page.set_rotation(90)))
    assert image_of(content).shape == (200, 100, 3)


@pytest.mark.parametrize(("width", "height"), [(18_000, 36_000), (300_000, 20), (3, 14_400), (595, 842)])
def test_rendering_is_bounded_before_it_begins(width: int, height: int) -> None:
    """A page as large as a house is rendered small: at most so many pixels, and 4,000 on a side."""
    document = mupdf.open()
    document.new_page(width=width, height=height)
    image = image_of(document.tobytes(), dpi=600, max_pixels=1_000_000)
    assert 0 < image.shape[0] * image.shape[1] <= 1_000_000
    assert max(image.shape) <= 4_000


def jpeg_2000(side: int) -> bytes:
    """The header of a square image of `side` pixels, and no image."""
    file = io.BytesIO()
    Image.new("RGB", (24, 24)).save(file, "JPEG2000")
    return file.getvalue().replace((24).to_bytes(4, "big"), side.to_bytes(4, "big"))


@pytest.mark.parametrize(("side", "codec"), [(20_000, b"FlateDecode"), (9_000, b"JPXDecode")])
def test_an_image_too_large_to_decode_makes_its_page_unreadable(side: int, codec: bytes) -> None:
    """Its declared size is enough to refuse it, when inspecting and when rendering."""
    size = b"/Width %d/Height %d" % (side, side)
    image = b"/Type/XObject/Subtype/Image%s/ColorSpace/DeviceRGB/BitsPerComponent 8/Filter/%s" % (size, codec)
    content = raw(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>",
        stream(b"q 595 0 0 842 0 0 cm /I Do Q"),
        stream(jpeg_2000(side) if codec == b"JPXDecode" else b"", image),
    )
    page = one(content)
    assert (page.route, "too large" in page.reason) == (Route.UNREADABLE, True)
    with pytest.raises(PageUnreadable, match=f"{side} x {side}") as caught:
        image_of(content)
    assert caught.value.page_number == 1


def test_a_scan_whose_image_is_damaged_is_not_passed_off_as_blank() -> None:
    """MuPDF skips what it cannot decode; an empty page that it complained about is unreadable."""
    image = b"/Type/XObject/Subtype/Image/Width 90/Height 90/ColorSpace/DeviceRGB/BitsPerComponent 8/Filter/JPXDecode"
    content = raw(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>",
        stream(b"q 595 0 0 842 0 0 cm /I Do Q"),
        stream(b"not an image", image),
    )
    assert one(content).route is Route.UNREADABLE


def test_rendering_a_page_that_does_not_exist_is_a_clear_error() -> None:
    """No index error leaves this module."""
    with Pdf.open(make(write(SENTENCE)), max_pages=10) as pdf, pytest.raises(PageUnreadable):
        render(pdf, 2, dpi=72, max_pixels=1_000_000)
