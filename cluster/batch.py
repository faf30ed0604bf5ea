"""Ingest many files: submit with a bounded number in flight, follow each to its end, report every outcome.

`fanfold ingest` and `ray job submit -- python -m cluster.batch PATH...` are this code. Running it again resumes:
what is published or under way is found, not repeated.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ingest.metadata import Metadata
from ingest.model import JobState
from ingest.settings import Settings
from ingest.turns import Priority
from serve.client import Client, ServiceError
from serve.schemas import JobView, SubmitView

View = TypeVar("View")
IN_FLIGHT = 16
WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    path: Path
    job: JobView | None  # None when it was refused at submit
    error: str | None

    @property
    def failed(self) -> bool:
        """Whether the file is not searchable, and not on its way."""
        return self.error is not None


OnChange = Callable[[Path, JobView], None]


def connect(settings: Settings) -> Client:
    """The client of this machine's service, with the key that the settings name."""
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return Client(settings.http_url, api_key=key)


def find_pdfs(paths: Sequence[Path]) -> Iterator[Path]:
    """The files named, and every `*.pdf` below the directories named, in order. Raises `FileNotFoundError`."""
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.suffix.lower() == ".pdf" and found.is_file())
        elif path.is_file():
            yield path
        else:
            raise FileNotFoundError(f"There is no file or directory {path}.")


def ingest(  # noqa: PLR0913  # what `fanfold ingest` can be told
    client: Client,
    paths: Iterator[Path],
    *,
    follow: bool,
    metadata: Metadata | None = None,
    priority: Priority = Priority.NORMAL,
    on_change: OnChange = lambda _path, _job: None,
) -> Iterator[Outcome]:
    """Submit every file and yield each outcome as it is known; with `follow`, that is when its job has ended."""
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ingest") as pool:
        running: set[Future[Outcome]] = set()
        for path in paths:
            if len(running) >= IN_FLIGHT:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            submit = partial(client.submit, path, metadata=metadata, priority=priority)
            running.add(pool.submit(_ingest_one, client, submit, path, follow, on_change))
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _ingest_one(
    client: Client, submit: Callable[[], SubmitView], path: Path, follow: bool, on_change: OnChange
) -> Outcome:
    try:
        job = client.job(submit().job_id)
        on_change(path, job)
        while follow and not job.state.terminal:
            job = client.job(job.job_id, wait=WAIT_S)
            on_change(path, job)
    except (ServiceError, OSError) as error:
        return Outcome(path, None, str(error))
    failed = job.state in {JobState.FAILED, JobState.CANCELLED}
    reason = job.error.message if job.error is not None else f"The job ended {job.state}."
    return Outcome(path, job, reason if failed else None)


def each(names: Sequence[str], call: Callable[[str], View]) -> Iterator[tuple[str, View | ServiceError]]:
    """What the service says to each call, several at a time, in the order of the names."""

    def answer(name: str) -> View | ServiceError:
        try:
            return call(name)
        except ServiceError as error:
            return error

    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="each") as pool:
        yield from zip(names, pool.map(answer, names), strict=True)


def main(arguments: Sequence[str]) -> int:
    """Ingest the paths named; one line a file on standard output; 1 if any failed."""
    failed = False
    with connect(Settings()) as client:
        for outcome in ingest(client, find_pdfs([Path(argument) for argument in arguments]), follow=True):
            state = "refused" if outcome.job is None else outcome.job.state
            sys.stdout.write(f"{state}\t{outcome.path}\t{outcome.error or ''}\n")
            sys.stdout.flush()
            failed = failed or outcome.failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
