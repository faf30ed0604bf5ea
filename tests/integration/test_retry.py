"""A retry is a new job that begins where the old one ended; where it cannot help, it is refused with the reason."""

from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids
from ingest.deletion import delete
from ingest.errors import Conflict, CorruptPdf, NotEnded, TooManyFailedPages, WorkerCrashed
from ingest.model import JobState
from ingest.submission import retry
from tests.builders import TENANT
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, failing

DatabaseOf = Database[dict[str, Any]]


async def test_a_retry_of_a_failed_job_does_nothing_twice(bench: Bench) -> None:
    """The new job has the next revision; no page that is committed is read again."""
    bench.submit()
    failed = await bench.run(bench.claim(), failing("embed", 1, TooManyFailedPages("Not today.")))
    assert failed.state is JobState.FAILED
    submission = retry(bench.stores, failed, pipeline=PIPELINE)
    assert (submission.created, submission.job.revision) == (True, failed.revision + 1)
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.SUCCEEDED
    assert bench.engine.calls["read_page"] == 0
    bench.assert_published_exactly(ended)


async def test_a_retry_of_a_partial_success_reads_the_failed_pages_only(bench: Bench) -> None:
    """The document stays searchable without them, until the version that has them replaces it."""
    bench.submit()
    partial = await bench.run(bench.claim(), failing("read_page", 4, WorkerCrashed("It died."), times=2))
    assert partial.state is JobState.PARTIALLY_SUCCEEDED
    retry(bench.stores, partial, pipeline=PIPELINE)
    assert bench.stores.catalog.document(TENANT, partial.document_id).published_revision == partial.revision
    ended = await bench.run(bench.claim())
    assert (ended.state, ended.failed_pages) == (JobState.SUCCEEDED, [])
    assert bench.engine.calls["read_page"] == 1
    bench.assert_published_exactly(ended)


async def test_a_retry_of_a_cancelled_job_ingests_the_document(bench: Bench) -> None:
    """Its checkpoints are gone, its source is not."""
    job = bench.submit()
    bench.stores.jobs.request_cancel(job.job_id)
    cancelled = await bench.run(bench.claim())
    retry(bench.stores, cancelled, pipeline=PIPELINE)
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.SUCCEEDED
    bench.assert_published_exactly(ended)


async def test_two_retries_are_one(bench: Bench) -> None:
    """The second is told of the job that the first made."""
    job = bench.submit()
    bench.stores.jobs.request_cancel(job.job_id)
    cancelled = await bench.run(bench.claim())
    first = retry(bench.stores, cancelled, pipeline=PIPELINE)
    second = retry(bench.stores, cancelled, pipeline=PIPELINE)
    assert (second.created, second.job.job_id) == (False, first.job.job_id)


async def test_a_job_at_work_cannot_be_retried(bench: Bench) -> None:
    """Waiting, running or being cancelled."""
    job = bench.submit()
    with pytest.raises(NotEnded, match="queued"):
        retry(bench.stores, job, pipeline=PIPELINE)
    with pytest.raises(NotEnded, match="cancelling"):
        retry(bench.stores, bench.stores.jobs.request_cancel(job.job_id), pipeline=PIPELINE)


async def test_a_retry_that_cannot_help_is_refused(bench: Bench) -> None:
    """Published whole; wrong with the bytes themselves; the bytes gone; the document deleted."""
    bench.submit()
    broken = await bench.run(bench.claim(), failing("inspect", 0, CorruptPdf("It is torn.")))
    with pytest.raises(Conflict, match="It is torn"):
        retry(bench.stores, broken, pipeline=PIPELINE)
    bench.submit()
    failed = await bench.run(bench.claim(), failing("embed", 0, TooManyFailedPages("Not today.")))
    bench.stores.objects.delete(ids.source_key(failed.document_id))
    with pytest.raises(Conflict, match="Send it again"):
        retry(bench.stores, failed, pipeline=PIPELINE)
    bench.submit()
    whole = await bench.run(bench.claim())
    for job in (broken, failed, whole):
        with pytest.raises(Conflict, match="nothing to retry"):
            retry(bench.stores, job, pipeline=PIPELINE)
    delete(bench.stores, TENANT, whole.document_id)
    with pytest.raises(Conflict, match="Send it again"):
        retry(bench.stores, whole, pipeline=PIPELINE)
