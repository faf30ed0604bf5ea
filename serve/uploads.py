"""Receiving a file: streamed to disk and hashed on the way, never over the limit, never whole in memory."""

import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from pathlib import Path, PurePosixPath, PureWindowsPath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ingest.errors import FileTooLarge, InputError
from ingest.submission import Upload
from serve.problems import UnsupportedMediaType

MAX_FILENAME_CHARACTERS = 255
MULTIPART_OVERHEAD_BYTES = 64 * 1024
READ_BYTES = 1024**2


class MissingFile(InputError):
    """A form without the field `file`."""


@asynccontextmanager
async def received(request: Request, *, max_bytes: int) -> AsyncIterator[Upload]:
    """The uploaded file, on disk for the length of the block.

    Raises `FileTooLarge` before a byte over `max_bytes` is kept, `UnsupportedMediaType`, or `MissingFile`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    with tempfile.TemporaryDirectory(prefix="fanfold-upload-") as directory:
        path = Path(directory) / "upload.pdf"
        if media_type == "application/pdf":
            filename = _raw_filename(request)
            upload = await _keep(_limited(request.stream(), max_bytes), path, filename)
        elif media_type == "multipart/form-data":
            body = _limited(request.stream(), max_bytes + MULTIPART_OVERHEAD_BYTES)
            file = await _form_file(request, body)
            upload = await _keep(_limited(_chunks(file), max_bytes), path, file.filename or "")
            await file.close()
        else:
            raise UnsupportedMediaType(
                "Send the PDF as the field `file` of multipart/form-data, or as a body of type application/pdf."
            )
        yield upload


def safe_filename(name: str) -> str:
    """The last component of what the client called the file, without control characters; shown, never opened."""
    base = PureWindowsPath(PurePosixPath(name).name).name
    printable = "".join(character for character in base if character.isprintable()).strip()
    return printable[:MAX_FILENAME_CHARACTERS] if printable.strip(".") else "document.pdf"


async def _form_file(request: Request, body: AsyncGenerator[bytes, None]) -> UploadFile:
    try:
        form = await MultiPartParser(request.headers, body, max_files=1, max_fields=10).parse()
    except MultiPartException as error:
        raise MissingFile(f"The form cannot be read: {error.message}") from error
    file = form.get("file")
    if not isinstance(file, UploadFile):
        await form.close()
        raise MissingFile("The form has no file in its field `file`.")
    return file


async def _keep(chunks: AsyncGenerator[bytes, None], path: Path, filename: str) -> Upload:
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as target:
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)
    return Upload(path=path, filename=safe_filename(filename), sha256=digest.hexdigest(), size_bytes=size)


async def _limited(chunks: AsyncGenerator[bytes, None], max_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise FileTooLarge(f"The file is larger than the {max_bytes} bytes that are accepted here.")
        yield chunk


async def _chunks(file: UploadFile) -> AsyncGenerator[bytes, None]:
    while chunk := await file.read(READ_BYTES):
        yield chunk


def _raw_filename(request: Request) -> str:
    """The name in `Content-Disposition`, plain or percent-encoded (RFC 6266)."""
    header = Message()
    header["Content-Disposition"] = request.headers.get("content-disposition", "attachment")
    return header.get_filename() or ""
