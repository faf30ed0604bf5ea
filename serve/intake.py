"""The intake: how many bytes of bodies may be under way at a time, decided before the first of them is read.

Ray Serve's proxy takes a body in as fast as it comes and hands it on in memory, so the bound has to stand before it:
the same middleware runs in the proxies (`proxy_middlewares`, docs/adr/0012) and in each replica, for clusters whose
proxies do not have it.
"""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest.errors import FanfoldError, FileTooLarge
from ingest.settings import Settings
from serve.problems import problem_answer
from serve.refusals import LengthRequired, ServiceFull

UPLOADS = "/v1/documents"
MULTIPART_OVERHEAD_BYTES = 64 * 1024
MAX_JSON_BYTES = 1024**2
SILENCE_S = 60.0  # in the middle of a body: who has lost the network says no goodbye, and holds a share of the bound
LEAST_BYTES_PER_S = 1024  # of a body, after its first minute: one that trickles holds its place for hours
SMALL_BYTES = 64 * 1024  # a body that is not worth counting: searches go on while uploads wait
PROXY_CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.intake:proxy_middlewares"}


class Intake:
    """ASGI middleware: at most `FANFOLD_MAX_UPLOADING_BYTES` of bodies under way, as they announce themselves.

    A body counts with its announced length, or with the largest that is allowed if it announces none, until the
    request is answered. One is always let in, however large. What comes too many is answered 503 with `Retry-After`;
    what announces more than is accepted at all, 413; both at once, without a byte of it in memory. A body of which
    nothing comes for a minute, or ever too little, is given up, like one whose client has gone.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_upload_bytes = settings.max_upload_bytes
        self._max_uploading_bytes = settings.max_uploading_bytes
        self._uploading_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            size = self._size(scope)
            self._refuse(size)
        except FanfoldError as refusal:
            await problem_answer(refusal)(scope, receive, send)
            return
        self._uploading_bytes += size
        try:
            await self._app(scope, _in_time(receive), send)
        finally:
            self._uploading_bytes -= size

    def _size(self, scope: Scope) -> int:
        """The bytes that the body counts for. Raises `FileTooLarge` or `LengthRequired`."""
        headers = Headers(scope=scope)
        is_upload = scope["path"] == UPLOADS
        largest = self._max_upload_bytes + MULTIPART_OVERHEAD_BYTES if is_upload else MAX_JSON_BYTES
        if "transfer-encoding" in headers:
            if not is_upload:
                raise LengthRequired("Say how long the body is: send Content-Length.")
            return largest
        announced = headers.get("content-length", "0")
        size = int(announced) if announced.isdecimal() else largest
        if size > largest:
            accepted = self._max_upload_bytes if is_upload else MAX_JSON_BYTES
            raise FileTooLarge(f"That is more than the {accepted} bytes that are accepted here at a time.")
        return size if size > SMALL_BYTES else 0

    def _refuse(self, size: int) -> None:
        if size and self._uploading_bytes and self._uploading_bytes + size > self._max_uploading_bytes:
            raise ServiceFull("As much is being uploaded as this service takes in at a time. Try again in a moment.")


def _in_time(receive: Receive) -> Receive:
    """The same messages; `http.disconnect` once the rest of the body has kept the service waiting for too long."""
    whole = False
    patience_s = SILENCE_S  # what is left of the body's first minute, and of what its bytes have earned

    async def next_message() -> Message:
        nonlocal whole, patience_s
        if whole:  # what is waited for now is the end of a request that is being answered
            return await receive()
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(min(SILENCE_S, patience_s)):
                message = await receive()
        except TimeoutError:
            message = {"type": "http.disconnect"}
        patience_s += len(message.get("body", b"")) / LEAST_BYTES_PER_S - (time.monotonic() - asked_at)
        whole = not message.get("more_body", False)
        return message

    return next_message


def proxy_middlewares() -> list[Middleware]:
    """What Ray Serve's proxies put before every application, by the settings of their environment."""
    return [Middleware(Intake, settings=Settings())]


def proxy_environment(settings: Settings) -> dict[str, str]:
    """The environment variables in which proxies find `proxy_middlewares` and its settings."""
    return PROXY_CALLBACK | {
        f"FANFOLD_{name.upper()}": str(getattr(settings, name)) for name in ("max_upload_bytes", "max_uploading_bytes")
    }
