"""Marks on pages that are drawn here: they cover the ink of the chunk's words, and no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.stages.layout import normalise
from ingest.stages.marks import Mark, Word, marks_of
from ingest.stages.pdf import Pdf, inspect, render, text_words
from samples.build import build
from samples.pages import PageKind, find_work, load_pages
from tests.inks import Line, covered, red_and_black, share, two_inks
from tests.pdfs import SCAN, pdf_of

mupdf: Any = pymupdf
BEFORE = ["The harbour was quiet when the first boats", "came home, and nobody on the quay had", "expected them."]
CHUNK = ["A boy ran up the hill to tell the keeper of", "the light, who wrote the hour, 14:35, into", "his book."]
AFTER = ["Further inland the fields had been cut a", "week ago, and carts stood in the yards."]


def column(x: float, top: float, texts: list[str]) -> list[Line]:
    """Lines below each other."""
    return [(x, top + 20 * number, text) for number, text in enumerate(texts)]


def marks_on(content: bytes, chunk_text: str) -> list[Mark]:
    """The marks on a PDF's first page."""
    with Pdf.open(content, max_pages=9) as pdf:
        return marks_of(text_words(pdf, 1), chunk_text)


def assert_marks_the_red(content: bytes, chunk_text: str) -> list[Mark]:
    """The marks cover every pixel of red ink, and none of black ink."""
    marks = marks_on(content, chunk_text)
    with Pdf.open(content, max_pages=1) as pdf:
        image = render(pdf, 1, dpi=110, max_pixels=6_000_000)
    red, black = red_and_black(image)
    marked = covered(marks, image.shape)
    assert share(red, marked) == 1
    assert share(black, marked) == 0
    return marks


def cropped(page: Any) -> None:
    """Cut away what lies outside the lines."""
    page.set_cropbox(mupdf.Rect(55, 70, 400, 300))


def turned(degrees: int, *, crop: bool = False) -> Callable[[Any], None]:
    """Turn the page, and crop it before."""

    def prepare(page: Any) -> None:
        if crop:
            cropped(page)
        page.set_rotation(degrees)

    return prepare


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_marks_cover_the_chunk_and_nothing_else(degrees: int, *, crop: bool) -> None:
    """However the page is turned and cropped: one box for each line, over every pixel of it."""
    black = column(60, 100, BEFORE) + column(60, 220, AFTER)
    content = two_inks(column(60, 160, CHUNK), black, prepare=turned(degrees, crop=crop))
    assert len(assert_marks_the_red(content, " ".join(CHUNK))) == len(CHUNK)


def test_a_chunk_may_begin_and_end_within_lines() -> None:
    """Words before and after it on the same lines are not marked."""
    red = [(200, 100, "that ran up the hill"), (60, 120, "to tell the keeper")]
    content = two_inks(red, [(60, 100, "It was a boy"), (200, 120, "of the light.")])
    assert len(assert_marks_the_red(content, "that ran up the hill to tell the keeper")) == 2


def test_a_chunk_may_go_on_in_the_next_column() -> None:
    """The foot of one and the head of the other; what stands beside them is not marked."""
    red = column(60, 160, CHUNK[:2]) + column(330, 100, CHUNK[2:])
    content = two_inks(red, column(60, 100, BEFORE) + column(330, 160, AFTER))
    assert len(assert_marks_the_red(content, " ".join(CHUNK))) == 3


@pytest.mark.parametrize("hyphen", ["-", "\u00ad"])
def test_a_word_that_is_hyphenated_at_a_line_end_is_marked_on_both(hyphen: str) -> None:
    """In the chunk's text it is one."""
    red = [(60, 100, f"The office sent an inter{hyphen}"), (60, 115, "national letter to the keeper.")]
    content = two_inks(red, [(60, 160, "It came by sea.")])
    with Pdf.open(content, max_pages=1) as pdf:
        text = inspect(pdf, 1).text
        words = text_words(pdf, 1)
    assert text == "The office sent an international letter to the keeper.\n\nIt came by sea."
    assert len(assert_marks_the_red(content, text[: text.index("\n")])) == 2
    first, second = marks_of(words, "international letter")
    assert [first.x, first.width] == pytest.approx([words[4].box.x, words[4].box.width])
    assert second.x == words[5].box.x


def test_ligatures_and_presentation_forms_are_letters() -> None:
    """The chunk's text has them expanded, and composes what stands apart; case does not matter."""
    words = row("\ufb01rst", "of\ufb01ce", "cafe\u0301", "\ufe8d\ufedf\ufeb4\ufefc\ufee1")
    chunk = normalise([" ".join(word.text for word in words)])
    assert chunk == "first office caf\u00e9 \u0627\u0644\u0633\u0644\u0627\u0645"
    assert marks_of(words, chunk) == marks_of(words, chunk.upper()) == [Mark(0, 0, 0.4, 0.1)]


def test_invisible_words_are_not_marked() -> None:
    """Where the same text is hidden higher up on the page, the visible one is found."""

    def hide(page: Any) -> None:
        page.insert_text((60, 60), " ".join(CHUNK), render_mode=3, overlay=False)

    content = two_inks(column(60, 160, CHUNK), column(60, 300, AFTER), prepare=hide)
    assert_marks_the_red(content, " ".join(CHUNK))


def test_words_that_are_cropped_away_have_no_mark() -> None:
    """They belong to the chunk, and nobody sees them."""
    content = two_inks([*column(60, 100, CHUNK), (60, 700, "below the cut")], prepare=cropped)
    assert len(marks_on(content, f"{' '.join(CHUNK)} below the cut")) == len(CHUNK)


def test_a_page_without_a_text_layer_has_no_words() -> None:
    """Nor has one whose text is invisible."""
    with Pdf.open(pdf_of([SCAN]), max_pages=1) as pdf:
        assert text_words(pdf, 1) == []
    document = mupdf.open()
    document.new_page().insert_text((60, 60), "hidden", render_mode=3)
    with Pdf.open(document.tobytes(), max_pages=1) as pdf:
        assert text_words(pdf, 1) == []


def test_a_page_that_is_in_the_middle_of_its_chunk_is_marked_whole() -> None:
    """The chunk began before it and ends after it; the pages around it are marked at their ends that it touches."""
    texts = ["Old words.\nNew words begin here", "and go on there", "until this ends.\nOther words follow."]
    chunk = "New words begin here\n\nand go on there\n\nuntil this ends."
    with Pdf.open(pdf_of(texts), max_pages=3) as pdf:
        words = [text_words(pdf, page_number) for page_number in (1, 2, 3)]
    lines = [sorted({word.box.y for word in page}) for page in words]
    assert [[mark.y for mark in marks_of(page, chunk)] for page in words] == [lines[0][1:], lines[1], lines[2][:1]]


def test_the_words_are_those_of_the_text(tmp_path: Path) -> None:
    """On every sample page with a text layer: the whole text is found, and every word of it is marked."""
    build(tmp_path)
    pages = load_pages(find_work("inventory"))
    with Pdf.open(tmp_path / "inventory.pdf", max_pages=9) as pdf:
        for page_number in (number for number, page in enumerate(pages, 1) if page.kind is PageKind.TEXT):
            words, text = text_words(pdf, page_number), inspect(pdf, page_number).text
            assert [word.text for word in words] == text.split()
            assert len(marks_of(words, text)) == len({word.line for word in words})


def row(*texts: str) -> list[Word]:
    """Words side by side on ten lines of eight, each a tenth wide and without a gap."""
    return [
        Word(text, Mark(number % 8 / 10, number // 8 / 10, 0.1, 0.1), number // 8) for number, text in enumerate(texts)
    ]


SENTENCE = "the keeper of the light wrote the hour into the book and the wind into the other book"


@pytest.mark.parametrize(
    "chunk",
    [
        "",
        " \n",
        "\u2014 \u2026",
        "the",
        "Bread is baked on Tuesdays and the baker of the village has no keeper",
        "ight wr",
        "There he was once a bookkeeper of th",
    ],
    ids=["empty", "spaces", "signs", "a common word", "common words", "a part of words", "a part of words at its end"],
)
def test_what_is_not_there_is_not_marked(chunk: str) -> None:
    """A chunk without letters, from another page, or that only shares some words with this one."""
    words = row(*SENTENCE.removeprefix("the ").split())
    expected = 1 if chunk == "the" else 0  # a chunk of one word is that word
    assert len(marks_of(words, chunk)) == expected
    assert marks_of([], chunk) == []


def test_a_chunk_that_was_read_a_little_differently_is_found() -> None:
    """A wrong letter here and there, a lost one, a joined word: from its first to its last word, no word besides."""
    words = row(*f"A storm came up and {SENTENCE} before he went to bed again".split())
    read = SENTENCE.replace("hour", "h0ur").replace("wind", "wlnd").replace("other book", "otherbook")
    marks = marks_of(words, read)
    first, last = words[5].box, words[5 + 17].box
    assert (marks[0].x, marks[0].y) == (first.x, first.y)
    assert marks[-1].x + marks[-1].width == pytest.approx(last.x + 0.1)
    assert marks[-1].y == last.y


def test_a_stray_phrase_far_from_the_match_is_not_marked() -> None:
    """Words that stand higher up as the chunk has them, and were read differently in their place, are left there."""
    filler = [f"{number}filler{number}" for number in range(40)]
    misread = ["tha", "harb0ur", "mqster"]
    words = row("the", "harbour", "master", *filler, *misread, *SENTENCE.split())
    marks = marks_of(words, f"the harbour master {SENTENCE.replace('wind', 'wlnd')}")
    assert marks
    assert min(mark.y for mark in marks) >= words[43].box.y


def test_a_word_that_is_cropped_away_does_not_widen_its_line() -> None:
    """Its empty box lies on the image's edge."""
    seen = Mark(0.1, 0.1, 0.2, 0.1)
    words = [Word("visible", seen, 0), Word("cropped", Mark.between(1.2, 0.1, 1.4, 0.2), 0)]
    (mark,) = marks_of(words, "visible cropped")
    assert [mark.x, mark.width] == pytest.approx([seen.x, seen.width])


def test_a_part_of_a_line_that_was_read_at_once_is_marked() -> None:
    """Of a line from OCR, the share of its width that the chunk's letters take."""
    lines = [
        Word("abcd efgh ijkl mnop", Mark(0.1, 0.1, 0.38, 0.1), 0),
        Word("qrst uvwx yzab cdef", Mark(0.1, 0.3, 0.38, 0.1), 1),
    ]
    first, second = marks_of(lines, "ijkl mnop qrst")
    assert [first.x, first.width] == pytest.approx([0.3, 0.18])
    assert [second.x, second.width] == pytest.approx([0.1, 0.08])


def test_text_without_spaces_is_found() -> None:
    """Chinese lines are joined without a space; a chunk may begin within one."""
    lines = [
        Word("灯塔看守人每天晚上都要写日记并且记录风向和天气情况", Mark(0, 0, 1, 0.1), 0),
        Word("然后上床睡觉", Mark(0, 0.2, 1, 0.1), 1),
    ]
    assert len(marks_of(lines, "每天晚上都要写日记并且记录风向和天气情况然后上床睡觉")) == 2


floats = st.floats(-2, 3)
boxes = st.builds(Mark.between, floats, floats, floats, floats)
any_text = st.text(st.characters(exclude_categories=()))
any_words = st.lists(st.builds(Word, any_text, boxes, st.integers(0, 9)), max_size=30)


@settings(deadline=None)
@given(any_words, any_text, st.none() | st.integers(0, 29))
def test_marks_lie_on_the_image_whatever_the_text(words: list[Word], text: str, first: int | None) -> None:
    """No text raises, some of the page's own among them; every mark has an area within the image."""
    if first is not None:
        text += " ".join(word.text for word in words[first:])
    for mark in marks_of(words, text):
        assert 0 <= mark.x < mark.x + mark.width <= 1 + 1e-9
        assert 0 <= mark.y < mark.y + mark.height <= 1 + 1e-9


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=60), st.data())
def test_a_stretch_of_the_page_is_found_where_it_reads_so(texts: list[str], data: st.DataObject) -> None:
    """Any run of its words: what stands under the marks is the chunk, letter by letter, wherever it occurs first."""
    first = data.draw(st.integers(0, len(texts) - 1))
    chunk = texts[first : data.draw(st.integers(first + 1, len(texts)))]
    words = [Word(text, Mark(number / 60, 0, 1 / 60, 1), number) for number, text in enumerate(texts)]
    marked = [round(mark.x * 60) for mark in marks_of(words, " ".join(chunk))]
    read = "".join(texts[number] for number in marked)
    assert "".join(chunk) in read
    assert len(read) <= len("".join(chunk)) + 16  # of 16 letters or more, the first and the last word may be more
