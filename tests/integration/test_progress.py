"""Progress is written at the pace of the heartbeat, however fast the work is."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from ingest.model import Job, JobState, Lease
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.jobs import JobStore
from ingest.tenure import HEARTBEAT_S, RENEWALS_PER_TTL
from tests.builders import an_upload
from tests.integration.bench import Bench
from tests.pdfs import SCAN, pdf_of

PAGES = 120
PAGE_S = 0.02
TRANSITIONS = 16  # stages begin and end, paces are set, the job ends: the same for every document


async def test_the_writes_of_a_job_do_not_grow_with_its_pages(
    database: Database[dict[str, Any]],
    stores: Stores,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page every few milliseconds: what is written to MongoDB is bounded by the time it takes, and only rises."""
    bench = Bench(database, stores, settings, an_upload(tmp_path, pdf_of([SCAN] * PAGES)))
    bench.submit()
    seen: list[int] = []
    write = JobStore.write_held

    def counted(
        store: JobStore, job_id: str, lease: Lease, update: Mapping[str, Any], only_if: Mapping[str, Any]
    ) -> Job:
        written = write(store, job_id, lease, update, only_if)
        seen.append(written.progress.pages_done)
        return written

    monkeypatch.setattr(JobStore, "write_held", counted)
    one_at_a_time = asyncio.Semaphore()

    async def fast(name: str, _number: int) -> None:
        if name == "read_page":
            async with one_at_a_time:
                await asyncio.sleep(PAGE_S)

    started_at = time.monotonic()
    ended = await bench.run(bench.claim(), fast)
    took_s = time.monotonic() - started_at
    assert ended.state is JobState.SUCCEEDED
    assert ended.progress.pages_done == PAGES
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3, "it was not seen to rise"
    assert took_s < PAGES * HEARTBEAT_S / 2, "too slow to tell"
    renewals = took_s * RENEWALS_PER_TTL / settings.lease_ttl_s
    assert len(seen) <= TRANSITIONS + took_s / HEARTBEAT_S + renewals
