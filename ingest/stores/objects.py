"""The object store: sources and checkpoints, on a directory or on S3, through fsspec.

Every write is atomic and create-if-absent. The first writer wins, a second one is told so and reads what the winner
wrote; nothing is ever overwritten, so two attempts at the same work cannot mix.
"""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import Coroutine, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from s3fs.core import S3_RETRYABLE_ERRORS

from ingest.errors import ConfigurationError, ObjectMissing, StoreRefused, StoreUnavailable
from ingest.faults import fault_point

COPY_BUFFER_BYTES = 1024**2
ABANDONED_S = 24 * 60 * 60.0  # a file in the staging directory that nothing was written to for so long
READ_AHEAD_BYTES = 64 * 1024  # beyond each range that is asked for
S3_CONNECT_S, S3_READ_S = 5, 15
S3_TRIES = 2  # of a call, which is then given up: whoever waits for a page's worker would blame the page for the rest
S3_CONNECTIONS = 100  # a process's: as many as there are threads that may ask
S3_SLOWEST_BYTES_S = 256 * 1024  # below it, what is sent is taken to be read by nobody


class ObjectStore(Protocol):
    """Bytes under keys. Keys are relative, `/`-separated, and come from `ingest.ids` alone."""

    def put(self, key: str, data: bytes) -> bool:
        """Create the object; False when it exists already (and stays as it is)."""

    def put_file(self, key: str, path: Path) -> bool:
        """Create the object from a local file; False when it exists already."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises `ObjectMissing`."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """The object as a seekable file, read in ranges, for the length of a block. Raises `ObjectMissing`.

        What the store does while it is read is an error of the store's, too.
        """

    def exists(self, key: str) -> bool:
        """Whether the object is there, asked of the store itself."""

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix that ends in `/`, sorted."""

    def names(self, prefix: str) -> list[str]:
        """What follows a prefix that ends in `/`, up to the next `/`: one level, each once, sorted."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when it is not there."""

    def ping(self) -> None:
        """Raise `StoreUnavailable` unless the store answers."""


def open_object_store(url: str, *, s3_endpoint_url: str | None = None) -> ObjectStore:
    """The store behind `file:///directory` or `s3://bucket[/prefix]`."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return DirectoryStore(Path(parts.path))
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint_url=s3_endpoint_url)
    raise ConfigurationError(f"FANFOLD_OBJECT_STORE_URL must begin with file:// or s3://, not {parts.scheme or url!r}.")


class DirectoryStore:
    """A directory as object store. Written beside, synced, then linked into place: a crash leaves all or nothing.

    fsspec's own `mode="create"` can leave a torn file after a crash, and only `link(2)` both creates atomically and
    refuses an existing name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / ".staging"
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"The object store's directory cannot be created: {error.strerror}.") from error
        self._remove_abandoned()

    @fault_point("objects.put")
    def put(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put`."""
        with self._staged() as (staged, file):
            file.write(data)
            return self._link(staged, file, key)

    @fault_point("objects.put_file")
    def put_file(self, key: str, path: Path) -> bool:
        """See `ObjectStore.put_file`."""
        with path.open("rb") as source, self._staged() as (staged, file):
            shutil.copyfileobj(source, file, COPY_BUFFER_BYTES)
            return self._link(staged, file, key)

    @fault_point("objects.get")
    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with _disk_errors(), self.open(key) as file:
            return file.read()

    @fault_point("objects.open")
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """See `ObjectStore.open`."""
        try:
            with _disk_errors():
                return _reading(self._path(key).open("rb"), _disk_errors())
        except FileNotFoundError as error:
            raise ObjectMissing(f"Object {key} is gone.") from error

    @fault_point("objects.exists")
    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        with _disk_errors():
            return self._path(key).exists()

    @fault_point("objects.keys")
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore.keys`."""
        with _disk_errors():
            walk = os.walk(self._path(prefix), onerror=_unless_gone)
            return sorted(
                Path(top, name).relative_to(self._root).as_posix() for top, _, names in walk for name in names
            )

    def names(self, prefix: str) -> list[str]:
        """See `ObjectStore.names`."""
        try:
            with _disk_errors():
                return sorted(path.name for path in self._path(prefix).iterdir())
        except FileNotFoundError:
            return []

    @fault_point("objects.delete")
    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; directories that become empty go too."""
        path = self._path(key)
        with _disk_errors():
            path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self._root:
                return
            try:
                parent.rmdir()
            except OSError:  # not empty, or another process was faster: either way nothing is left to do
                return

    def ping(self) -> None:
        """See `ObjectStore.ping`."""
        if not os.access(self._staging, os.W_OK):
            raise StoreUnavailable("The object store's directory cannot be written to.")

    def _remove_abandoned(self) -> None:
        """Remove what writers that were killed have left: nobody writes for a day."""
        for staged in self._staging.iterdir():
            with suppress(FileNotFoundError):  # another process removes it, or has linked it into place
                if time.time() - staged.stat().st_mtime > ABANDONED_S:
                    staged.unlink()

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts or parts[0] == self._staging.name:
            raise ValueError(f"not an object key: {key!r}")
        return self._root.joinpath(*parts)

    @contextmanager
    def _staged(self) -> Iterator[tuple[Path, IO[bytes]]]:
        staged = self._staging / uuid.uuid4().hex
        with _disk_errors():
            try:
                with staged.open("xb") as file:
                    yield staged, file
            finally:
                staged.unlink(missing_ok=True)

    def _link(self, staged: Path, file: IO[bytes], key: str) -> bool:
        file.flush()
        os.fsync(file.fileno())
        path = self._path(key)
        while staged.exists():
            try:
                fresh = self._make_parents(path)
                os.link(staged, path)
                for directory in (path.parent, *fresh):
                    _sync_directory(directory)
            except FileNotFoundError:  # a concurrent delete took an empty directory away: make it again
                continue
            except FileExistsError:
                return False
            return True
        raise StoreUnavailable("Something else removes files from the object store's staging directory.")

    def _make_parents(self, path: Path) -> list[Path]:
        """Make the directories above `path`; returns those that got a new entry, and so must be synced."""
        missing = [parent for parent in path.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
        return [parent.parent for parent in missing]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unless_gone(error: OSError) -> None:
    """A directory that vanishes while a tree is walked is passed over; one that cannot be read is not an empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno is None:  # not the operating system's: a reader of a format says that it is not that format
            raise
        raise StoreUnavailable(f"The object store's disk does not work: {error.strerror}.") from error


@contextmanager
def _reading(file: IO[bytes], errors: AbstractContextManager[None]) -> Iterator[IO[bytes]]:
    with errors, file:
        yield file


def s3_files(endpoint_url: str | None) -> Any:
    """S3 as s3fs's files, with the credentials of this process's environment, as s3fs finds them.

    A bucket that says nothing costs a call half a minute, then an error: who can wait is the job. (s3fs and botocore
    each try five times, one within the other: seven minutes.) A put needs `end_put` for that.
    """
    config = {
        "connect_timeout": S3_CONNECT_S,
        "read_timeout": S3_READ_S,
        "retries": {"mode": "standard", "total_max_attempts": S3_TRIES},
        "max_pool_connections": S3_CONNECTIONS,
    }
    files: Any = fsspec.filesystem(
        "s3", endpoint_url=endpoint_url, use_listings_cache=False, skip_instance_cache=True, config_kwargs=config
    )
    files.retries = 1
    return files


def end_put(files: Any, put: Coroutine[Any, Any, object], size_bytes: int) -> None:
    """Bring s3fs's put to its end, also where the caller is interrupted: s3fs's own wrapper leaves it to itself.

    It would land after the interrupted work has been said to be gone, and nobody would know of the object.

    The end comes by a deadline, as a `TimeoutError`. aiohttp's `sock_read` runs neither while it waits for the
    `100 Continue` that botocore asks for, nor while it sends, and a second `100 Continue` stops it: it would wait for
    ever.
    """

    async def within(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await put

    patience = S3_TRIES * S3_READ_S + size_bytes / S3_SLOWEST_BYTES_S
    future = asyncio.run_coroutine_threadsafe(within(patience), files.loop)
    try:
        future.result()
    finally:
        futures.wait([future])


class S3Store:
    """A bucket (or a prefix of one) as object store, through s3fs; creation is a conditional put (`If-None-Match: *`).

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint_url: str | None) -> None:
        self._root = f"{bucket}/{prefix}".rstrip("/")
        self._fs = s3_files(endpoint_url)

    @fault_point("objects.put")
    def put(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put`."""
        put = self._fs._pipe_file(self._path(key), data, mode="create")  # noqa: SLF001  # see `end_put`
        return self._create(key, put, len(data))

    @fault_point("objects.put_file")
    def put_file(self, key: str, path: Path) -> bool:
        """See `ObjectStore.put_file`."""
        put = self._fs._put_file(str(path), self._path(key), mode="create")  # noqa: SLF001  # see `end_put`
        return self._create(key, put, path.stat().st_size)

    @fault_point("objects.get")
    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with _s3_errors(key):
            data: bytes = self._fs.cat_file(self._path(key))
            return data

    @fault_point("objects.open")
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """See `ObjectStore.open`."""
        with _s3_errors(key):
            file = self._fs.open(self._path(key), "rb", cache_type="readahead", block_size=READ_AHEAD_BYTES)
            return _reading(file, _s3_errors(key))

    @fault_point("objects.exists")
    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        with _s3_errors(key):
            return bool(self._fs.exists(self._path(key)))

    @fault_point("objects.keys")
    def keys(self, prefix: str) -> list[str]:
        """See `ObjectStore.keys`."""
        with _s3_errors(prefix):
            found = self._fs.find(self._path(prefix), refresh=True)
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def names(self, prefix: str) -> list[str]:
        """See `ObjectStore.names`."""
        try:
            with _s3_errors(prefix):
                found = self._fs.ls(self._path(prefix), detail=False, refresh=True)
        except ObjectMissing:
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found})

    @fault_point("objects.delete")
    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        with _s3_errors(key), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def ping(self) -> None:
        """See `ObjectStore.ping`."""
        bucket = self._root.split("/", 1)[0]
        try:
            with _s3_errors(bucket):
                self._fs.call_s3("head_bucket", Bucket=bucket)
        except ObjectMissing as error:
            raise StoreUnavailable(f"The bucket {bucket} does not exist.") from error

    def _create(self, key: str, put: Coroutine[Any, Any, object], size_bytes: int) -> bool:
        with _s3_errors(key):
            try:
                end_put(self._fs, put, size_bytes)
            except FileExistsError:
                return False
            return True

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


@contextmanager
def _s3_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise ObjectMissing(f"Object {key} is gone.") from error
    except PermissionError as error:
        raise StoreRefused(
            "The object store refuses what it is asked. Are its credentials right, and valid?"
        ) from error
    except (OSError, BotoCoreError, ClientError, *S3_RETRYABLE_ERRORS) as error:
        raise StoreUnavailable(f"The object store does not answer: {type(error).__name__}.") from error
