"""An embedder pool on a Ray cluster of its own, with a head without a GPU and a node that claims to have one.

Run as a program, since a process can be in one Ray cluster only; prints what it saw, as JSON, for `test_embedders.py`.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from cluster.composition import connect, resolve
from cluster.embedders import EmbedderPool
from ingest.checkpoints import Checkpoints
from ingest.model import Chunk, Revision
from ingest.settings import Settings
from ingest.stores import Stores
from tests.conftest import PIPELINE

BATCH = 8
PATIENCE_S = 150
STORE_BYTES = 80 * 1024**2


def main() -> None:
    """Start the cluster, see, and print."""
    nodes: Any = Cluster()
    nodes.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE_BYTES)
    nodes.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES)
    ray.init(address=nodes.address)
    print(json.dumps(asyncio.run(see(Path(sys.argv[1])))))  # noqa: T201  # this is its output
    ray.shutdown()
    nodes.shutdown()


async def see(home: Path) -> dict[str, Any]:
    """What happens to work on up to two embedders with a quarter of a GPU each."""
    settings = Settings(
        data_dir=home,
        embedders=2,
        embedder_gpus=0.25,
        embedder_idle_s=3,
        embedding_batch_chunks=BATCH,
        embedding_batch_tokens=512,
    )
    blueprint = resolve(settings, mongodb_uri="mongodb://127.0.0.1:1")
    stores = connect(blueprint)
    pool = EmbedderPool(blueprint)
    pool.warm_up()
    await until(lambda: pool._embedders[0].loaded)
    seen: dict[str, Any] = {"warm": alive()}

    documents = [document(stores, number) for number in range(30)]
    work = [asyncio.create_task(pool.embed(one, batch, BATCH)) for one in documents for batch in (0, 1)]
    await until(lambda: len(alive()) == 2)
    seen["most"] = len(pool._embedders)
    work[-1].cancel()  # waits
    await until(lambda: any(committed(stores, one) for one in documents))
    [first, *_] = alive()
    before = {path: path.stat().st_mtime_ns for path in vectors(home)}
    os.kill(first["pid"], signal.SIGKILL)
    ended = await asyncio.gather(*work, return_exceptions=True)
    seen["ended"] = [None if one is None else type(one).__name__ for one in ended]
    seen["committed"] = sum(len(committed(stores, one)) for one in documents)
    seen["repeated"] = [str(path) for path, at in before.items() if path.stat().st_mtime_ns != at]
    await until(lambda: not alive())
    seen["idle"] = len(pool._embedders)
    await until(lambda: ray.available_resources().get("GPU") == 1)  # type: ignore[no-untyped-call]  # as above
    return seen


def alive() -> list[dict[str, Any]]:
    """The embedders: their process, whether their node has a GPU, what they take of it."""
    gpus = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes()}  # type: ignore[no-untyped-call]  # as above
    filters: Any = [("class_name", "=", "EmbedderActor"), ("state", "=", "ALIVE")]
    return [
        {"pid": actor.pid, "node_gpus": gpus[actor.node_id], "takes": actor.required_resources}
        for actor in list_actors(address=ray.get_runtime_context().gcs_address, filters=filters, detail=True)
    ]


def document(stores: Stores, number: int) -> Revision:
    """A document of two batches whose chunks are cut."""
    revision = Revision("default", f"{number:032x}", 1, PIPELINE)
    text = "The pilot climbs aboard from the cutter before the bar, and takes the wheel. " * 8
    chunks = [Chunk(index, f"Day {number}.{index}. {text}", 1, 1, 150) for index in range(2 * BATCH)]
    checkpoints(stores, revision).write_chunks(chunks, batch_size=BATCH)
    return revision


def checkpoints(stores: Stores, revision: Revision) -> Checkpoints:
    """What the document has."""
    return Checkpoints(stores.objects, revision.document_id, PIPELINE)


def committed(stores: Stores, revision: Revision) -> list[int]:
    """Its batches that are embedded."""
    return [batch for batch in (0, 1) if checkpoints(stores, revision).has_vectors(batch)]


def vectors(home: Path) -> list[Path]:
    """The files of all committed vectors."""
    return list(home.rglob("vectors/*.parquet"))


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as it holds."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    main()
