"""Reading order on made-up pages, and the text's normal form."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.stages.layout import normalise, reading_order

LINE, PITCH = 24, 40  # height of a line and distance from one to the next, in pixels


def quads(*boxes: tuple[float, float, float], skew: float = 0.0) -> NDArray[np.float64]:
    """Lines given by left, right and top, on a page turned by `skew` degrees."""
    corners = np.array([[(x0, y), (x1, y), (x1, y + LINE), (x0, y + LINE)] for x0, x1, y in boxes], dtype=np.float64)
    turn = np.radians(skew)
    turned: NDArray[np.float64] = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return turned


def column(x0: float, x1: float, top: float, lines: int) -> list[tuple[float, float, float]]:
    """Lines of prose, the last of them short."""
    full = [(x0, x1, top + PITCH * line) for line in range(lines - 1)]
    return [*full, (x0, x0 + (x1 - x0) / 3, top + PITCH * (lines - 1))]


def order(page: NDArray[np.float64]) -> list[int]:
    """The lines as they are read, whatever their paragraphs."""
    return [line for paragraph in reading_order(page) for line in paragraph]


def shuffled(page: NDArray[np.float64], seed: int = 7) -> list[int]:
    """The reading order when the lines were found in any order, as indices of the ordered page."""
    found = np.random.default_rng(seed).permutation(len(page))
    return [int(found[line]) for line in order(page[found])]


def test_a_page_without_lines_has_no_paragraphs() -> None:
    """Nothing in, nothing out."""
    assert reading_order(np.empty((0, 4, 2))) == []


@pytest.mark.parametrize("skew", [0.0, 0.8, -0.8, 2.0])
def test_one_column_is_read_downwards(skew: float) -> None:
    """Also when the page lies askew."""
    page = quads(*column(100, 1500, 100, 40), skew=skew)
    assert shuffled(page) == list(range(40))


@pytest.mark.parametrize("skew", [0.0, 0.8, -0.8])
def test_two_columns_under_a_title_are_read_one_after_the_other(skew: float) -> None:
    """The title reaches across both; their lines stand side by side."""
    page = quads((300, 1300, 50), *column(100, 780, 150, 30), *column(820, 1500, 150, 28), skew=skew)
    assert shuffled(page) == list(range(59))


def test_columns_whose_lines_do_not_align_are_read_one_after_the_other() -> None:
    """No horizontal line parts the rows of both."""
    page = quads(*column(100, 780, 150, 20), *column(820, 1500, 167, 20))
    assert shuffled(page) == list(range(40))


def test_text_after_the_columns_follows_them() -> None:
    """A footer that reaches across is read last."""
    page = quads(*column(100, 780, 100, 10), *column(820, 1500, 100, 10), (100, 1500, 600))
    assert shuffled(page) == list(range(21))


def test_three_columns_are_read_from_left_to_right() -> None:
    """Any number of columns."""
    page = quads(*column(100, 500, 100, 9), *column(540, 940, 100, 9), *column(980, 1380, 100, 9))
    assert shuffled(page) == list(range(27))


@pytest.mark.parametrize("skew", [0.0, 0.8, -2.5])
def test_a_table_is_read_row_by_row(skew: float) -> None:
    """Short cells side by side are no columns of prose."""
    rows = [(x, x + width, 100.0 + PITCH * row) for row in range(8) for x, width in ((100, 90), (500, 160), (1100, 60))]
    assert shuffled(quads(*rows, skew=skew)) == list(range(24))


def test_a_wider_gap_begins_a_paragraph() -> None:
    """Lines apart by more than usual are parted."""
    page = quads(*column(100, 1500, 100, 4), *column(100, 1500, 100 + 4 * PITCH + 30, 4))
    assert reading_order(page) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_an_indent_begins_a_paragraph() -> None:
    """As books do it, without a gap."""
    page = quads(*column(100, 1500, 100, 4), (150, 1500, 260), *column(100, 1500, 300, 4))
    assert reading_order(page) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("paragraphs", "text"),
    [
        (["one\ntwo", " ", "three"], "one two\n\nthree"),
        (["inter-\nnational"], "international"),
        (["inter\u2010\nnational", "soft\u00ad\nened"], "international\n\nsoftened"),
        (["Jean-\nPaul", "1914-\n1918", "a well-known fact"], "Jean- Paul\n\n1914- 1918\n\na well-known fact"),
        (
            ["e\ufb03cient \ufb01sh", "\ufe8d\ufedf\ufeb4\ufefc\ufee1"],
            "efficient fish\n\n\u0627\u0644\u0633\u0644\u0627\u0645",
        ),
        (["cafe\u0301 m\u00b2 \u2460"], "café m\u00b2 \u2460"),
        (["a\x00b\x07c\ud800d\ufeff\ufffe"], "abcd"),
        (["  much   \t\u00a0\u2003space \r\n here  "], "much space here"),
        (["日本語の\n文章。", "漢字 and\nLatin"], "日本語の文章。\n\n漢字 and Latin"),
    ],
    ids=["unwrap", "hyphen", "other hyphens", "kept hyphens", "ligatures", "NFC", "controls", "spaces", "unspaced"],
)
def test_text_is_normalised(paragraphs: list[str], text: str) -> None:
    """The normal form, one rule a case."""
    assert normalise(paragraphs) == text
    assert normalise(paragraphs).encode()


def test_normal_text_stays_as_it_is() -> None:
    """Normalising twice changes nothing the second time."""
    text = normalise(["A line-\nbreak, a \ufb01sh", "and \u00ad more"])
    assert normalise(text.split("\n\n")) == text
