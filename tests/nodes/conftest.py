"""What the tests on several nodes share."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from cluster.embedded import EmbeddedMongoDB
from tests.integration.qdrant_server import QdrantServer
from tests.nodes.site import Site
from tests.pdfs import repeated
from tests.s3_server import CREDENTIALS, S3Server

BRISK = {"FANFOLD_OCR_MODEL": "PP-OCRv6_tiny", "FANFOLD_LEASE_TTL_S": "6", "FANFOLD_RETRY_DELAY_S": "0.2"}
MakeSite = Callable[..., Site]
Scan = Callable[[int], Path]


@pytest.fixture(scope="module")
def make_site(mongodb: EmbeddedMongoDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Makes sites; they are gone when the module's tests are."""
    sites: list[Site] = []
    sockets = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path may have 107 bytes
    with pytest.MonkeyPatch.context() as environment, QdrantServer() as qdrant:
        for name, value in {"RAY_TMPDIR": sockets, "RAY_USAGE_STATS_ENABLED": "0", **CREDENTIALS}.items():
            environment.setenv(name, value)  # of every node

        def make(kind: type[Site] = Site, **settings: str) -> Site:
            sites.append(kind(tmp_path_factory.mktemp("site"), mongodb, qdrant, **BRISK | settings))
            return sites[-1]

        yield make
        for site in sites:
            site.stop()
    shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3 server, which sees every checkpoint that is made."""
    with S3Server() as server:
        yield server


@pytest.fixture
def scan(sample_pdfs: Path, tmp_path: Path) -> Scan:
    """Scans of so many pages, each a document of its own."""
    letters, numbers = (sample_pdfs / "letters.pdf").read_bytes(), count()

    def make(pages: int) -> Path:
        path = tmp_path / f"scan-{next(numbers)}.pdf"
        path.write_bytes(repeated(letters, pages) + f"\n% {path}\n".encode())
        return path

    return make
