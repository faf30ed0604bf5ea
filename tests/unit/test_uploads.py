"""What a client sends: its file name is only shown, and every error has one status and one name."""

import os
import tempfile
import time
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import errors
from ingest.errors import FanfoldError
from serve import problems
from serve.problems import STATUS, kind_of, status_of
from serve.refusals import BadCursor, MissingFile, UnsupportedMediaType
from serve.uploads import ABANDONED_S, DIRECTORY_PREFIX, MAX_FILENAME_CHARACTERS, remove_abandoned, safe_filename

NEVER_OVER_HTTP = {  # raised by workers and supervisors: they end in a job's `error`, not in an answer
    errors.CorruptPdf,
    errors.EncryptedPdf,
    errors.NoPages,
    errors.TooManyPages,
    errors.TooManyFailedPages,
}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/shadow", "shadow"),
        ("C:\\Users\\me\\invoice.pdf", "invoice.pdf"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("mixed/of\\both.pdf", "both.pdf"),
        ("\\\\server\\share\\plan.pdf", "plan.pdf"),
        ("directory/", "directory"),
        ("nul\0byte.pdf", "nulbyte.pdf"),
        ("line\r\nSet-Cookie: x.pdf", "lineSet-Cookie: x.pdf"),
        ("esc\x1b[31mred.pdf", "esc[31mred.pdf"),
        ("fdp.\u202egpj.exe", "fdp.gpj.exe"),
        ("broken\udcff.pdf", "broken.pdf"),
        ("  spaced.pdf  ", "spaced.pdf"),
        ("Übersicht 報告.pdf", "Übersicht 報告.pdf"),
        ("", "document.pdf"),
        (".", "document.pdf"),
        ("/", "document.pdf"),
        ("\\\\", "document.pdf"),
        ("\0\x01\x7f", "document.pdf"),
        (" \t\n", "document.pdf"),
    ],
)
def test_a_file_name_is_its_last_component_and_printable(name: str, shown: str) -> None:
    """Whatever the client calls its file, users see one plain name and no path."""
    assert safe_filename(name) == shown


@pytest.mark.parametrize("name", ["..", "a/..", "..\\..", "../", "\0.."])
def test_the_parent_directory_is_not_a_file_name(name: str) -> None:
    """A name that means another directory becomes the default one."""
    assert safe_filename(name) == "document.pdf"


@pytest.mark.parametrize("name", ["a" * 10_000, "x/" * 5_000 + "b" * 10_000 + ".pdf", "字" * 10_000])
def test_a_long_file_name_is_cut(name: str) -> None:
    """10,000 characters become 255: a name is stored with every document."""
    assert len(safe_filename(name)) == MAX_FILENAME_CHARACTERS


@given(st.text(st.characters(codec=None)))
def test_no_file_name_is_dangerous_to_show(name: str) -> None:
    """For any text: not empty, printable, encodable, bounded, no separator; and doing it again changes nothing."""
    shown = safe_filename(name)
    assert shown
    assert shown.isprintable()
    assert shown.encode()
    assert len(shown) <= MAX_FILENAME_CHARACTERS
    assert not set(shown) & {"/", "\\", "\0"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.EmptyFile("x"), HTTPStatus.BAD_REQUEST),
        (errors.NotAPdf("x"), HTTPStatus.BAD_REQUEST),
        (errors.FileTooLarge("x"), HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        (UnsupportedMediaType("x"), HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (BadCursor("x"), HTTPStatus.BAD_REQUEST),
        (errors.NotFound("x"), HTTPStatus.NOT_FOUND),
        (errors.Conflict("x"), HTTPStatus.CONFLICT),
        (errors.StoreError("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.StoreUnavailable("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.ObjectMissing("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.PageUnreadable("x"), HTTPStatus.UNPROCESSABLE_ENTITY),
        (errors.OutOfMemory("x"), HTTPStatus.UNPROCESSABLE_ENTITY),
        (errors.WorkerCrashed("x"), HTTPStatus.UNPROCESSABLE_ENTITY),
        (errors.NodeOutOfMemory("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.NodeLost("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.WorkTimeout("x"), HTTPStatus.SERVICE_UNAVAILABLE),
        (errors.ConfigurationError("x"), HTTPStatus.INTERNAL_SERVER_ERROR),
        (FanfoldError("x"), HTTPStatus.INTERNAL_SERVER_ERROR),
        (MissingFile("x"), HTTPStatus.BAD_REQUEST),
    ],
)
def test_every_error_that_http_can_raise_has_its_status(error: FanfoldError, status: HTTPStatus) -> None:
    """The contract's statuses: a client's mistake is a 4xx; a store that does not answer, or a busy machine, is 503."""
    assert status_of(error) is status


def subclasses(kind: type[FanfoldError]) -> set[type[FanfoldError]]:
    """Everything derived from the class."""
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def test_no_error_is_without_a_status() -> None:
    """Every class of the tree has an answer, because the table ends in the base."""
    assert all(status_of(kind("x")) in set(STATUS.values()) for kind in subclasses(FanfoldError))


def test_a_bad_request_is_never_called_our_fault() -> None:
    """Every error about what was sent, of those that HTTP can raise, is a 4xx."""
    sent = subclasses(errors.InputError) - NEVER_OVER_HTTP - {errors.InputError}
    assert {
        kind: status_of(kind("x")) for kind in sent if status_of(kind("x")) >= HTTPStatus.INTERNAL_SERVER_ERROR
    } == {}


def test_the_nearest_ancestor_in_the_table_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class's own row wins over its parent's, wherever in the table it stands."""

    class Farther(errors.StoreUnavailable):
        """Not in the table: its ancestor `StoreError` is."""

    assert status_of(Farther("x")) is HTTPStatus.SERVICE_UNAVAILABLE
    monkeypatch.setitem(problems.STATUS, errors.StoreUnavailable, HTTPStatus.BAD_GATEWAY)
    assert status_of(Farther("x")) is HTTPStatus.BAD_GATEWAY
    assert status_of(errors.ObjectMissing("x")) is HTTPStatus.SERVICE_UNAVAILABLE


@pytest.mark.parametrize(
    ("kind", "urn", "title"),
    [
        (errors.NotAPdf, "urn:fanfold:not-a-pdf", "Not a PDF"),
        (errors.StoreUnavailable, "urn:fanfold:store-unavailable", "Store unavailable"),
        (errors.Conflict, "urn:fanfold:conflict", "Conflict"),
        (errors.NotEnded, "urn:fanfold:not-ended", "Not ended"),
        (UnsupportedMediaType, "urn:fanfold:unsupported-media-type", "Unsupported media type"),
    ],
)
def test_a_problem_is_named_after_its_class(kind: type[FanfoldError], urn: str, title: str) -> None:
    """`type` is a stable name for programs, `title` the same in words."""
    assert kind_of(kind) == (urn, title)


def test_no_two_errors_share_a_problem_type() -> None:
    """A program can tell every error from every other by its `type`."""
    kinds = subclasses(FanfoldError)
    assert len({kind_of(kind)[0] for kind in kinds}) == len({kind.__name__ for kind in kinds})


def test_what_a_killed_replica_left_goes_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload under way stays, as does whatever is not an upload's."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    left, under_way, other = (tmp_path / name for name in (f"{DIRECTORY_PREFIX}1", f"{DIRECTORY_PREFIX}2", "other"))
    for directory in (left, under_way, other):
        directory.mkdir()
        (directory / "upload.pdf").write_bytes(b"%PDF-")
    long_ago = time.time() - ABANDONED_S - 1
    for directory in (left, other):
        os.utime(directory, (long_ago, long_ago))
    remove_abandoned()
    assert sorted(directory.name for directory in tmp_path.iterdir()) == [f"{DIRECTORY_PREFIX}2", "other"]
