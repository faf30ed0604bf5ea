"""The intake as ASGI middleware, alone: what is let in at a time, and what is answered without reading."""

import asyncio
import importlib
import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from ray.serve._private.http_util import validate_http_proxy_callback_return
from starlette.types import Message, Receive, Scope, Send

from ingest.settings import Settings
from serve import intake
from serve.intake import (
    MAX_JSON_BYTES,
    MULTIPART_OVERHEAD_BYTES,
    PROXY_CALLBACK,
    UPLOADS,
    Intake,
    proxy_environment,
)

MIB = 1024**2
SETTINGS = Settings(max_upload_bytes=100 * MIB, max_uploading_bytes=250 * MIB)


@dataclass
class Service:
    """Answers 202 once it is let go on; counts what is under way."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    fails: bool = False

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """One request."""
        self.under_way += 1
        try:
            await self.go_on.wait()
            if self.fails:
                raise ConnectionResetError
            await send({"type": "http.response.start", "status": 202, "headers": []})
        finally:
            self.under_way -= 1


@dataclass
class Caller:
    """Sends requests through the middleware; keeps the answers."""

    service: Service = field(default_factory=Service)

    def __post_init__(self) -> None:
        self.intake = Intake(self.service, SETTINGS)

    async def answer(self, size: int | None, path: str = UPLOADS) -> list[Message]:
        """What a POST that announces so many bytes is answered; None announces nothing."""
        told = (b"transfer-encoding", b"chunked") if size is None else (b"content-length", str(size).encode())
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("a body was read that was not let in")

        scope = {"type": "http", "method": "POST", "path": path, "headers": [told]}
        await self.intake(scope, receive, send)
        return sent

    def start(self, size: int | None) -> asyncio.Task[list[Message]]:
        """A request that stays under way."""
        return asyncio.create_task(self.answer(size))


async def test_bytes_under_way_are_bounded_and_come_back() -> None:
    """A third upload is refused at once while two fill the bound; when one has been answered, there is room again."""
    caller = Caller()
    first, second = caller.start(100 * MIB), caller.start(100 * MIB)
    await asyncio.sleep(0)
    [start, body] = await caller.answer(100 * MIB)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (start["status"], int(headers["retry-after"]) > 0) == (503, True)
    assert json.loads(body["body"])["retryable"] is True
    fits = caller.start(50 * MIB)
    await asyncio.sleep(0)
    assert caller.service.under_way == 3
    caller.service.go_on.set()
    assert [(await task)[0]["status"] for task in (first, second, fits)] == [202] * 3
    assert (await caller.answer(100 * MIB))[0]["status"] == 202


async def test_a_body_of_unknown_length_counts_as_the_largest() -> None:
    """Otherwise leaving the length out would be the way past the bound."""
    caller = Caller()
    tasks = [caller.start(None), caller.start(None)]
    await asyncio.sleep(0)
    assert (await caller.answer(None))[0]["status"] == 503
    caller.service.go_on.set()
    assert [(await task)[0]["status"] for task in tasks] == [202] * 2


async def test_the_largest_file_is_let_in_alone() -> None:
    """Also where the bound is smaller than one file may be; and small bodies are never refused."""
    caller = Caller()
    caller.intake = Intake(caller.service, SETTINGS.model_copy(update={"max_uploading_bytes": 1}))
    task = caller.start(100 * MIB)
    await asyncio.sleep(0)
    assert (await caller.answer(MIB))[0]["status"] == 503
    small = asyncio.create_task(caller.answer(200, "/v1/search"))
    await asyncio.sleep(0)
    assert caller.service.under_way == 2
    caller.service.go_on.set()
    assert [(await each)[0]["status"] for each in (task, small)] == [202] * 2


async def test_a_request_that_breaks_gives_its_bytes_back() -> None:
    """Also when the application raises, as it does when the client goes."""
    caller = Caller(Service(fails=True))
    caller.service.go_on.set()
    for _ in range(5):
        with pytest.raises(ConnectionResetError):
            await caller.answer(100 * MIB)
    caller.service.fails = False
    assert (await caller.answer(100 * MIB))[0]["status"] == 202


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        (UPLOADS, 100 * MIB + MULTIPART_OVERHEAD_BYTES, 202),
        (UPLOADS, 100 * MIB + MULTIPART_OVERHEAD_BYTES + 1, 413),
        (UPLOADS, 10**40, 413),
        ("/v1/search", MAX_JSON_BYTES, 202),
        ("/v1/search", MAX_JSON_BYTES + 1, 413),
        ("/v1/search", None, 411),
    ],
)
async def test_what_is_too_large_is_not_read(path: str, size: int | None, status: int) -> None:
    """By what it announces; only uploads may leave the length out."""
    caller = Caller()
    caller.service.go_on.set()
    assert (await caller.answer(size, path))[0]["status"] == status


async def test_proxies_get_the_middleware_with_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, in the form that Ray Serve takes."""
    for name, value in proxy_environment(Settings(max_upload_bytes=7)).items():
        monkeypatch.setenv(name, value)
    module, _, function = PROXY_CALLBACK["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    [found] = validate_http_proxy_callback_return(getattr(importlib.import_module(module), function)())
    caller = Caller()
    caller.service.go_on.set()
    caller.intake = cast("Intake", found.cls(caller.service, *found.args, **found.kwargs))
    assert (await caller.answer(7 + MULTIPART_OVERHEAD_BYTES))[0]["status"] == 202
    assert (await caller.answer(8 + MULTIPART_OVERHEAD_BYTES))[0]["status"] == 413


async def test_a_body_that_falls_silent_gives_its_bytes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has lost the network says no goodbye: after a while it is taken to be gone, and another one fits."""
    monkeypatch.setattr(intake, "SILENCE_S", 0.05)
    messages: list[Message] = [{"type": "http.request", "body": b"%PDF", "more_body": True}]
    heard: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def read(_scope: Scope, receive: Receive, _send: Send) -> None:
        while not heard or heard[-1].get("more_body"):
            heard.append(await receive())

    middleware = Intake(read, SETTINGS)
    headers = [(b"content-length", str(100 * MIB).encode())]
    await middleware({"type": "http", "method": "POST", "path": UPLOADS, "headers": headers}, receive, _no_answer)
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]
    assert middleware._uploading_bytes == 0


async def test_a_body_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is never silent for long, and would hold its place for hours; one that comes is heard out."""
    monkeypatch.setattr(intake, "SILENCE_S", 0.1)
    monkeypatch.setattr(intake, "LEAST_BYTES_PER_S", 1000)

    def client(bytes_at_a_time: int) -> Receive:
        async def receive() -> Message:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x" * bytes_at_a_time, "more_body": True}

        return receive

    async def read(receive: Receive) -> int:
        for number in range(20):
            if (await receive())["type"] == "http.disconnect":
                return number
        return 20

    assert 3 <= await read(intake._in_time(client(1))) <= 6
    assert await read(intake._in_time(client(100))) == 20


async def test_a_request_that_is_being_answered_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows a job's events says nothing for hours: only a body that is not whole yet is timed."""
    monkeypatch.setattr(intake, "SILENCE_S", 0.05)
    gone = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def follow(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        waiting = asyncio.create_task(cast("Any", receive()))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        gone.set()
        assert (await waiting)["type"] == "http.disconnect"

    scope = {"type": "http", "method": "GET", "path": "/v1/jobs/a/events", "headers": []}
    await Intake(follow, SETTINGS)(scope, receive, _no_answer)


async def _no_answer(_message: Message) -> None:
    """Nobody is there to hear it."""
