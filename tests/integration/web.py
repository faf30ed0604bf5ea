"""The HTTP interface over real stores, without a cluster: what a cluster adds is not under test where this is used."""

import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from cluster.ports import free_port
from ingest.apikeys import ApiKey, digest
from ingest.model import Job, JobState, Revision
from ingest.references import References
from ingest.settings import Settings
from ingest.stages.marks import Mark
from ingest.stores import Stores
from serve.admission import Admission
from serve.asgi import create_app
from serve.service import Service
from tests.builders import KEEP_NOTHING, axis_vectors, make_visible, pipeline_named, some_chunks
from tests.crash.processes import until
from tests.integration.queue import claim
from tests.pdfs import pdf_of

PIPELINE = pipeline_named("web")
STOP_TIMEOUT_S = 20
KEYS = {"acme": "fanfold_acme", "globex": "fanfold_globex"}
API_KEYS = tuple(ApiKey(tenant, digest(key)) for tenant, key in KEYS.items())


class StubViewer:
    """Says which page it was asked for."""

    async def image(self, document_id: str, page_number: int) -> bytes:
        """Not an image."""
        return f"{document_id} {page_number}".encode()

    async def marks(self, document_id: str, page_number: int, text: str) -> list[Mark]:
        """One box."""
        return [Mark(0.1, 0.2, 0.3, 0.4)]


async def embed(_query: str) -> list[float]:
    """Every query means the same."""
    return [float(value) for value in axis_vectors(1)[0]]


@dataclass
class Web:
    """A service, and clients of it."""

    stores: Stores
    settings: Settings
    probes: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    embed_query: Callable[[str], Awaitable[list[float]]] = embed
    reported: list[Job] = field(default_factory=list)  # jobs that ended without a supervisor
    draining: bool = False

    @cached_property
    def service(self) -> Service:
        """The service under test."""
        return Service(
            stores=self.stores,
            pipeline=PIPELINE,
            settings=self.settings,
            admission=Admission(self.settings, self.stores.jobs.count_waiting, lambda: self.draining),
            references=References(self.settings.source_urls, s3_endpoint_url=self.settings.s3_endpoint_url),
            viewer=StubViewer(),
            embed_query=self.embed_query,
            hint_cancel=lambda _job_id: None,
            report_end=self.reported.append,
            probes=self.probes,
        )

    @cached_property
    def app(self) -> Any:
        """The application under test."""
        return create_app(self.service)

    def client(self, key: str | None = None, **headers: str) -> TestClient:
        """A client that sends this key and these headers."""
        given = headers if key is None else headers | {"Authorization": f"Bearer {key}"}
        return TestClient(self.app, base_url="http://127.0.0.1:8000", headers=given, raise_server_exceptions=False)

    def ingest(self, text: str, *, tenant: str = "default", **submitted: Any) -> Job:
        """Submit a PDF with this text, and publish it with two chunks that say so."""
        client = self.client(KEYS.get(tenant))
        answer = client.post("/v1/documents", files={"file": (f"{text}.pdf", pdf_of([text]))}, data=submitted)
        assert answer.status_code == 202, answer.text
        held = claim(self.stores.jobs, "supervisor")
        job = held.job
        revision = Revision(tenant, job.document_id, job.revision, PIPELINE)
        self.stores.catalog.upsert_chunks(revision, some_chunks(2, words=text))
        self.stores.vectors.upsert(revision, some_chunks(2, words=text), axis_vectors(2))
        held.decide_publish()
        assert make_visible(self.stores, job.document_id, job.revision, page_count=2, chunk_count=2)
        held.settle(JobState.SUCCEEDED)
        held.close(keeping=KEEP_NOTHING, sweep_at=None)
        return held.job


@contextmanager
def serving(web: Web) -> Iterator[str]:
    """The address at which the service answers for the length of the block, from a thread of this process."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(web.app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(STOP_TIMEOUT_S)
