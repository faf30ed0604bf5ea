"""The recogniser of text lines, computed in bfloat16: nine tenths of OCR's time, in three fifths of it.

OpenVINO runs PaddleOCR's own model with 8 bits of mantissa instead of float32's 24. On 66,000 characters at 6 to 11 pt,
skewed and noisy, in Latin letters and Chinese, it was wrong as often as ONNX Runtime, which has no bfloat16 on CPUs.
"""

import resource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.memory import mapped_bytes

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_WIDTH_STEP = 64  # OpenVINO keeps kernels for each width that it has met: 50 of them, not 3,200
_ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}  # pinned, all processes would share one core
_ROOM_BYTES = 512 * 2**20  # more than a call takes of memory that is mapped: 134 MiB for 3,200 pixels


def computes_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16, and OpenVINO is installed, as it is on Linux on x86-64.

    OpenVINO itself also claims it for CPUs where it only imitates it, slower than float32.
    """
    try:
        import openvino  # noqa: F401, PLC0415  # not on every platform; loads 0.1 GB of libraries

        cpu = _CPUINFO.read_text(encoding="utf-8")
    except (ImportError, OSError):
        return False
    return any(_FLAGS.intersection(line.split()) for line in cpu.splitlines() if line.startswith("flags"))


class Bfloat16Recogniser:
    """A loaded model, in the place of PaddleX's own runner; for one thread."""

    def __init__(self, model: Path) -> None:
        """Load `model`, an ONNX file, in 0.3 s. Raises RuntimeError when it cannot be read."""
        import openvino  # noqa: PLC0415  # as above

        config = {"INFERENCE_PRECISION_HINT": "bf16", **_ONE_THREAD}
        self._model: Any = openvino.Core().compile_model(str(model), "CPU", config)

    def __call__(self, x: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """The scores (lines, steps, characters) of one batch of images (lines, 3, height, width), as the only item.

        They lie in memory that the next call overwrites. Images are padded on the right, as PaddleOCR itself pads them
        up to 320 pixels, so there may be more steps than the width asks for: blank ones.

        Raises MemoryError where the process may map too little more. Without memory OpenVINO raises nothing: it gives
        no steps, which would be an empty page, or breaks the heap.
        """
        if _room() < _ROOM_BYTES:
            raise MemoryError("Too little memory is left to recognise a line.")
        (images,) = x
        padded = np.pad(images, ((0, 0), (0, 0), (0, 0), (0, -images.shape[-1] % _WIDTH_STEP)))
        scores: NDArray[np.float32] = self._model(padded, share_inputs=True, share_outputs=True)[0]
        if not scores.shape[1]:
            raise MemoryError("There was too little memory to recognise a line.")
        return [scores]

    def close(self) -> None:
        """Nothing is to be released: part of the protocol of PaddleX's runners."""


def _room() -> float:
    """Bytes that this process may still map."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    return limit - mapped_bytes()
