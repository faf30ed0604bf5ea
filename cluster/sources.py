"""Where documents come from: files, directories, objects on S3, and lists of these. Each is found when it is asked for.

Nothing is listed ahead. What is held at a time is one page of keys (`PAGE_KEYS`) or, for each level of
directories, the names of one directory up to `SORTED_ENTRIES`. A directory with more entries is not sorted.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import s3fs
from botocore.exceptions import BotoCoreError, ClientError

from ingest.references import SCHEME

STANDARD_INPUT = "-"
SUFFIX = ".pdf"
PAGE_KEYS = 1_000  # the most that S3 gives
SORTED_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    """One document to submit: the path of a file here, or the address of an object that the service fetches."""

    name: str

    @property
    def by_reference(self) -> bool:
        """Whether the service fetches it, so that only its address moves."""
        return self.name.startswith(SCHEME)

    @property
    def shown(self) -> str:
        """The name as text; bytes of a file name that are not UTF-8 are replaced."""
        return os.fsencode(self.name).decode(errors="replace")

    @property
    def label(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.shown).name


@dataclass(frozen=True, slots=True)
class Missing:
    """What was asked for and cannot be submitted, or looked into, and why."""

    source: Source
    reason: str


Found = Source | Missing


class Buckets:
    """Lists objects on S3, page by page, with the credentials of this process's environment, as s3fs finds them."""

    def __init__(self, endpoint_url: str | None = None) -> None:
        self._endpoint_url = endpoint_url

    @cached_property
    def files(self) -> Any:
        """The client; made when the first bucket is listed."""
        return s3fs.S3FileSystem(endpoint_url=self._endpoint_url)

    def below(self, url: str) -> Iterator[Found]:
        """Every `*.pdf` whose key begins with this one's and a slash, in the order of the keys."""
        bucket, _, key = url.removeprefix(SCHEME).partition("/")
        prefix = key.rstrip("/") + "/" if key else ""
        empty = True
        try:
            for found in self._keys(bucket, prefix):
                empty = False
                if found.lower().endswith(SUFFIX):
                    yield Source(f"{SCHEME}{bucket}/{found}")
        except (OSError, BotoCoreError, ClientError) as error:
            yield Missing(Source(url), f"It cannot be listed: {error}")
            return
        if empty:
            yield Missing(Source(url), "There is no object below it.")

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        following: dict[str, str] = {}
        while True:
            page = self.files.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE_KEYS, **following)
            yield from (item["Key"] for item in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}


def check(paths: Sequence[str]) -> None:
    """Raise `FileNotFoundError` for the first path that a user has typed wrong; S3 is not asked."""
    for path in paths:
        if not (path == STANDARD_INPUT or path.startswith(SCHEME) or Path(path).exists()):
            raise FileNotFoundError(f"There is no file or directory {path}.")


def lines(path: str) -> Iterator[str]:
    """The lines of a list, `-` for standard input: a path or s3 URL each. Raises `OSError`.

    Standard input is read through a file object of its own: a thread that waits in it when the process ends holds no
    lock that the interpreter wants then.
    """
    opened: int | str = 0 if path == STANDARD_INPUT else path
    with open(opened, encoding="utf-8", errors="surrogateescape", closefd=opened != 0) as file:  # a descriptor
        yield from (line.rstrip("\r\n") for line in file if line.strip())


def find(names: Iterable[str], buckets: Buckets) -> Iterator[Found]:
    """What the names stand for, in their order.

    A directory stands for every `*.pdf` below it (links to directories are not followed), `s3://bucket/prefix` for
    every `*.pdf` below that; a file, and an `s3://` URL that ends in `.pdf`, for itself; `-` for the names on
    standard input.
    """
    for name in names:
        if name == STANDARD_INPUT:
            yield from find(lines(STANDARD_INPUT), buckets)
        elif name.startswith(SCHEME):
            yield from [Source(name)] if name.lower().endswith(SUFFIX) else buckets.below(name)
        elif os.path.isdir(name):  # noqa: PTH112  # a million times
            yield from _below(name)
        else:
            yield Source(name)


def _below(directory: str) -> Iterator[Found]:
    """Depth first: what is open is one directory a level, however many there are."""
    levels = [_entries(directory)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, Missing):
            yield entry
        elif entry.is_dir(follow_symlinks=False):
            levels.append(_entries(entry.path))
        elif entry.name.lower().endswith(SUFFIX):
            yield from _file(entry.path)


def _file(path: str) -> Iterator[Found]:
    """The file behind the path; nothing for a directory behind a link, or a pipe, which would be read for ever.

    It cannot be read where a link leads nowhere or round in a circle, or a directory lists but does not open.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  # a million times
    except OSError as error:
        yield Missing(Source(path), f"It cannot be read: {error.strerror}.")
        return
    if stat.S_ISREG(mode):
        yield Source(path)


def _entries(directory: str) -> Iterator[os.DirEntry[str] | Missing]:
    try:
        with os.scandir(directory) as entries:
            first = list(itertools.islice(entries, SORTED_ENTRIES + 1))
            if len(first) > SORTED_ENTRIES:
                yield from itertools.chain(first, entries)
                return
    except OSError as error:
        yield Missing(Source(directory), f"It cannot be read: {error.strerror}.")
        return
    yield from sorted(first, key=lambda entry: entry.name)
