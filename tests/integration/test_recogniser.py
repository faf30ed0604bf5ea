"""Lines recognised in bfloat16: the same text, chosen by what the CPU computes, and no silence without memory."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.tasks import memory_limit
from ingest.errors import OutOfMemory
from ingest.stages import recogniser
from ingest.stages.models import ocr_model_dirs
from ingest.stages.ocr import Ocr
from ingest.stages.recogniser import Bfloat16Recogniser, computes_bfloat16
from tests.integration.test_ocr import LEFT, MODEL, RIGHT, scan

openvino = pytest.importorskip("openvino")
in_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this CPU has too little of AVX-512 even to imitate bfloat16",
)
LINE = np.zeros((1, 3, 48, 700), np.float32)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the model's files."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(cache: Path) -> Path:
    """The recogniser's file."""
    directories = ocr_model_dirs(MODEL, cache)
    assert directories is not None
    return directories[1] / "inference.onnx"


def runner_of(ocr: Ocr) -> object:
    """What recognises lines in it."""
    return ocr._engine.paddlex_pipeline.text_rec_model.runner


@in_bfloat16
def test_a_page_reads_the_same_in_bfloat16(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character of a skewed, noisy page. Where the CPU has no bfloat16, OpenVINO imitates it."""
    page = scan(((60, 90, 290, 780), f"{LEFT} {RIGHT}"), ((310, 90, 540, 780), f"{RIGHT} {LEFT}"), skew=0.4)
    monkeypatch.setattr("ingest.stages.ocr.computes_bfloat16", lambda: True)
    half, single = (Ocr.load(MODEL, cache, precision=precision) for precision in ("auto", "float32"))
    assert (half.precision, single.precision) == ("bfloat16", "float32")
    assert isinstance(runner_of(half), Bfloat16Recogniser)
    assert not isinstance(runner_of(single), Bfloat16Recogniser)
    assert "1,250 bundles" in half.read(page)
    assert half.read(page) == single.read(page)


def test_other_cpus_keep_to_float32(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` asks for bfloat16 only where the CPU computes in it."""
    monkeypatch.setattr("ingest.stages.ocr.computes_bfloat16", lambda: False)
    ocr = Ocr.load(MODEL, cache)
    assert ocr.precision == "float32"
    assert not isinstance(runner_of(ocr), Bfloat16Recogniser)


@pytest.mark.parametrize(
    ("flags", "computes"),
    [
        ("avx512f avx512_vnni", False),
        ("avx512f avx512_bf16 avx512_vnni", True),
        ("amx_bf16 amx_tile", True),
        ("avx2", False),
    ],
)
def test_the_cpu_says_whether_it_computes_bfloat16(
    flags: str, computes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its flags, as Linux shows them: OpenVINO would imitate it on any CPU with AVX-512."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16 in a name\nflags\t\t: fpu {flags}\nbugs\t\t: none\n")
    monkeypatch.setattr(recogniser, "_CPUINFO", cpuinfo)
    assert computes_bfloat16() == computes
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not computes_bfloat16()


@in_bfloat16
def test_too_little_memory_is_an_error_and_not_an_empty_line(model: Path) -> None:
    """OpenVINO itself would give no steps, hence no text, and raise nothing."""
    run = Bfloat16Recogniser(model)
    (before,) = run([LINE])
    expected = before.copy()
    with pytest.raises(OutOfMemory), memory_limit(recogniser._ROOM_BYTES - 2**20):
        run([LINE])
    with memory_limit(2 * recogniser._ROOM_BYTES):
        (after,) = run([LINE])
    assert np.array_equal(after, expected)


@in_bfloat16
def test_no_steps_are_no_text(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made OpenVINO give none."""
    run = Bfloat16Recogniser(model)
    monkeypatch.setattr(run, "_model", lambda *_images, **_how: [np.zeros((1, 0, 18_710), np.float32)])
    with pytest.raises(MemoryError):
        run([LINE])


@in_bfloat16
@pytest.mark.parametrize("width", [320, 321, 700, 3200])
def test_a_line_has_a_step_for_every_eight_pixels_at_least(model: Path, width: int) -> None:
    """Widths are rounded up, so that few kinds of them occur."""
    (scores,) = Bfloat16Recogniser(model)([LINE[..., :1].repeat(width, axis=-1)])
    assert scores.shape[1] == -(-width // 64) * 8
