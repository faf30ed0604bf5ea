"""An S3 server on loopback that can be gone, and remembers what was put."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from cluster.ports import LOOPBACK

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class _Handler(WSGIRequestHandler):
    """Says nothing while the server is frozen, not even `100 Continue`; a put that came then is not taken any more."""

    goes_on: threading.Event  # the server's

    def handle_expect_100(self) -> bool:
        """See `http.server`. Its client has given up, or tries again when it is hung up on."""
        if self.goes_on.is_set():
            return super().handle_expect_100()
        self.goes_on.wait()
        self.close_connection = True
        return False


class S3Server:
    """moto's S3. Stopped, it refuses connections; frozen, it takes them and says nothing; its objects stay."""

    def __init__(self) -> None:
        self.puts: Counter[str] = Counter()  # by key, refused ones too: whoever puts an object has made it
        self._bucket = f"documents-{uuid.uuid4().hex[:8]}"  # moto keeps every server's buckets in one place
        self._objects: Any = DomainDispatcherApplication(create_backend_app)
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._port = 0  # chosen at the first start

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def settings(self) -> dict[str, str]:
        """What Fanfold needs in its environment to use it."""
        store = {"FANFOLD_OBJECT_STORE_URL": f"s3://{self._bucket}/fanfold", "FANFOLD_S3_ENDPOINT_URL": self.url}
        return CREDENTIALS | store

    def start(self) -> Self:
        """Listen."""
        handler = type("Handler", (_Handler,), {"goes_on": self._goes_on})
        self._server = make_server(LOOPBACK, self._port, self._answer, threaded=True, request_handler=handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3-server")
        self._thread.start()
        return self

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def freeze(self) -> None:
        """Let everybody wait."""
        self._goes_on.clear()

    def thaw(self) -> None:
        """Answer those who have waited, and the others."""
        self._goes_on.set()

    def bucket(self) -> str:
        """One more bucket, empty and of its own name."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        self._files().mkdir(name)
        return name

    def put(self, path: str, data: bytes) -> None:
        """Put an object under `bucket/key`."""
        self._files().pipe_file(path, data)

    def get(self, path: str) -> bytes:
        """The object under `bucket/key`."""
        data: bytes = self._files().cat_file(path)
        return data

    def stored(self) -> set[str]:
        """The keys of the objects that there are."""
        return {f"/{path}" for path in self._files().find(self._bucket)}

    def __enter__(self) -> Self:
        self.start()
        self._files().mkdir(self._bucket)
        return self

    def __exit__(self, *_error: object) -> None:
        self.thaw()
        self.stop()

    def _files(self) -> Any:
        return fsspec.filesystem("s3", key="test", secret="test", endpoint_url=self.url, use_listings_cache=False)

    def _answer(self, request: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        self._goes_on.wait()
        if request["REQUEST_METHOD"] == "PUT":
            self.puts[request["PATH_INFO"]] += 1
        answer: Iterable[bytes] = self._objects(request, respond)
        return answer
