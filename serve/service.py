"""What the routes work with; the composition root fills it in."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from ingest.model import Job, PipelineSpec
from ingest.references import References
from ingest.settings import Settings
from ingest.stages.marks import Mark
from ingest.stores import Stores
from serve.admission import Admission


class PageViewer(Protocol):
    """Looks at a kept PDF, in a worker process: no replica parses one. Raises `SourceNotKept` where it is not kept."""

    async def image(self, document_id: str, page_number: int) -> bytes:
        """The page as a PNG."""

    async def marks(self, document_id: str, page_number: int, text: str) -> list[Mark]:
        """Where on the page the text lies."""


@dataclass(frozen=True, slots=True)
class Service:
    """One replica's stores, settings and ways to the rest of the cluster."""

    stores: Stores
    pipeline: PipelineSpec
    settings: Settings
    admission: Admission
    references: References
    viewer: PageViewer
    embed_query: Callable[[str], Awaitable[list[float]]]
    hint_cancel: Callable[[str], None]  # tells supervisors that a job shall stop; nothing depends on it but speed
    report_end: Callable[[Job], None]  # counts a job that ended without a supervisor
    probes: Mapping[str, Callable[[], None]]  # each raises `StoreError` when its part does not answer


def service_of(request: Request) -> Service:
    """The service that the app was made with."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
