"""A bench for pipeline tests: one document on its way over real stores, driven and disturbed by hand."""

from typing import Any

from pymongo.database import Database

from ingest import ids
from ingest.model import Job, PipelineSpec
from ingest.pipeline import Pipeline
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from ingest.submission import Upload, submit
from tests.conftest import PIPELINE
from tests.integration.engines import Hook, InlineEngine, no_hook
from tests.integration.queue import claim

DatabaseOf = Database[dict[str, Any]]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


class Bench:
    """One document on its way, driven by hand."""

    def __init__(self, database: DatabaseOf, stores: Stores, settings: Settings, upload: Upload) -> None:
        self.database = database
        self.stores = stores
        self.settings = settings
        self.upload = upload
        self.engine = InlineEngine(stores, settings)

    def submit(self, pipeline: PipelineSpec = PIPELINE) -> Job:
        """Submit the document."""
        return submit(self.stores, self.upload, tenant="default", pipeline=pipeline).job

    def claim(self, holder: str = "holder") -> HeldJob:
        """Claim the one job there is."""
        return claim(self.stores.jobs, holder)

    async def run(self, held: HeldJob, before: Hook = no_hook, pipeline: PipelineSpec = PIPELINE) -> Job:
        """One attempt; the job's record afterwards."""
        self.engine = InlineEngine(self.stores, self.settings, before)
        await Pipeline(held, self.stores, self.engine, pipeline, self.settings).run()
        return self.stores.jobs.job("default", held.job.job_id)

    def assert_published_exactly(self, job: Job) -> None:
        """Chunk ids = point ids = the manifest of the published revision, and no other row of the document."""
        document = self.stores.catalog.document("default", job.document_id)
        manifest = set(ids.chunk_ids(job.document_id, job.revision, document.chunk_count))
        assert document.published_revision == job.revision
        assert manifest
        for revision in range(1, job.revision + 1):
            expected = manifest if revision == job.revision else set()
            assert self.stores.catalog.chunk_ids(job.document_id, revision) == expected
            assert self.stores.vectors.point_ids(job.document_id, revision) == expected

    def assert_no_rows(self, job: Job) -> None:
        """Neither store holds a row of the job's revision."""
        assert self.stores.catalog.chunk_ids(job.document_id, job.revision) == set()
        assert self.stores.vectors.point_ids(job.document_id, job.revision) == set()


def failing(call: str, number: int, error: BaseException, times: int = 1) -> Hook:
    """Raise `error` before the first `times` calls of this kind with this number."""
    left = [times]

    async def before(name: str, given: int) -> None:
        if (name, given) == (call, number) and left[0]:
            left[0] -= 1
            raise error

    return before
