"""The rules of the house that no linter checks: see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("ingest", "serve", "cluster", "samples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
LONGEST_TEST_FILE = 500


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    """A file is under 400 lines, a function under 40 (its docstring does not count)."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST_FILE
    for function in functions(path):
        assert function.end_lineno is not None
        first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
        assert function.end_lineno - first.lineno + 1 <= LONGEST_FUNCTION, function.name


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_says_its_guarantee(path: Path) -> None:
    """A test has a docstring and asserts something; its file is short enough to be read."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST_TEST_FILE
    for function in functions(path):
        if function.name.startswith("test_"):
            assert ast.get_docstring(function), function.name
            checks = [node for node in ast.walk(function) if isinstance(node, ast.Assert) or _checks(node)]
            assert checks, f"{function.name} asserts nothing"


def test_every_decision_that_is_named_is_written_down() -> None:
    """`docs/adr/NNNN`, wherever it stands, leads to a page of that number; the index lists every page."""
    files = [*SOURCES, *TESTS, *ROOT.glob("*.md"), *(path for path in ROOT.glob("d*/**/*") if path.is_file())]
    texts = [path.read_bytes().decode(errors="replace") for path in files]
    named = {number for text in texts for number in re.findall(r"(?:docs/)?adr/(\d{4})", text)}
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    written = {path.name[:4]: path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert named - written.keys() == set()
    assert {name for name in written.values() if f"]({name})" not in index} == set()


def _checks(node: ast.AST) -> bool:
    """`pytest.raises(...)`, or a helper that is named for what it asserts."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name == "raises" or name.startswith(("assert_", "_assert_", "validate_"))
