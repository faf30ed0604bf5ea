"""Documents are found lazily, in bounded memory, wherever they are; what cannot be looked into is said."""

import itertools
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any, Self

import pytest

from cluster import sources
from cluster.sources import Buckets, Missing, Source, find

PAGE = 1_000
MIB = 1024**2


class Endless(Buckets):
    """A bucket with as many objects as anybody asks for, which counts the pages that it was asked for."""

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.pages = 0
        self._keys_there = keys

    @property
    def files(self) -> Any:
        """Itself: only `call_s3` is needed."""
        return self

    def call_s3(self, method: str, **asked: Any) -> dict[str, Any]:
        """One page of keys."""
        assert (method, asked["Bucket"], asked["MaxKeys"]) == ("list_objects_v2", "archive", PAGE)
        self.pages += 1
        first = int(asked.get("ContinuationToken", 0))
        following = min(first + PAGE, self._keys_there)
        keys = [{"Key": f"{asked['Prefix']}{number:09d}/{'x' * 50}.pdf"} for number in range(first, following)]
        more = following < self._keys_there
        return {"Contents": keys, "IsTruncated": more, "NextContinuationToken": str(following)}


def names(found: Any) -> list[str]:
    """What was found, by name; all of it can be submitted."""
    listed = list(found)
    assert not [missing for missing in listed if isinstance(missing, Missing)]
    return [source.name for source in listed]


def pdf(path: Path) -> Path:
    """An empty file of that name, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_million_keys_are_listed_a_page_at_a_time() -> None:
    """No page is asked for before the one before it was used up."""
    bucket = Endless(1_000_000)
    found = find(["s3://archive/2026"], bucket)
    for wanted in (1, PAGE, 1, 5 * PAGE):
        taken = list(itertools.islice(found, wanted))
        assert len(taken) == wanted
    assert bucket.pages == 7
    assert taken[-1] == Source(f"s3://archive/2026/{6_001:09d}/{'x' * 50}.pdf")


def test_memory_does_not_grow_with_the_listing() -> None:
    """After 30,000 keys no more is held than after 2,000."""
    found = find(["s3://archive"], Endless(30_000))
    tracemalloc.start()
    try:
        peaks = []
        for wanted in (2 * PAGE, 28 * PAGE):
            tracemalloc.reset_peak()
            assert sum(1 for _ in itertools.islice(found, wanted)) == wanted
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 64 * 1024
    assert peaks[1] < 2 * MIB


def test_a_directory_is_searched_in_order(tmp_path: Path) -> None:
    """Every `*.pdf` below it, in the order of names, in any case, and nothing else."""
    expected = [pdf(tmp_path / name) for name in ("a.pdf", "b/1.PDF", "b/c/2.pdf", "b/d.pdf", "z.pdf")]
    for other in ("notes.txt", "b/pdf", "b/c/report.pdf.part"):
        pdf(tmp_path / other)
    (tmp_path / "folder.pdf").mkdir()
    assert names(find([str(tmp_path)], Buckets())) == [str(path) for path in expected]


def test_a_large_directory_is_neither_held_nor_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of entries they come as the file system gives them, one by one."""
    monkeypatch.setattr(sources, "SORTED_ENTRIES", 10)
    for number in range(200):
        pdf(tmp_path / f"{number}.pdf")
    read = 0
    scandir = os.scandir

    class Counted:
        """`os.scandir`, counting what is taken from it."""

        def __init__(self, path: str) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            self._entries.close()

        def __iter__(self) -> Self:
            return self

        def __next__(self) -> "os.DirEntry[str]":
            nonlocal read
            read += 1
            return next(self._entries)

    monkeypatch.setattr(os, "scandir", Counted)
    found = find([str(tmp_path)], Buckets())
    some = list(itertools.islice(found, 20))
    assert read <= 21
    assert len({*some, *found}) == 200


def test_links_neither_loop_nor_hang(tmp_path: Path) -> None:
    """A link to a directory is not followed, one to a file is; one that leads nowhere is said; a pipe is not opened."""
    target = pdf(tmp_path / "outside" / "letter.pdf")
    top = tmp_path / "top"
    top.mkdir()
    (top / "again").symlink_to(top)
    (top / "circle.pdf").symlink_to(top / "circle.pdf")
    (top / "dangling.pdf").symlink_to(top / "nothing")
    (top / "directory.pdf").symlink_to(target.parent)
    (top / "linked.pdf").symlink_to(target)
    os.mkfifo(top / "pipe.pdf")
    found = list(find([str(top)], Buckets()))
    assert [one.name for one in found if isinstance(one, Source)] == [str(top / "linked.pdf")]
    missing = [one for one in found if isinstance(one, Missing)]
    assert [one.source.label for one in missing] == ["circle.pdf", "dangling.pdf"]
    assert all("cannot be read" in one.reason for one in missing)


def test_a_directory_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    """It is said to be missing, and the rest is found."""
    for name in ("a/1.pdf", "b/2.pdf", "c/3.pdf"):
        pdf(tmp_path / name)
    found = find([str(tmp_path)], Buckets())
    first = next(found)
    (tmp_path / "b" / "2.pdf").unlink()
    (tmp_path / "b").rmdir()
    rest = list(found)
    assert first == Source(str(tmp_path / "a" / "1.pdf"))
    assert [type(one) for one in rest] == [Missing, Source]
    assert isinstance(rest[0], Missing)
    assert rest[0].source.name == str(tmp_path / "b")


def test_very_deep_directories_are_walked(tmp_path: Path) -> None:
    """Depth is bounded by the file system, not by Python's recursion."""
    here, depth = os.open(".", os.O_RDONLY), 1_200
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("deep.pdf").touch()
        os.chdir(tmp_path)
        found = list(find(["."], Buckets()))
        os.chdir("d/" * depth)
        Path("deep.pdf").unlink()
        for _ in range(depth):  # pytest's own cleaning up is recursive
            os.chdir("..")
            Path("d").rmdir()
    finally:
        os.chdir(here)
        os.close(here)
    assert len(found) == 1


def test_a_list_names_documents_and_places(tmp_path: Path) -> None:
    """A path or URL a line, whatever its end; empty lines are none; a file that is missing is left to the submit."""
    letter = pdf(tmp_path / "box" / "a letter.pdf")
    listed = tmp_path / "list"
    listed.write_bytes(
        f"{letter}\r\n\ns3://archive/b.pdf\n{tmp_path}/gone.pdf\n{tmp_path / 'box'}\n".encode() + b"\xff.pdf"
    )
    found = names(find(sources.lines(str(listed)), Buckets()))
    assert found == [str(letter), "s3://archive/b.pdf", f"{tmp_path}/gone.pdf", str(letter), os.fsdecode(b"\xff.pdf")]
    assert Source(found[-1]).shown == "\ufffd.pdf"


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a producer has written is found while it is still writing."""
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        os.write(writing, b"s3://archive/1.pdf\n")
        found = find(["-"], Buckets())
        first: list[Any] = []
        reader = threading.Thread(target=lambda: first.append(next(found)), daemon=True)
        reader.start()
        reader.join(10)
        assert first == [Source("s3://archive/1.pdf")]
        os.write(writing, b"s3://archive/2.pdf\n")
        os.close(writing)
        assert list(found) == [Source("s3://archive/2.pdf")]
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


def test_what_was_typed_wrong_is_named_at_once(tmp_path: Path) -> None:
    """Before anything is submitted; addresses on S3 are looked at when their turn comes."""
    sources.check([str(tmp_path), "-", "s3://archive/2026"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sources.check([str(tmp_path), str(tmp_path / "nowhere")])


def test_an_empty_prefix_is_said() -> None:
    """A prefix is nothing that could exist without objects: this one was mistyped."""
    [missing] = find(["s3://archive/2206"], Endless(0))
    assert isinstance(missing, Missing)
    assert missing.source == Source("s3://archive/2206")
