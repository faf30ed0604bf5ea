"""Build the sample PDF files: `python -m samples.build [OUTPUT_DIR]`."""

import argparse
import os
import string
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pymupdf

from samples.pages import WORKS, Page, PageKind, Work, load_pages, page_texts
from samples.scanner import scan
from samples.typeset import (
    HANDBOOK,
    LEDGER,
    TYPEWRITTEN,
    PageOverflowError,
    Style,
    add_page,
    new_document,
    typeset,
)

__all__ = ["DEFAULT_OUTPUT", "build", "main", "page_texts"]

DEFAULT_OUTPUT: Final = Path(__file__).parent / "pdf"
_STYLES: Final = {"field-guide": HANDBOOK, "letters": TYPEWRITTEN, "inventory": LEDGER}
_DATE: Final = "D:20240101000000Z"
_GARBAGE: Final = string.ascii_letters + string.digits + "~^|;:!{}<>*#"
_INVISIBLE: Final = 3


def build(output: Path) -> bool:
    """Make every sample PDF in `output` and return True; return False if all are up to date.

    The bytes depend only on the texts, this package and its libraries. Each file appears whole or
    not at all.
    """
    targets = {work: output / f"{work.name}.pdf" for work in WORKS}
    if _is_fresh(list(targets.values())):
        return False
    output.mkdir(parents=True, exist_ok=True)
    for work, target in targets.items():
        _write_atomically(target, _render(work))
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="samples.build", description="Build the sample PDFs.")
    parser.add_argument("output", nargs="?", type=Path, default=DEFAULT_OUTPUT)
    output: Path = parser.parse_args(arguments).output
    try:
        built = build(output)
    except PageOverflowError as error:
        sys.stderr.write(f"samples.build: {error}\n")
        return 1
    state = "built" if built else "up to date"
    sys.stdout.write(f"samples {state}: {len(WORKS)} PDF files in {output}\n")
    return 0


def _is_fresh(targets: list[Path]) -> bool:
    sources = [*Path(__file__).parent.glob("*.py"), *(work.source for work in WORKS)]
    newest_source = max(path.stat().st_mtime_ns for path in sources)
    return all(path.exists() and path.stat().st_mtime_ns > newest_source for path in targets)


def _write_atomically(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _render(work: Work) -> bytes:
    """Return `work` as the bytes of a PDF file; an overflow error names the work."""
    style = _STYLES[work.name]
    with new_document() as document:
        for number, page in enumerate(load_pages(work), start=1):
            target = add_page(document, style)
            rng = np.random.default_rng([zlib.crc32(work.name.encode()), number])
            try:
                _print_page(target, page, style, rng)
            except PageOverflowError as error:
                message = f"{work.source.name}, page {number}: {error}"
                raise PageOverflowError(message) from error
        document.set_metadata({"title": work.title, "creationDate": _DATE, "modDate": _DATE})
        content: bytes = document.tobytes(garbage=3, deflate=True, no_new_id=True)
        return content


def _print_page(
    target: pymupdf.Page,
    page: Page,
    style: Style,
    rng: np.random.Generator,
) -> None:
    if page.kind is PageKind.TEXT:
        typeset(target, page, style)
        return
    with new_document() as scratch:
        original = add_page(scratch, style)
        typeset(original, page, style)
        image = scan(original, rng)
    target.insert_image(target.rect, stream=image)  # type: ignore[no-untyped-call]
    if page.kind is PageKind.SCAN_WITH_GARBAGE:
        garbage = _garble(page.text, rng)
        if target.insert_textbox(target.rect, garbage, render_mode=_INVISIBLE) < 0:
            message = "no room for the invisible layer"
            raise PageOverflowError(message)


def _garble(text: str, rng: np.random.Generator) -> str:
    """Replace every character but white space by a random one."""
    noise = rng.choice(list(_GARBAGE), len(text))
    return "".join(old if old.isspace() else str(new) for old, new in zip(text, noise, strict=True))


if __name__ == "__main__":
    sys.exit(main())
