"""What the crash tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from cluster.ports import free_port
from cluster.service import running
from ingest.settings import Settings
from serve.client import Client
from tests.clusters import Cluster
from tests.crash.faulty import FaultyCluster, running_faulty
from tests.crash.outcomes import KEPT, Outcomes, sources
from tests.crash.schedule import REPORT, report, schedules
from tests.crash.ways import texts_undisturbed
from tests.pdfs import pdf_of
from tests.s3_server import CREDENTIALS, S3Server

Copy = Callable[[int], Path]
PARAGRAPH = "On the ebb of day {} the pilot climbs aboard from the cutter before the bar, and takes the wheel. "
BOOK_PAGES, PAGE_LINES = 120, 25


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    """A cluster that follows a plan of faults, started once."""
    with running_faulty(tmp_path_factory.mktemp("faulty")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(faulty: FaultyCluster, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The texts of the matrix's document's chunks when nothing happens to it."""
    return texts_undisturbed(faulty, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    """What became of each schedule; written to the report at the end, if all of them ran."""
    found = Outcomes(KEPT / f"{sources()}.json")
    yield found
    if all(found.last(schedule.name) for schedule in schedules()):
        REPORT.write_text(report(found), encoding="utf-8")


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with small batches, so that a job can be met in the middle of embedding and of storing."""
    assert not ray.is_initialized(), "one cluster at a time: make crash"
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("brisk"),
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        lease_ttl_s=6,
        retry_delay_s=0.2,
        page_timeout_s=20,
        outage_timeout_s=85,
        stall_timeout_s=90,
        embedding_batch_chunks=16,
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield Cluster(service.blueprint, client, service.keep_alive)


@pytest.fixture
def letters(sample_pdfs: Path, tmp_path: Path) -> Copy:
    """Any number of copies of the scanned sample, each a document of its own with the same text."""
    return _copies(tmp_path / "letters", (sample_pdfs / "letters.pdf").read_bytes())


@pytest.fixture
def book(tmp_path: Path) -> Copy:
    """Any number of copies of a text that takes seconds to embed, and to store."""
    pages = [" ".join(PARAGRAPH.format(f"{page}.{line}") for line in range(PAGE_LINES)) for page in range(BOOK_PAGES)]
    return _copies(tmp_path / "book", pdf_of(pages))


@pytest.fixture
def note(tmp_path: Path) -> Copy:
    """Any number of copies of a page that is one chunk."""
    return _copies(tmp_path / "note", pdf_of([PARAGRAPH.format(1)]))


@pytest.fixture
def mortal_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server of the test's own, which may be stopped; and this process's credentials for it."""
    with S3Server() as server:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        yield server


def _copies(beside: Path, pdf: bytes) -> Copy:
    def copy(number: int) -> Path:
        path = beside.with_name(f"{beside.name}-{number}.pdf")
        path.write_bytes(pdf + f"\n% {path}\n".encode())
        return path

    return copy
