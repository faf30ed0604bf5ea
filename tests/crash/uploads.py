"""Many clients that upload large files at a time, in processes of their own: `python -m tests.crash.uploads URL …`."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serve.client import Client, ServiceError
from tests.pdfs import pdf_of

THREADS = 10


def large_pdf(path: Path, size: int) -> Path:
    """A PDF of one page and of its own, and nothing behind it up to the size: a sparse file."""
    with path.open("wb") as file:
        file.write(pdf_of([f"This is {path.name}."]))
        file.truncate(size)
    return path


def upload(url: str, path: Path) -> str:
    """The job, after as many refusals as it takes."""
    with Client(url) as client:
        while True:
            try:
                return client.submit(path).job_id
            except ServiceError as refused:
                if not refused.retryable:
                    raise
            time.sleep(1)


def main(url: str, directory: str, number: str, size: str) -> None:
    """Upload one file a thread; prints the id of each one's job."""
    paths = [large_pdf(Path(directory) / f"{number}-{thread}.pdf", int(size)) for thread in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        for job_id in threads.map(lambda path: upload(url, path), paths):
            sys.stdout.write(f"{job_id}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
