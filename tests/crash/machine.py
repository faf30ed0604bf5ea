"""A `fanfold up` of its own, which can lose its power."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from cluster.instance import addresses_of_instance
from cluster.maintenance import maintenance_stores
from cluster.ports import free_port
from ingest.settings import Settings
from ingest.stores import Stores, mongo
from serve.client import Client, ServiceError
from serve.schemas import JobView
from tests.crash.processes import until

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
PATIENCE_S = 240


class Machine:
    """Embedded stores, unless the settings name others."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.settings = {
            "FANFOLD_DATA_DIR": str(home),
            "FANFOLD_HTTP_PORT": str(port),
            "FANFOLD_DASHBOARD_PORT": str(free_port()),
            "FANFOLD_RAY_ADDRESS": "local",
            "FANFOLD_LEASE_TTL_S": "12",  # a slow machine is busy for seconds while models load
        } | settings
        self.service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.lose_power()

    def start(self) -> None:
        """Start, and wait until it is ready."""
        self.service = subprocess.Popen([FANFOLD, "up"], env=self._environment, stdout=subprocess.DEVNULL)
        until(lambda: self.down() == [], PATIENCE_S)

    def lose_power(self) -> None:
        """SIGKILL every process at once: `up`, Ray, its workers and actors, the embedded stores."""
        if self.service is None or self.service.poll() is not None:
            return
        family = [psutil.Process(self.service.pid), *psutil.Process(self.service.pid).children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=30)
        self.service.wait()

    def stop(self) -> None:
        """Stop as a user would; nothing happens when it does not run."""
        if self.service is not None and self.service.poll() is None:
            self.fanfold("down").check_returncode()
            self.service.wait(60)

    def fanfold(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run([FANFOLD, *arguments], env=self._environment, capture_output=True, check=False)

    def down(self) -> list[str] | None:
        """What `/readyz` says is down; None when it says nothing."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=30)
        except httpx.TransportError:
            return None
        known = answer.headers.get("content-type") == "application/json"
        return list(answer.json()["down"]) if known else None

    def finish(self, client: Client, job_id: str) -> JobView:
        """The job at its end; a service that is still starting is asked again."""
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            try:
                job = client.job(job_id, wait=5)
            except ServiceError:
                time.sleep(0.5)
            else:
                if job.state.terminal:
                    return job
        raise AssertionError(f"job {job_id} has not ended in time")

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        """Its stores, once every job is collected and it has stopped; this process must have an S3's credentials."""
        until(self._is_collected, PATIENCE_S)
        self.stop()
        chosen = {name.removeprefix("FANFOLD_").lower(): value for name, value in self.settings.items()}
        with maintenance_stores(Settings.model_validate(chosen)) as stores:
            yield stores

    def _is_collected(self) -> bool:
        uri = addresses_of_instance(Path(self.settings["FANFOLD_DATA_DIR"])).mongodb_uri
        assert uri is not None
        database = mongo.connect(uri, Settings().mongodb_database)
        with contextlib.closing(database.client):
            return database["jobs"].find_one({"open": True}) is None

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | self.settings
