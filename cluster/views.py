"""Looking at pages of kept PDFs: in worker processes and under a page's limits, because PDFs are not to be trusted."""

import asyncio
from typing import Any

from cluster import tasks
from cluster.composition import Blueprint
from cluster.work import Work
from ingest.stages.marks import Mark

MAX_VIEWS = 4  # at a time, a replica: what more people want to see waits its turn


class RayPageViewer:
    """See `serve.service.PageViewer`. The work takes no CPU of the ingestion's, so that nobody waits behind a book."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._turn = asyncio.Semaphore(MAX_VIEWS)

    async def image(self, document_id: str, page_number: int) -> bytes:
        """The page as a PNG."""
        image: bytes = await self._see(tasks.page_image, document_id, page_number)
        return image

    async def marks(self, document_id: str, page_number: int, text: str) -> list[Mark]:
        """Where on the page the text lies."""
        marks: list[Mark] = await self._see(tasks.page_marks, document_id, page_number, text)
        return marks

    async def _see(self, task: Any, *what: Any) -> Any:
        async with self._turn:
            values = task.remote(self._blueprint, *what)
            return await Work(values, limit_s=self._blueprint.settings.page_timeout_s).result()
