"""The image of a page that people are shown."""

import cv2
import numpy as np
import pytest

from ingest.errors import PageUnreadable
from ingest.stages.pageimage import page_png
from ingest.stages.pdf import Pdf, render
from tests.inks import two_inks


def test_the_image_is_the_page_as_it_renders() -> None:
    """A PNG without loss, its colours the right way round."""
    content = two_inks([(60, 100, "red")], [(60, 200, "black")], prepare=lambda page: page.set_rotation(90))
    with Pdf.open(content, max_pages=1) as pdf:
        png = page_png(pdf, 1, dpi=72, max_pixels=6_000_000)
        assert png.startswith(b"\x89PNG")
        image = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(image, render(pdf, 1, dpi=72, max_pixels=6_000_000))


def test_the_image_has_at_most_so_many_pixels() -> None:
    """The bound is that of rendering."""
    with Pdf.open(two_inks([(60, 100, "red")]), max_pages=1) as pdf:
        png = page_png(pdf, 1, dpi=600, max_pixels=100_000)
    image = cv2.imdecode(np.frombuffer(png, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert 90_000 <= image.shape[0] * image.shape[1] <= 100_000


def test_a_page_that_does_not_exist_is_a_clear_error() -> None:
    """As when it is rendered for OCR."""
    with Pdf.open(two_inks([(60, 100, "red")]), max_pages=1) as pdf, pytest.raises(PageUnreadable):
        page_png(pdf, 2, dpi=72, max_pixels=100_000)
