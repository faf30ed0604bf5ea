"""A running Fanfold, as the tests see it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.state import list_tasks
from ray.util.state.common import TaskState

from cluster.composition import Blueprint, connect
from ingest.model import Job
from ingest.settings import Settings
from ingest.stores import Stores
from serve.client import Client
from serve.schemas import JobView

JOB_TIMEOUT_S = 180


@dataclass(frozen=True)
class Cluster:
    """The service under test, its client, and a look behind it."""

    blueprint: Blueprint
    client: Client
    keep_alive: Callable[[], None] = lambda: None  # what `fanfold up` does every second

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

    def finish(self, job_id: str, *, timeout_s: float = JOB_TIMEOUT_S) -> JobView:
        """Wait for the job's end."""
        give_up_at = time.monotonic() + timeout_s
        while not (job := self.client.job(job_id, wait=10)).state.terminal:
            assert time.monotonic() < give_up_at, f"job {job_id} has not ended after {timeout_s:g} s: {job}"
        return job


def ray_address() -> str:
    """The Ray cluster that this process has joined: Ray's state API would look for any."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def tasks_called(*names: str) -> list[TaskState]:
    """The tasks of these names that Ray remembers."""
    return [task for name in names for task in _tasks(name)]


def _tasks(name: str) -> list[TaskState]:
    filters: list[tuple[str, str, str | bool | int | float]] = [("name", "=", name)]
    return list_tasks(address=ray_address(), filters=filters, limit=10_000, raise_on_missing_output=False)
