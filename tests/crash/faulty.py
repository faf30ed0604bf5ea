"""A cluster whose processes follow a plan of faults, and a client that is patient with it."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import ray
from pydantic import SecretStr

from cluster.composition import ARMED_CLASSES
from cluster.engine import RayEngine
from cluster.ports import free_port
from cluster.service import running
from ingest.faults import points_of
from ingest.settings import Settings
from serve.client import Client, ServiceError
from serve.schemas import JobView
from tests.checks import History, assert_invariants
from tests.clusters import Cluster
from tests.receiver import Receiver

PATIENCE_S = 120
PERIOD_S = 10.0  # a multiple of those after which a supervisor looks for abandoned jobs, sweeps, reports, and tells
MAX_ATTEMPTS = 6  # more than a plan has faults, for a busy machine loses leases: no job that can be read may fail
NOT_HERE = {  # no document of these tests gets there
    "vectors.count": "is no part of a document's way: tests/integration/test_qdrant_wire.py",
    "roster.command": "is an operator's, or at a start: tests/integration/test_drain.py",
    "activities.classify": "a text layer that ends its process is left to OCR: tests/crash/test_bad_pages.py",
    "activities.page_image": "is a reader's look at a page, and writes nothing: tests/integration/test_page_marks.py",
    "activities.is_scan": "the same",
    "activities.page_marks": "the same",
    "references.fetch": "needs an object to refer to: tests/integration/test_submitting.py",
}
ALL_POINTS = {point.name for owner in (*ARMED_CLASSES, RayEngine) for _, point in points_of(owner)}
POINTS = sorted(ALL_POINTS - NOT_HERE.keys())
Answer = TypeVar("Answer")
Entry = dict[str, Any]  # of a plan, see `ingest.faults`


@dataclass(frozen=True)
class FaultyCluster(Cluster):
    """The processes of this cluster follow a plan; the test's own process does not."""

    receiver: Receiver = field(kw_only=True)
    history: History = field(default_factory=History)

    def follow(self, plan: Sequence[Entry]) -> None:
        """Make this the plan, of which nothing has fired yet."""
        self._plan.unlink(missing_ok=True)
        for mark in self._fired.glob("*"):
            mark.unlink()
        self.add(plan)

    def add(self, plan: Sequence[Entry]) -> None:
        """From now on these faults happen too."""
        known = json.loads(self._plan.read_text(encoding="utf-8")) if self._plan.exists() else []
        beside = self._plan.with_suffix(".new")
        beside.write_text(json.dumps([*known, *plan]), encoding="utf-8")
        beside.rename(self._plan)

    def has_met(self, entry: Entry) -> bool:
        """Whether some process has met this fault."""
        return (self._fired / f"{entry['point']}={entry['fault']}").exists()

    def meets(self, entry: Entry) -> bool:
        """The same, within some seconds: what a supervisor does now and then may not have come up yet."""
        give_up_at = time.monotonic() + PERIOD_S
        while not self.has_met(entry) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        return self.has_met(entry)

    def ask(self, call: Callable[[], Answer]) -> Answer:
        """What a patient client gets: a service that does not answer is asked again, a refusal is an answer.

        Raises the `ServiceError` of a refusal.
        """
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except ServiceError as error:
                if error.problem is not None and error.problem.status < httpx.codes.INTERNAL_SERVER_ERROR:
                    raise
                if time.monotonic() >= give_up_at:
                    raise AssertionError("the service did not come back") from error
                time.sleep(0.1)

    def unless_too_late(self, call: Callable[[], Answer]) -> Answer | None:
        """The same; None where the service says that it is too late for that, or nothing is there to do it to."""
        try:
            return self.ask(call)
        except ServiceError as refusal:
            if refusal.problem is None or refusal.problem.status not in {httpx.codes.CONFLICT, httpx.codes.NOT_FOUND}:
                raise
            return None

    def ended(self, job_id: str, meanwhile: Callable[[], object] = lambda: None) -> JobView:
        """The job at its end; `meanwhile` something may happen again and again."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not (job := self.ask(lambda: self.client.job(job_id, wait=0.5))).state.terminal:
            assert time.monotonic() < give_up_at, f"the job has not ended: {job}"
            meanwhile()
        return job

    def assert_recovered(self) -> None:
        """Every job has ended, and everything is as it must be."""
        assert_invariants(self.stores, self.history, max_attempts=MAX_ATTEMPTS)

    @property
    def _plan(self) -> Path:
        assert self.settings.faults is not None
        return self.settings.faults

    @property
    def _fired(self) -> Path:
        return self._plan.with_name(self._plan.name + ".fired")


@contextmanager
def running_faulty(home: Path) -> Iterator[FaultyCluster]:
    """A running Fanfold under a plan that is empty at first."""
    assert not ray.is_initialized(), "one cluster at a time: make crash"
    receiver = Receiver()
    settings = Settings(
        data_dir=home,
        ray_address="local",
        http_port=free_port(),
        dashboard_port=free_port(),
        lease_ttl_s=4,
        retry_delay_s=0.1,
        poll_interval_s=0.2,
        max_attempts=MAX_ATTEMPTS,
        embedding_batch_chunks=1,
        faults=home / "plan.json",
        webhook_url=SecretStr(receiver.url),
    )
    try:
        with running(settings) as service, Client(settings.http_url) as client:
            yield FaultyCluster(service.blueprint, client, receiver=receiver)
    finally:
        receiver.server.shutdown()
