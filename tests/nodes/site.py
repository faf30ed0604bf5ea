"""A Ray cluster of several nodes, all on this machine, the stores outside of it, and a `fanfold up` that joins it."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, and its types do not name it
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster as RayCluster

from cluster.composition import open_stores, qdrant_client
from cluster.embedded import EmbeddedMongoDB
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.vectors import collection_name
from tests.conftest import DIMENSION
from tests.crash.machine import Machine
from tests.integration.qdrant_server import QdrantServer

OBJECT_STORE_BYTES = 80 * 1024**2
WATCH_S = 0.02


class Node:
    """One node, with the processes that its raylet has started."""

    def __init__(self, ray_node: Any) -> None:
        self.ray_node = ray_node
        [raylet] = ray_node.all_processes["raylet"]
        self._raylet = psutil.Process(raylet.process.pid)

    def titles(self) -> set[str]:
        """What its workers do now: `ray::ocr`."""
        return {title for worker in self.workers() if (title := _title(worker)).startswith("ray::")}

    def workers(self, title: str = "ray::") -> list[psutil.Process]:
        """Its workers that do what begins so."""
        try:
            children = self._raylet.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _title(child).startswith(title)]


class Site:
    """The nodes, the stores' addresses, and Fanfold. The head has no CPU."""

    def __init__(self, home: Path, mongodb: EmbeddedMongoDB, qdrant: QdrantServer, **settings: str) -> None:
        self._stores = {
            "FANFOLD_MONGODB_URI": mongodb.uri,
            "FANFOLD_MONGODB_DATABASE": f"site-{home.name}"[:38],
            "FANFOLD_QDRANT_URL": qdrant.url,
            "FANFOLD_OBJECT_STORE_URL": (home / "objects").as_uri(),
        } | settings
        self._home = home
        self.ray = RayCluster()
        self.start_head()

    def start_head(self, **options: Any) -> None:
        """A head of its own, to which others may be added, and then Fanfold started."""
        self.head = self.add_node(num_cpus=0, **options)
        self.fanfold = Machine(self._home, **self._stores, FANFOLD_RAY_ADDRESS=self.ray.address)

    def add_node(self, **resources: Any) -> Node:
        """One more node; one CPU unless it is said."""
        return Node(self.ray.add_node(object_store_memory=OBJECT_STORE_BYTES, **resources))

    def lose_node(self, node: Node, *, warned: bool = False) -> None:
        """SIGKILL everything that runs on it; or, where it is warned, SIGTERM, as who takes machines back does."""
        workers = node.workers()
        self.ray.remove_node(node.ray_node, allow_graceful=warned)
        for worker in workers:
            _end(worker)

    def lose_head(self) -> None:
        """SIGKILL the head with `fanfold up`; the other nodes, whom nobody needs any more, after it."""
        self.fanfold.lose_power()
        self.lose_node(self.head)
        for node in list(self.ray.worker_nodes):
            self.lose_node(Node(node))

    def cpus_asked_for(self) -> float:
        """What Ray tells an autoscaler: the CPUs that tasks wait for which no node has free."""
        waiting = get_cluster_resource_state(GcsClient(self.ray.address)).pending_resource_requests
        return float(sum(one.count * one.request.resources_bundle.get("CPU", 0.0) for one in waiting))

    def stop(self) -> None:
        """Fanfold first, then Ray."""
        self.fanfold.stop()
        self.ray.shutdown()  # type: ignore[no-untyped-call]  # Ray ships it untyped

    @cached_property
    def stores(self) -> Stores:
        """The stores, at their addresses."""
        chosen = {name.removeprefix("FANFOLD_").lower(): value for name, value in self.fanfold.settings.items()}
        settings = Settings.model_validate(chosen)
        return open_stores(settings, qdrant_client(settings), collection_name(settings.embedding_model, DIMENSION))


@contextmanager
def watched(*nodes: Node) -> Iterator[dict[Node, set[str]]]:
    """What each node's workers did during the block, as far as somebody saw who looked all the time."""
    seen: dict[Node, set[str]] = defaultdict(set)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_S):
            for node in nodes:
                seen[node] |= node.titles()

    watcher = threading.Thread(target=watch, name="watch-nodes")
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def doing(seen: dict[Node, set[str]], title: str) -> set[Node]:
    """The nodes where something of a title that begins so was seen."""
    return {node for node, titles in seen.items() if any(one.startswith(title) for one in titles)}


def _end(worker: psutil.Process) -> None:
    """A machine that is gone leaves no worker behind, as a killed raylet does for a moment."""
    try:
        worker.kill()
        worker.wait(10)
    except psutil.NoSuchProcess:
        return


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).rstrip()
    except psutil.Error:  # it has just ended
        return ""
