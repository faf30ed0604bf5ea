"""Embedded stores, for a machine that has none: a MongoDB-protocol server process, and Qdrant's local mode in an actor.

Both are the real thing behind the real client; nothing above the client knows the difference.
"""

import contextlib
import ctypes
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from qdrant_client import QdrantClient
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from cluster.ports import free_port
from ingest.errors import ConfigurationError, StoreUnavailable
from ingest.stores.vectors import QDRANT_METHODS
from ingest.telemetry import get_logger

NAMESPACE = "fanfold"
QDRANT_ACTOR = "qdrant"
EMBEDDED_QDRANT_URL = f"ray-actor://{QDRANT_ACTOR}"
MONGODB_START_TIMEOUT_S = 30.0
MONGODB_STOP_TIMEOUT_S = 20.0
MONGODB_CACHE = "256M"
QDRANT_START_TIMEOUT_S = 600.0  # it reads all of its points
QDRANT_CALL_TIMEOUT_S = 120.0
QDRANT_STOP_TIMEOUT_S = 60.0  # what was written is on the disk already
PR_SET_PDEATHSIG = 1  # prctl(2)
log = get_logger()


class EmbeddedMongoDB:
    """SecantusDB: MongoDB's wire protocol on WiredTiger, in a process that dies with its parent.

    Every commit is synced to disk, so what was acknowledged survives a SIGKILL of everything.
    """

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The connection string."""
        return f"mongodb://127.0.0.1:{self._port}/?directConnection=true"

    def start(self) -> None:
        """Start the server, and return when it answers. Raises `ConfigurationError` when it does not."""
        if importlib.util.find_spec("secantus") is None:
            raise ConfigurationError(
                "The embedded MongoDB is not installed: pip install 'fanfold[embedded]', or set FANFOLD_MONGODB_URI."
            )
        self._storage.mkdir(parents=True, exist_ok=True)
        command = [
            str(Path(sys.executable).with_name("secantusd-py")),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--storage-path", str(self._storage), "--cache-size", MONGODB_CACHE),
            *("--log-level", "WARNING", "--sync-on-commit"),
        ]
        log = self._storage.with_suffix(".log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: S603  # a fixed program with our own arguments
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # prctl only
            )
        self._wait_until_up()

    def keep_alive(self) -> bool:
        """Start the server again if it died; True if it had."""
        if self._process is None or self._process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Stop the server after it has written everything."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(MONGODB_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_up(self) -> None:
        assert self._process is not None
        give_up_at = time.monotonic() + MONGODB_START_TIMEOUT_S
        client: MongoClient[dict[str, Any]] = MongoClient(self.uri, serverSelectionTimeoutMS=200)
        with contextlib.closing(client):
            while time.monotonic() < give_up_at and self._process.poll() is None:
                try:
                    client.admin.command("ping")
                except PyMongoError:
                    time.sleep(0.05)
                else:
                    return
        raise ConfigurationError(
            f"The embedded MongoDB does not start. Its log is beside {self._storage}; is another Fanfold using it?"
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class QdrantActor:
    """The one owner of Qdrant's local storage, which only one process may open."""

    def __init__(self, path: str) -> None:
        self._client = QdrantClient(path=path)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the client's method; only those that `QdrantApi` names."""
        if method not in QDRANT_METHODS:
            raise AttributeError(f"QdrantApi has no method {method!r}")
        return getattr(self._client, method)(*args, **kwargs)

    def close(self) -> None:
        """Write everything and let go of the storage."""
        self._client.close()


def start_embedded_qdrant(storage: Path) -> None:
    """Start the actor, detached, unless it runs; return when it answers."""
    storage.mkdir(parents=True, exist_ok=True)
    actor: Any = QdrantActor
    handle = actor.options(name=QDRANT_ACTOR, namespace=NAMESPACE, lifetime="detached", get_if_exists=True).remote(
        str(storage)
    )
    try:
        ray.get(handle.call.remote("get_collections", (), {}), timeout=QDRANT_START_TIMEOUT_S)
    except GetTimeoutError as error:
        raise StoreUnavailable("The embedded Qdrant does not start.") from error


def stop_embedded_qdrant() -> None:
    """Let the actor write everything, then end it; nothing happens when there is none."""
    try:
        handle = ray.get_actor(QDRANT_ACTOR, namespace=NAMESPACE)
    except ValueError:
        return
    try:
        ray.get(handle.close.remote(), timeout=QDRANT_STOP_TIMEOUT_S)
    except RayError as error:
        log.warning("the embedded Qdrant did not close by itself", error=type(error).__name__)
    ray.kill(handle)


class EmbeddedQdrant:
    """`QdrantApi`, answered by the actor. Made anywhere in the cluster; pickles as nothing but its name."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in QDRANT_METHODS:
            raise AttributeError(method)
        return partial(self._call, method)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            actor = ray.get_actor(QDRANT_ACTOR, namespace=NAMESPACE)
            return ray.get(actor.call.remote(method, args, kwargs), timeout=QDRANT_CALL_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from None
        except (RayActorError, ValueError, TimeoutError) as error:
            raise StoreUnavailable(f"The embedded Qdrant does not answer: {type(error).__name__}.") from error
