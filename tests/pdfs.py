"""PDFs for tests, made on the spot."""

import random
from collections.abc import Sequence
from typing import Any

import pymupdf

_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it
MARGINS = (50, 50, 545, 800)
ENDLESS_LINES = 400_000
SCAN = None  # a page that holds nothing but an image


def pdf_of(pages: Sequence[str | None], **save: Any) -> bytes:
    """A PDF with a text on each page, or (for `SCAN`) a grey image over the whole of it."""
    document = _mupdf.open()
    image = _mupdf.Pixmap(_mupdf.csGRAY, _mupdf.IRect(0, 0, 100, 140))
    image.clear_with(200)
    for text in pages:
        page = document.new_page()
        if text is None:
            page.insert_image(page.rect, pixmap=image)
        else:
            page.insert_textbox(MARGINS, text)
    data: bytes = document.tobytes(**save)
    return data


def encrypted_pdf() -> bytes:
    """A PDF that needs a password."""
    return pdf_of(["secret"], encryption=_mupdf.PDF_ENCRYPT_AES_256, user_pw="user", owner_pw="owner")


def pdf_without_pages() -> bytes:
    """A PDF whose page tree is empty."""
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )


def repeated(pdf: bytes, pages: int) -> bytes:
    """So many pages: those of the PDF, again and again."""
    one, long = _mupdf.open(stream=pdf, filetype="pdf"), _mupdf.open()
    for number in range(pages):
        long.insert_pdf(one, from_page=number % len(one), to_page=number % len(one))
    data: bytes = long.tobytes()
    return data


def with_damaged_page(pdf: bytes, page_number: int) -> bytes:
    """The PDF with nothing where that page should be."""
    document = _mupdf.open(stream=pdf, filetype="pdf")
    document.update_object(document[page_number - 1].xref, "null")
    data: bytes = document.tobytes()
    return data


def endless_page(pdf: bytes, page_number: int) -> bytes:
    """The PDF with a page that takes MuPDF minutes to render: very many long lines, no text."""
    document = _mupdf.open(stream=pdf, filetype="pdf")
    page = document[page_number - 1]
    numbers = random.Random(page_number)
    lines = "\n".join(
        f"{numbers.randrange(600)} {numbers.randrange(800)} m {numbers.randrange(600)} {numbers.randrange(800)} l S"
        for _ in range(ENDLESS_LINES)
    )
    document.update_stream(page.get_contents()[0], f"0.1 w\n{lines}\n".encode())
    data: bytes = document.tobytes(deflate=True)
    return data
