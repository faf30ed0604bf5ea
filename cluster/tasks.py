"""Ray tasks and actors around `ingest.activities`. No logic: a limit, a line in the log, a process.

Tasks never retry by themselves (`max_retries=0`): retries are Fanfold's, counted in MongoDB. A task is a generator, see
`cluster.work.Work`. Its name is what it does; what it does it to, its log says (docs/adr/0019).
"""

import faulthandler
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
import structlog

from cluster.composition import Blueprint, activities
from cluster.work import Started
from ingest.errors import OutOfMemory
from ingest.memory import mapped_bytes
from ingest.model import ChunkPlan, Inspection, Revision, Stage
from ingest.settings import INSPECT_START_FACTOR, Settings
from ingest.stages.marks import Mark
from ingest.telemetry import get_logger

OCR_ENV = {"env_vars": {"OMP_NUM_THREADS": "1", "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"}}
SPREAD: Final = "SPREAD"  # over the nodes in turn; by default what takes no CPU stays on the supervisor's
RECYCLE_AFTER_PAGES = 500  # what native code leaks goes with its process; loading the models again costs seconds
log = get_logger()


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


def say(event: str, **what: str | int) -> None:
    """A line in the log of this process, which Ray's dashboard shows beside the task; `activities` sets it up.

    What it tells of is in every other line that the process writes, until it says what it does next.
    """
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**what)
    log.info(event)


def say_at(event: str, revision: Revision, stage: Stage, **what: int) -> None:
    """The same of work on a revision: whose it is, under the names that the supervisor's lines have."""
    say(
        event,
        job_id=revision.job_id,
        document_id=revision.document_id,
        attempt=revision.attempt,
        revision=revision.number,
        epoch=revision.epoch,
        stage=stage,
        **what,
    )


@contextmanager
def memory_limit(extra_bytes: int) -> Iterator[None]:
    """Within the block this process may map so much more memory than it has now. Raises `OutOfMemory` beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + extra_bytes, hard))
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("It needs more memory than FANFOLD_PAGE_MEMORY_BYTES allows.") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def limits(settings: Settings, *, start_factor: float = 1.0) -> Iterator[Callable[[float], None]]:
    """A page's limits of time (the first time `start_factor` times as long) and of memory."""
    with watchdog(start_factor * settings.page_timeout_s) as wind, memory_limit(settings.page_memory_bytes):
        yield wind


@ray.remote(num_cpus=1, max_retries=0, max_calls=RECYCLE_AFTER_PAGES, runtime_env=OCR_ENV, scheduling_strategy=SPREAD)
def on_cpu(step: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """Run a step that takes a CPU: `inspect` or `read_page`.

    They are one function to Ray, because it keeps an order only among calls of the same function. Of two functions that
    wait for a CPU it may run one for as long as there is any of it: a book's pages would keep every other document's
    inspection waiting until the book is read (fair dispatch begins where more wait than the node has CPUs, ray #44733).
    """
    yield from step(*arguments)


def inspect(
    blueprint: Blueprint, revision: Revision, distrusted: frozenset[int]
) -> Iterator[Started | int | Inspection]:
    """Route every page, and read the good text layers: the number of each page before it is read, then the outcome."""
    with limits(blueprint.settings, start_factor=INSPECT_START_FACTOR) as wind:
        yield Started.here()
        work = activities(blueprint)
        say_at("inspects", revision, Stage.EXTRACT)
        for step in work.inspect(revision, distrusted):
            wind(blueprint.settings.page_timeout_s)
            yield step


def read_page(blueprint: Blueprint, revision: Revision, page_number: int) -> Iterator[Started]:
    """OCR one page."""
    work = activities(blueprint)
    say_at("reads a page", revision, Stage.EXTRACT, page_number=page_number)
    work.load_ocr()
    with limits(blueprint.settings):
        yield Started.here()
        work.read_page(revision, page_number)


@ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=SPREAD)
def cut(blueprint: Blueprint, revision: Revision) -> Iterator[Started | ChunkPlan]:
    """Cut the text into chunks."""
    with watchdog(blueprint.settings.stage_timeout_s):
        yield Started.here()
        work = activities(blueprint)
        say_at("cuts", revision, Stage.EMBED)
        yield work.cut(revision)


@ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=SPREAD)
def store(blueprint: Blueprint, revision: Revision, batch: int) -> Iterator[Started]:
    """Upsert one batch into both stores."""
    with watchdog(blueprint.settings.stage_timeout_s):
        yield Started.here()
        work = activities(blueprint)
        say_at("stores a batch", revision, Stage.STORE, batch=batch)
        work.store(revision, batch)


@ray.remote(num_cpus=0, max_retries=0, max_calls=RECYCLE_AFTER_PAGES, runtime_env=OCR_ENV)
def page_image(blueprint: Blueprint, document_id: str, page_number: int) -> Iterator[Started | bytes]:
    """A page of a kept PDF as a PNG."""
    with limits(blueprint.settings):
        yield Started.here()
        work = activities(blueprint)
        say("shows a page", document_id=document_id, page_number=page_number)
        yield work.page_image(document_id, page_number)


@ray.remote(num_cpus=0, max_retries=0, max_calls=RECYCLE_AFTER_PAGES, runtime_env=OCR_ENV)
def page_marks(blueprint: Blueprint, document_id: str, page_number: int, text: str) -> Iterator[Started | list[Mark]]:
    """Where on a page of a kept PDF the text lies."""
    with limits(blueprint.settings):
        yield Started.here()
        work = activities(blueprint)
        say("marks a page", document_id=document_id, page_number=page_number)
        is_scan = work.is_scan(document_id, page_number)
    if is_scan:
        activities(blueprint).load_ocr()  # takes seconds, and more memory than a page may
    with limits(blueprint.settings):
        yield activities(blueprint).page_marks(document_id, page_number, text)
