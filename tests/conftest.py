"""Fixtures that several kinds of tests share. The stores are real: a MongoDB server, Qdrant's local mode, files."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from pymongo.database import Database
from qdrant_client import QdrantClient

from cluster.embedded import EmbeddedMongoDB
from cluster.ports import free_port
from ingest.model import PipelineSpec
from ingest.settings import Settings
from ingest.stores import Stores, mongo
from ingest.stores.catalog import Catalog
from ingest.stores.jobs import JobStore
from ingest.stores.objects import DirectoryStore
from ingest.stores.receipts import ReceiptStore
from ingest.stores.roster import Roster
from ingest.stores.vectors import VectorStore
from samples.build import build
from serve.client import Client
from tests.clusters import Cluster
from tests.s3_server import CREDENTIALS, S3Server

hypothesis_settings.register_profile("fanfold", deadline=None)  # a busy machine is no finding
hypothesis_settings.load_profile("fanfold")

DIMENSION = 384
PIPELINE = PipelineSpec(extract="e" * 16, chunk="c" * 16, embed="f" * 16)


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMongoDB]:
    """A MongoDB-protocol server in a process of its own, for the whole session."""
    server = EmbeddedMongoDB(tmp_path_factory.mktemp("mongodb") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database(mongodb: EmbeddedMongoDB) -> Iterator[Database[dict[str, Any]]]:
    """An empty database on that server."""
    database = mongo.connect(mongodb.uri, f"test-{uuid.uuid4().hex[:12]}")
    yield database
    database.client.drop_database(database.name)
    database.client.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with short waits, independent of the environment."""
    return Settings(data_dir=tmp_path / "home", lease_ttl_s=5, retry_delay_s=0.05, page_timeout_s=20)


@pytest.fixture
def stores(database: Database[dict[str, Any]], tmp_path: Path, settings: Settings) -> Stores:
    """Prepared, empty stores."""
    prepared = Stores(
        jobs=JobStore(database, lease_ttl_s=settings.lease_ttl_s, job_timeout_s=settings.job_timeout_s),
        catalog=Catalog(database),
        vectors=VectorStore(QdrantClient(":memory:"), "fanfold-test-384"),
        objects=DirectoryStore(tmp_path / "objects"),
        receipts=ReceiptStore(database),
        roster=Roster(database),
    )
    prepared.jobs.prepare()
    prepared.catalog.prepare()
    prepared.receipts.prepare()
    prepared.roster.prepare()
    prepared.vectors.prepare(DIMENSION)
    return prepared


@pytest.fixture(scope="session")
def sample_pdfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the sample PDFs."""
    directory = tmp_path_factory.mktemp("samples")
    build(directory)
    return directory


@pytest.fixture(scope="session")
def questions() -> list[dict[str, str | int]]:
    """Ten questions in other words than the samples' own, with the page that answers each."""
    path = Path(__file__).parents[1] / "samples" / "questions.json"
    loaded: list[dict[str, str | int]] = json.loads(path.read_text())
    return loaded


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server, and the credentials for it in the environment."""
    with pytest.MonkeyPatch.context() as environment, S3Server() as server:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def inbox(s3: S3Server) -> str:
    """The bucket from which the cluster fetches documents by reference."""
    return s3.bucket()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: S3Server, inbox: str) -> Iterator[Cluster]:
    """A running Fanfold with nothing in it, started once."""
    from cluster.service import running  # noqa: PLC0415  # takes seconds that tests without a cluster do not need

    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fanfold"),
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        lease_ttl_s=20,
        retry_delay_s=0.2,
        page_timeout_s=20,
        max_pages=1_000,
        max_upload_bytes=20 * 1024**2,
        keep_source=True,  # for the images of the web page
        source_urls=(f"s3://{inbox}",),
        s3_endpoint_url=s3.url,
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield Cluster(service.blueprint, client, service.keep_alive)
