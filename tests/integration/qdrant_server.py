"""Qdrant's REST protocol on loopback, answered by the client library's own local mode.

Tests have no Qdrant to run. Under test is the way there and back of `QdrantClient(url=...)`: addresses, bodies, errors.
"""

import socket
import threading
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from qdrant_client import QdrantClient, models

from cluster.ports import LOOPBACK


class _Success(JSONResponse):
    def render(self, content: Any) -> bytes:
        return super().render({"result": content, "status": "ok", "time": 0.0})


class QdrantServer:
    """A server and its data. It can be stopped, and started again on the same port with what it held."""

    def __init__(self) -> None:
        self.requests: list[str] = []  # "PUT /collections/c/points?wait=true", in the order of their arrival
        self.version = version("qdrant-client")
        self.indexes: dict[str, str] = {}  # payload fields and their types; local mode ignores indexes
        self._refusal: JSONResponse | None = None
        self._local = QdrantClient(":memory:")
        self._lock = threading.Lock()  # local mode answers one thread at a time
        self._port = 0  # chosen at the first start

    def start(self) -> Self:
        """Listen: whoever connects from now on is answered."""
        listener = socket.create_server((LOOPBACK, self._port))
        self._port = listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self._port}"
        self._server = uvicorn.Server(uvicorn.Config(self._app(), log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="qdrant-server")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer what has arrived, then nothing more."""
        self._server.should_exit = True
        self._thread.join()

    __enter__ = start

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def refuse(self, status: int, message: str = "", **headers: str) -> None:
        """Answer everything with this error from now on; with status 0 as before."""
        self._refusal = _failure(status, message, headers) if status else None

    def _app(self) -> FastAPI:
        app, collection = FastAPI(default_response_class=_Success), "/collections/{name}"
        for method, path, endpoint in (
            ("GET", "/", lambda: JSONResponse({"title": "qdrant", "version": self.version})),
            ("GET", "/collections", lambda: self._call("get_collections")),
            ("GET", f"{collection}/exists", lambda name: {"exists": self._call("collection_exists", name)}),
            ("PUT", collection, self._create),
            ("PUT", f"{collection}/index", self._index),
            ("PUT", f"{collection}/points", self._upsert),
            ("POST", f"{collection}/points/delete", self._delete),
            ("POST", f"{collection}/points/count", self._count),
            ("POST", f"{collection}/points/scroll", self._scroll),
            ("POST", f"{collection}/points/query", self._query),
        ):
            app.add_api_route(path, endpoint, methods=[method], response_model=None)
        app.middleware("http")(self._receive)
        app.add_exception_handler(ValueError, _refused)
        app.add_exception_handler(RequestValidationError, _refused)
        return app

    async def _receive(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        self.requests.append(f"{request.method} {request.url.path}?{request.url.query}".removesuffix("?"))
        return await answer(request) if self._refusal is None else self._refusal

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return getattr(self._local, method)(*args, **kwargs)

    def _create(self, name: str, body: models.CreateCollection) -> Any:
        return self._call(
            "create_collection", name, vectors_config=body.vectors, sparse_vectors_config=body.sparse_vectors
        )

    def _index(self, name: str, body: models.CreateFieldIndex) -> Any:
        self.indexes[body.field_name] = str(body.field_schema)
        return {"operation_id": 0, "status": "completed"}

    def _upsert(self, name: str, body: models.PointsList) -> Any:
        return self._call("upsert", name, body.points, update_filter=body.update_filter)

    def _delete(self, name: str, body: models.PointsSelector) -> Any:
        return self._call("delete", name, body)

    def _count(self, name: str, body: models.CountRequest) -> Any:
        return self._call("count", name, body.filter, exact=bool(body.exact))

    def _scroll(self, name: str, body: models.ScrollRequest) -> Any:
        points, following = self._call("scroll", name, body.filter, limit=body.limit, offset=body.offset)
        return {"points": points, "next_page_offset": following}

    def _query(self, name: str, body: models.QueryRequest) -> Any:
        how = {"using": body.using, "query_filter": body.filter, "limit": body.limit, "with_payload": body.with_payload}
        return self._call("query_points", name, body.query, **how)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    words = str(error)  # local mode raises nothing more exact than ValueError
    return _failure(409 if "already exists" in words else 404 if "not found" in words else 400, words)


def _failure(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"status": {"error": message}, "time": 0.0}, status, headers)
