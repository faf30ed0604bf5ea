"""One running Fanfold for all end-to-end tests: Ray, embedded stores, supervisor, HTTP; in this process's cluster."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.composition import Blueprint, connect
from cluster.ports import free_port
from cluster.service import running
from ingest.model import Job
from ingest.settings import Settings
from ingest.stores import Stores
from samples.build import build
from serve.client import Client
from serve.schemas import JobView

JOB_TIMEOUT_S = 180


@dataclass(frozen=True)
class Cluster:
    """The service under test, its client, and a look behind it."""

    blueprint: Blueprint
    client: Client

    @property
    def settings(self) -> Settings:
        """What it runs with."""
        return self.blueprint.settings

    @property
    def stores(self) -> Stores:
        """Its stores, as its own processes see them."""
        return connect(self.blueprint)

    def submit(self, path: Path) -> Job:
        """Submit a file; its new job's record."""
        submitted = self.client.submit(path)
        return self.stores.jobs.job("default", submitted.job_id)

    def ingest(self, path: Path) -> JobView:
        """Submit a file and wait for its job's end."""
        return self.finish(self.client.submit(path).job_id)

    def finish(self, job_id: str) -> JobView:
        """Wait for the job's end."""
        for _ in range(JOB_TIMEOUT_S // 10):
            job = self.client.job(job_id, wait=10)
            if job.state.terminal:
                return job
        raise AssertionError(f"job {job_id} has not ended after {JOB_TIMEOUT_S} s: {job}")


@pytest.fixture(scope="session")
def sample_pdfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the sample PDFs."""
    directory = tmp_path_factory.mktemp("samples")
    build(directory)
    return directory


@pytest.fixture(scope="session")
def questions() -> list[dict[str, str | int]]:
    """Ten questions in other words than the samples' own, with the page that answers each."""
    path = Path(__file__).parents[2] / "samples" / "questions.json"
    loaded: list[dict[str, str | int]] = json.loads(path.read_text())
    return loaded


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running Fanfold with nothing in it, started once."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fanfold"),
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        lease_ttl_s=6,
        retry_delay_s=0.2,
        max_pages=1_000,
        max_upload_bytes=20 * 1024**2,
    )
    with running(settings) as service, Client(settings.http_url) as client:
        yield Cluster(service.blueprint, client)
