"""The report of a run: a row for every document, written as its outcome is known, in place only when it is whole."""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from cluster.outcome import Outcome
from ingest.errors import ConfigurationError
from ingest.references import SCHEME
from ingest.stores.objects import end_put, s3_files

ROW_GROUP = 10_000
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("document_id", pa.string()),
        ("job_id", pa.string()),
        ("state", pa.string()),
        ("error_category", pa.string()),
        ("error_message", pa.string()),
        ("pages", pa.int32()),
        ("failed_pages", pa.list_(pa.int32())),
        ("chunks", pa.int32()),
        ("seconds", pa.float64()),
        ("already_there", pa.bool_()),
    ]
)


def row(outcome: Outcome) -> dict[str, Any]:
    """The outcome as a row of the report; what is not known is null."""
    job, failure = outcome.job, outcome.failure
    return {
        "source": outcome.source.shown,
        "document_id": job and job.document_id,
        "job_id": job and job.job_id,
        "state": outcome.state,
        "error_category": failure and str(failure.category),
        "error_message": failure and failure.message,
        "pages": job and job.progress.pages_total,
        "failed_pages": job and [page.page_number for page in job.failed_pages],
        "chunks": job and job.progress.chunks_stored,
        "seconds": round(outcome.seconds, 3),
        "already_there": outcome.already_there,
    }


class JsonArray:
    """A JSON array of any length, written item by item."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._before = "[\n"

    def add(self, item: object) -> None:
        """Write one more item."""
        self._write(self._before + json.dumps(item, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        """Write what makes it whole."""
        self._write("[]\n" if self._before.startswith("[") else "\n]\n")


class Report(Protocol):
    """Takes outcomes, one by one."""

    def write(self, outcome: Outcome) -> None:
        """Add its row."""

    def finish(self) -> None:
        """Write what makes the file whole."""


class _Parquet:
    """Rows in groups: at most one group is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(file, SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def write(self, outcome: Outcome) -> None:
        self._rows.append(row(outcome))
        if len(self._rows) >= ROW_GROUP:
            self._write_group()

    def finish(self) -> None:
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows = []


class _Lines:
    """A JSON object a line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, outcome: Outcome) -> None:
        self._file.write(json.dumps(row(outcome), ensure_ascii=False).encode() + b"\n")

    def finish(self) -> None:
        """Nothing is held back."""


class _Array:
    """One JSON array."""

    def __init__(self, file: IO[bytes]) -> None:
        self._array = JsonArray(lambda text: file.write(text.encode()))

    def write(self, outcome: Outcome) -> None:
        self._array.add(row(outcome))

    def finish(self) -> None:
        self._array.close()


FORMATS: dict[str, Callable[[IO[bytes]], Report]] = {".parquet": _Parquet, ".jsonl": _Lines, ".json": _Array}


@contextmanager
def reporting(target: str, *, s3_endpoint_url: str | None = None) -> Iterator[Report]:
    """A report at a path or `s3://bucket/key`, Parquet, JSON lines or one JSON array by its ending.

    It appears, or replaces an earlier one, as the block ends, however that ends; until then its rows are in a file
    beside it, or in this machine's temporary directory. Raises `ConfigurationError` at once where it cannot be
    written, and afterwards, naming the file that has the rows, where it could not be put into place.
    """
    made = FORMATS.get(Path(urlsplit(target).path if target.startswith(SCHEME) else target).suffix.lower())
    if made is None:
        raise ConfigurationError(f"A report ends in {', '.join(FORMATS)}, not like {target}.")
    place = _Bucket(target, s3_endpoint_url) if target.startswith(SCHEME) else _Directory(Path(target))
    try:
        file = place.staged.open("xb")
    except OSError as error:
        raise ConfigurationError(f"The report cannot be written to {target}: {error.strerror}.") from error
    with file:
        report = made(file)
        try:
            yield report
        finally:
            report.finish()
            file.flush()
            os.fsync(file.fileno())
            _put(place, target)


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")

    def put(self) -> None:
        self.staged.replace(self._path)


class _Bucket:
    def __init__(self, url: str, endpoint_url: str | None) -> None:
        self._files = s3_files(endpoint_url)
        self._path = url.removeprefix(SCHEME)
        self.staged = Path(tempfile.gettempdir()) / f"fanfold-report-{uuid.uuid4().hex}{Path(self._path).suffix}"
        bucket = self._path.partition("/")[0]
        try:
            self._files.call_s3("head_bucket", Bucket=bucket)
        except (OSError, BotoCoreError, ClientError) as error:
            raise ConfigurationError(f"The report cannot be written to the bucket {bucket}: {error}") from error

    def put(self) -> None:
        put = self._files._put_file(str(self.staged), self._path)  # noqa: SLF001  # see `end_put`
        end_put(self._files, put, self.staged.stat().st_size)
        self.staged.unlink()


def _put(place: _Directory | _Bucket, target: str) -> None:
    try:
        place.put()
    except (OSError, BotoCoreError, ClientError) as error:
        raise ConfigurationError(
            f"The report could not be put to {target}: {error}. Its rows are in {place.staged}"
        ) from error
