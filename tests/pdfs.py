"""PDFs for tests, made on the spot."""

from collections.abc import Sequence
from typing import Any

import pymupdf

_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it
MARGINS = (50, 50, 545, 800)
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
