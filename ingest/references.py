"""Documents by reference: fetched from object storage, where a setting allows it."""

import errno
import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from anyio import CapacityLimiter
from botocore.exceptions import BotoCoreError, ClientError

from ingest.errors import FileTooLarge, NotFound, ReferenceNotAllowed, StoreUnavailable
from ingest.faults import fault_point
from ingest.stores.objects import s3_files
from ingest.submission import Upload

SCHEME = "s3://"
READ_BYTES = 1024**2
AT_ONCE = 8
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
TENANT = "{tenant}"


class References:
    """Reads `s3://bucket/key`, below one of `allowed` (prefixes, `{tenant}` in them is the caller's) and nowhere else.

    Credentials are those of this process's environment, as s3fs finds them. A few are read at a time, in threads of
    their own: a reference is a small request for a large file, and those that wait for a bucket keep nobody else from
    the threads that serve everything.
    """

    def __init__(self, allowed: Iterable[str], *, s3_endpoint_url: str | None = None) -> None:
        self._allowed = tuple(allowed)
        self._files = s3_files(s3_endpoint_url)
        self.places = CapacityLimiter(AT_ONCE)

    def check(self, tenant: str, url: str) -> None:
        """Raise `ReferenceNotAllowed` unless the tenant may refer to this address."""
        if not any(url.startswith(_directory(prefix, tenant)) for prefix in self._allowed):
            bucket = url.removeprefix(SCHEME).partition("/")[0]
            raise ReferenceNotAllowed(
                "The service does not fetch documents from there. Whoever runs it can allow it, by name and on every "
                f"node: FANFOLD_SOURCE_URLS={SCHEME}{bucket}/PREFIX"
            )

    @fault_point("references.fetch")
    def fetch(self, tenant: str, url: str, target: Path, *, max_bytes: int) -> Upload:
        """Copy the object into the file `target`, hashed on the way.

        Raises `ReferenceNotAllowed`, `NotFound`, `FileTooLarge` before a byte over `max_bytes` is kept,
        `StoreUnavailable`, or `OSError` where the target's disk is full. To be called in one of `places`.
        """
        self.check(tenant, url)
        try:
            return self._copy(url.removeprefix(SCHEME), target, max_bytes)
        except FileNotFoundError as error:
            raise NotFound("There is no object at that address.") from error
        except PermissionError as error:
            raise ReferenceNotAllowed("The object store does not let this service read that object.") from error
        except (OSError, BotoCoreError, ClientError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            raise StoreUnavailable(f"The object store does not answer: {type(error).__name__}.") from error

    def _copy(self, path: str, target: Path, max_bytes: int) -> Upload:
        if not self._files.split_path(path)[1]:  # a bucket alone, which s3fs opens with a ValueError
            raise FileNotFoundError(path)
        digest = hashlib.sha256()
        size = 0
        opened = self._files.open(path, "rb", block_size=READ_BYTES, cache_type="readahead")
        with opened as source, target.open("wb") as copy:
            if source.details["type"] != "file":
                raise FileNotFoundError(path)
            if source.size > max_bytes:
                raise _too_large(max_bytes)
            while chunk := source.read(READ_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                digest.update(chunk)
                copy.write(chunk)
        return Upload(path=target, filename=PurePosixPath(path).name, sha256=digest.hexdigest(), size_bytes=size)


def _directory(prefix: str, tenant: str) -> str:
    """The prefix with the tenant in it, ending so that `s3://in` does not allow `s3://inner`."""
    return prefix.replace(TENANT, tenant).rstrip("/") + "/"


def _too_large(max_bytes: int) -> FileTooLarge:
    return FileTooLarge(f"The file is larger than the {max_bytes} bytes that are accepted here.")
