"""Ray tasks and actors around `ingest.activities`. No logic: a limit, a name, a process.

Tasks never retry by themselves (`max_retries=0`): retries are Fanfold's, counted in MongoDB.
"""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from cluster.composition import Blueprint, activities
from ingest.model import ChunkPlan, Inspection, Revision
from ingest.settings import INSPECT_START_FACTOR

OCR_ENV = {"env_vars": {"OMP_NUM_THREADS": "1", "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}}


@contextmanager
def watchdog(seconds: float) -> Iterator[Callable[[float], None]]:
    """End this process when the block takes longer; yields a function that winds it up again.

    The timer is a C thread that needs no GIL, so native code that never returns does not stop it. The process dies
    with a traceback of every thread on standard error.
    """

    def wind(seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)

    wind(seconds)
    try:
        yield wind
    finally:
        faulthandler.cancel_dump_traceback_later()


@ray.remote(num_cpus=1, max_retries=0)
def inspect(blueprint: Blueprint, revision: Revision) -> Inspection:
    """Route every page, and read the good text layers."""
    limit_s = blueprint.settings.page_timeout_s
    with watchdog(INSPECT_START_FACTOR * limit_s) as wind:
        return activities(blueprint).inspect(revision, on_page=lambda _page_number: wind(limit_s))


@ray.remote(num_cpus=1, max_retries=0, runtime_env=OCR_ENV)
def read_page(blueprint: Blueprint, revision: Revision, page_number: int) -> None:
    """OCR one page."""
    activities(blueprint).load_ocr()
    with watchdog(blueprint.settings.page_timeout_s):
        activities(blueprint).read_page(revision, page_number)


@ray.remote(num_cpus=0, max_retries=0)
def cut(blueprint: Blueprint, revision: Revision) -> ChunkPlan:
    """Cut the text into chunks."""
    return activities(blueprint).cut(revision)


@ray.remote(num_cpus=0, max_retries=0)
def store(blueprint: Blueprint, revision: Revision, batch: int) -> None:
    """Upsert one batch into both stores."""
    activities(blueprint).store(revision, batch)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)
class EmbedderActor:
    """Holds the embedding model; embeds one batch at a time."""

    def __init__(self, blueprint: Blueprint, threads: int) -> None:
        self._blueprint = blueprint
        self._threads = threads
        activities(blueprint).load_embedder(threads=threads)

    def embed(self, revision: Revision, batch: int) -> None:
        """Embed one batch of chunks."""
        activities(self._blueprint).embed(revision, batch, threads=self._threads)
