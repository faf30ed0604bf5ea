"""What a supervisor can hand out: pages and jobs a second, and the database's work for each, when the work is nothing.

The supervisor, the queue, the checkpoints and the embedded MongoDB are the real ones, and every page is a Ray task with
its start, its limits and its end. What the tasks would do (inspect, OCR, cut) is left out, and a document without text
has nothing to embed or store. So these are upper bounds: OCR is a hundred times slower. Nodes are simulated, several on
this machine, with the same CPUs among them: that shows whether more of them cost the supervisor anything, not what they
would add.
"""

import asyncio
import logging
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from pydantic import SecretStr
from pymongo import MongoClient, monitoring
from qdrant_client import QdrantClient
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.running import pairs
from cluster import flags
from cluster.composition import Blueprint, open_stores
from cluster.embedded import EmbeddedMongoDB
from cluster.engine import RayEngine
from cluster.scheduler import Owner
from cluster.supervisor import Supervisor, store_threads
from cluster.tasks import SPREAD
from cluster.work import Started, Work
from ingest.model import ChunkPlan, Document, Inspection, Job, PipelineSpec, Revision
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.telemetry import configure_logging
from ingest.turns import Priority

RUNS = ((1, 10), (1, 100), (1, 1_000), (1, 10_000), (2, 10), (4, 10))  # nodes, jobs that wait
CPUS = 4  # of the whole cluster, whatever nodes it has: as many tasks run at a time
PAGES, JOBS = 1_000, 80
WARM_UP_PAGES = 200  # every node's processes have started by then
LIMIT_S = 60.0
PLACES = 8
LOOK_S = 0.1
TENANT = "bench"
PIPELINE = PipelineSpec(extract="bench", chunk="bench", embed="bench")


@ray.remote(num_cpus=1, max_retries=0, scheduling_strategy=SPREAD)
def nothing(revision: Revision, page_number: int) -> Iterator[Started | int]:
    """A page that takes no work."""
    assert revision
    yield Started.here()
    yield page_number


class IdleEngine(RayEngine):
    """Production's engine, slots and tasks, around nothing. A document's name says how many pages it has."""

    async def inspect(self, revision: Revision, distrusted: frozenset[int], *, alone: bool = False) -> Inspection:
        """All of them want OCR."""
        assert not distrusted
        await self.read_page(revision, 0, alone=alone)
        pages = int(revision.document_id.split("-")[0])
        return Inspection(page_count=pages, ocr_pages=tuple(range(1, pages + 1)), unreadable_pages=())

    async def read_page(self, revision: Revision, page_number: int, *, alone: bool = False) -> None:
        """A turn, and a task."""
        assert not alone
        async with self._scheduler.slot(Owner(revision.tenant, revision.priority, revision.document_id)):
            await Work(nothing.remote(revision, page_number), limit_s=LIMIT_S).result()

    async def cut(self, revision: Revision) -> ChunkPlan:
        """There is no text."""
        assert revision
        return ChunkPlan(batch_sizes=())


class Commands(monitoring.CommandListener):
    """Counts what the database is asked, by command."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """One more."""
        self.counts[event.command_name] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run."""

    pages_per_s: float
    jobs_per_s: float
    calls_per_page: float
    calls_per_job: float


class Bench:
    """A supervisor over stores of its own."""

    def __init__(self, blueprint: Blueprint, stores: Stores, commands: Commands) -> None:
        self._blueprint = blueprint
        self._stores = stores
        self._commands = commands

    def crowd(self, client: MongoClient[dict[str, Any]], count: int) -> None:
        """So many jobs of low priority: they wait as long as what is measured does."""
        self._submit(1, Priority.LOW)
        jobs = client[self._blueprint.settings.mongodb_database]["jobs"]
        record = jobs.find_one({"priority": Priority.LOW})
        assert record is not None
        fresh = [{"_id": str(uuid.uuid4()), "document_id": f"1-{uuid.uuid4()}"} for _ in range(count - 1)]
        for first in range(0, len(fresh), 1_000):
            jobs.insert_many([record | one for one in fresh[first : first + 1_000]])

    async def measure(self) -> Measured:
        """One long document alone, then many short ones, several at a time."""
        asyncio.get_running_loop().set_default_executor(store_threads(self._blueprint.settings))
        await self._work([self._submit(WARM_UP_PAGES)], places=1)
        pages_s, page_calls = await self._work([self._submit(PAGES)], places=1)
        jobs_s, job_calls = await self._work([self._submit(1) for _ in range(JOBS)], places=PLACES)
        return Measured(PAGES / pages_s, JOBS / jobs_s, page_calls / PAGES, job_calls / JOBS)

    async def _until(self, job_id: str, reached: Callable[[Job], object]) -> int:
        """How often the job was looked at until it was there."""
        looks = 1
        while not reached(await asyncio.to_thread(self._stores.jobs.job, TENANT, job_id)):
            looks += 1
            await asyncio.sleep(LOOK_S)
        return looks

    async def _work(self, job_ids: list[str], *, places: int) -> tuple[float, int]:
        """Seconds and calls until they have ended, from the first claim on."""
        settings = self._blueprint.settings.model_copy(update={"max_running_jobs": places})
        supervisor = Supervisor(replace(self._blueprint, settings=settings), self._stores)
        running = asyncio.create_task(supervisor.run())
        await self._until(job_ids[0], lambda job: job.attempts)
        before, started_at = self._commands.counts.total(), time.monotonic()
        looks = sum([await self._until(job_id, lambda job: job.state.terminal) for job_id in job_ids])
        seconds, calls = time.monotonic() - started_at, self._commands.counts.total() - before - looks
        supervisor.stop()
        await running
        return seconds, calls

    def _submit(self, pages: int, priority: Priority = Priority.NORMAL) -> str:
        name = f"{pages}-{uuid.uuid4()}"
        now = self._stores.jobs.now()
        document = Document(
            document_id=name, tenant=TENANT, sha256=name, filename="bench.pdf", size_bytes=1, created_at=now
        )
        self._stores.catalog.register(document)
        job = self._stores.jobs.insert(
            tenant=TENANT, document_id=name, revision=1, pipeline=PIPELINE, priority=priority
        )
        assert job is not None
        return job.job_id


@contextmanager
def _bench(nodes: int, depth: int) -> Iterator[Bench]:
    """A cluster of so many nodes, and so many jobs in the queue."""
    num_cpus = CPUS // nodes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": num_cpus, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=num_cpus)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        mongodb = EmbeddedMongoDB(Path(directory, "mongodb"))
        mongodb.start()
        commands = Commands()
        monitoring.register(commands)
        settings = Settings(
            data_dir=Path(directory),
            mongodb_uri=SecretStr(mongodb.uri),
            object_store_url=Path(directory, "objects").as_uri(),
            log_level="ERROR",
        )
        stores = open_stores(settings, QdrantClient(":memory:"), "fanfold-bench-384")
        stores.jobs.prepare()
        stores.catalog.prepare()
        stores.vectors.prepare(384)
        flags.start_flags()
        bench = Bench(Blueprint(settings=settings, pipeline=PIPELINE, dimension=384), stores, commands)
        with MongoClient[dict[str, Any]](mongodb.uri) as client:
            bench.crowd(client, depth)
        yield bench
        mongodb.stop()
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray ships it untyped


def main(arguments: Sequence[str]) -> None:
    """Print the table; `4:100` as an argument stands for four nodes and a hundred jobs that wait."""
    table = Table("nodes", "jobs that wait", "pages a second", "jobs a second", "calls a page", "calls a job")
    configure_logging("ERROR")
    for nodes, depth in track(pairs(arguments, RUNS), console=Console(stderr=True)):
        with _bench(nodes, depth) as bench, patch("cluster.supervisor.RayEngine", IdleEngine):
            measured = asyncio.run(bench.measure())
        table.add_row(
            str(nodes),
            f"{depth:,}",
            f"{measured.pages_per_s:.0f}",
            f"{measured.jobs_per_s:.1f}",
            f"{measured.calls_per_page:.2f}",
            f"{measured.calls_per_job:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
