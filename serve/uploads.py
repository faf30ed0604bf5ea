"""Receiving files: streamed to disk and hashed on the way, never over the limit, never whole in memory."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from email.message import Message
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import anyio
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ingest.errors import FileTooLarge
from ingest.metadata import MAX_METADATA_BYTES, BadMetadata, Metadata, check_metadata, parse_metadata
from ingest.references import DISK_FULL, References
from ingest.submission import Upload
from ingest.turns import NO_PRIORITY, BadPriority, Priority, parse_priority
from serve.intake import MULTIPART_OVERHEAD_BYTES
from serve.refusals import BadReference, MissingFile, ServiceFull, UnknownField, UnsupportedMediaType
from serve.schemas import METADATA_HEADER, PRIORITY_HEADER, ReferenceRequest

FIELDS = ("file", "metadata", "priority")
MAX_NAME_SHOWN = 80  # characters
MAX_FILES = 100
MAX_FILENAME_CHARACTERS = 255
MAX_REFERENCE_BYTES = 2 * MAX_METADATA_BYTES
READ_BYTES = 1024**2
DIRECTORY_PREFIX = "fanfold-upload-"
ABANDONED_S = 24 * 60 * 60.0  # no upload takes a day


@asynccontextmanager
async def received(
    request: Request, references: References, *, tenant: str, max_bytes: int
) -> AsyncIterator[list[Upload]]:
    """The files of a submit, at least one, on disk for the length of the block.

    They come as the fields `file` of a form, as a raw PDF, or as JSON that says where one is. Raises `FileTooLarge`
    before a byte over `max_bytes` (of all together) is kept, `UnsupportedMediaType`, `MissingFile`, `BadMetadata`,
    `BadPriority`, `BadReference`, `UnknownField`, `ServiceFull`, or what `References.fetch` raises.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    with tempfile.TemporaryDirectory(prefix=DIRECTORY_PREFIX) as name:
        directory = Path(name)
        with _room():
            if media_type == "application/pdf":
                uploads = [await _raw(request, directory, max_bytes)]
            elif media_type == "multipart/form-data":
                uploads = await _form(request, directory, max_bytes)
            elif media_type == "application/json":
                uploads = [await _referred(request, references, tenant, directory, max_bytes)]
            else:
                raise UnsupportedMediaType(
                    "Send PDFs as fields `file` of multipart/form-data, one as a body of type application/pdf, or "
                    'where one is as application/json: {"url": "s3://bucket/key.pdf"}.'
                )
        yield uploads


def remove_abandoned() -> None:
    """Remove the uploads that replicas left behind when they were killed, by now a day ago."""
    for directory in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*"):
        with suppress(OSError):  # another replica removes it too, or it is another user's
            if time.time() - directory.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(directory)


@contextmanager
def _room() -> Iterator[None]:
    """Raise `ServiceFull` where the disk is."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ServiceFull("There is no room for the file at the moment. Send it again later.") from error


def safe_filename(name: str) -> str:
    """The last component of what the client called the file, without control characters; shown, never opened."""
    base = PureWindowsPath(PurePosixPath(name).name).name
    printable = "".join(character for character in base if character.isprintable()).strip()
    return printable[:MAX_FILENAME_CHARACTERS] if printable.strip(".") else "document.pdf"


async def _raw(request: Request, directory: Path, max_bytes: int) -> Upload:
    header = request.headers.get(METADATA_HEADER)
    said = _Said(
        None if header is None else parse_metadata(_as_sent(header)),
        parse_priority(request.headers.get(PRIORITY_HEADER, "")),
    )
    body = _limited(request.stream(), max_bytes)
    return await _keep(body, directory / "upload.pdf", _raw_filename(request), said)


async def _form(request: Request, directory: Path, max_bytes: int) -> list[Upload]:
    body = _limited(request.stream(), max_bytes + MULTIPART_OVERHEAD_BYTES)
    try:
        form = await MultiPartParser(request.headers, body, max_files=MAX_FILES, max_fields=10).parse()
    except MultiPartException as error:
        raise MissingFile(f"The form cannot be read: {error.message}") from error
    async with _closing(form):
        files = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
        if not files:
            raise MissingFile(
                "The form has no file in a field `file`. Send each PDF as a file in a field of that name."
            )
        _check_fields(form)
        if sum(file.size or 0 for file in files) > max_bytes:
            raise _too_large(max_bytes)
        metadata = await _text(form, "metadata")
        said = _Said(
            None if metadata is None else parse_metadata(metadata), parse_priority(await _text(form, "priority") or "")
        )
        return [
            await _keep(_chunks(file), directory / f"{number}.pdf", file.filename or "", said)
            for number, file in enumerate(files)
        ]


def _check_fields(names: Iterable[str]) -> None:
    """Raise `UnknownField` for the first name that is none of a submit's."""
    for name in names:
        if name not in FIELDS:
            raise UnknownField(f"A submit has no field `{name[:MAX_NAME_SHOWN]}`. Its fields are: {', '.join(FIELDS)}.")


async def _text(form: FormData, name: str) -> str | None:
    """What a field says, also when it comes as a file (`curl -F metadata=@about.json`); None when there is none."""
    value = form.get(name)
    if not isinstance(value, UploadFile):
        return value
    content = await value.read(MAX_METADATA_BYTES + 1)  # one more than is accepted: what is cut is refused
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadMetadata(f"The field `{name}` is not text in UTF-8.") from error


async def _referred(request: Request, references: References, tenant: str, directory: Path, max_bytes: int) -> Upload:
    body = b"".join([chunk async for chunk in _limited(request.stream(), MAX_REFERENCE_BYTES)])
    try:
        reference = ReferenceRequest.model_validate_json(body)
    except ValidationError as error:
        wrong = {item["type"]: item["loc"] for item in error.errors()}
        if ("priority",) in wrong.values():
            raise BadPriority(NO_PRIORITY) from error
        if "extra_forbidden" in wrong:
            name, known = str(wrong["extra_forbidden"][0])[:MAX_NAME_SHOWN], ", ".join(ReferenceRequest.model_fields)
            raise UnknownField(f"A reference has no field `{name}`. Its fields are: {known}.") from error
        raise BadReference('Say where the document is: {"url": "s3://bucket/key.pdf"}.') from error
    metadata = None if reference.metadata is None else check_metadata(reference.metadata)
    fetch = partial(references.fetch, tenant, reference.url, directory / "upload.pdf", max_bytes=max_bytes)
    upload: Upload = await anyio.to_thread.run_sync(fetch, limiter=references.places)
    filename = safe_filename(upload.filename)
    return replace(upload, filename=filename, metadata=metadata, priority=reference.priority)


@dataclass(frozen=True, slots=True)
class _Said:
    """What comes with a file."""

    metadata: Metadata | None
    priority: Priority


async def _keep(chunks: AsyncGenerator[bytes, None], path: Path, filename: str, said: _Said) -> Upload:
    digest = hashlib.sha256()
    size = 0
    async with await anyio.open_file(path, "wb") as target:  # a slow disk must not stop other requests
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            await target.write(chunk)
    return Upload(path, safe_filename(filename), digest.hexdigest(), size, said.metadata, said.priority)


async def _limited(chunks: AsyncGenerator[bytes, None], max_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


async def _chunks(file: UploadFile) -> AsyncGenerator[bytes, None]:
    while chunk := await file.read(READ_BYTES):
        yield chunk


@asynccontextmanager
async def _closing(form: FormData) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await form.close()


def _too_large(max_bytes: int) -> FileTooLarge:
    return FileTooLarge(f"That is more than the {max_bytes} bytes that are accepted here at a time.")


def _as_sent(header: str) -> str:
    """A header in UTF-8, as terminals send it; headers are read as Latin-1 (RFC 9110, section 5.5)."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeDecodeError:
        return header


def _raw_filename(request: Request) -> str:
    """The name in `Content-Disposition`, plain or percent-encoded (RFC 6266); none where it cannot be read."""
    header = Message()
    header["Content-Disposition"] = request.headers.get("content-disposition", "attachment")
    try:
        return header.get_filename() or ""
    except (TypeError, ValueError):  # of a character set that is none, of parts that are no sequence
        return ""
