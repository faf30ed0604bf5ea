"""A worker that slept through its attempt's lease, and wakes while a later attempt, with other settings, is at work."""

from contextlib import suppress
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids, revisions
from ingest.errors import LeaseLost
from ingest.model import JobState, Revision
from ingest.stores import Stores
from tests.builders import axis_vectors, some_chunks
from tests.conftest import PIPELINE
from tests.integration.bench import Bench

LATE_CHUNKS = 40  # more than the document has under the later settings


@pytest.mark.parametrize("moment", ["before it is stored", "after it was stored"])
async def test_no_late_row_of_a_lost_attempt_is_published(
    bench: Bench, database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Neither in the place of a row of the later attempt, nor beside them."""
    job = bench.submit()
    lost = bench.claim("lost")
    database["jobs"].update_many({}, {"$set": {"lease.expires_at": bench.stores.jobs.now()}})
    late = Revision("default", job.document_id, job.revision, PIPELINE, epoch=lost.job.lease.epoch)
    confirm = revisions.confirm

    def wake() -> None:
        with suppress(LeaseLost):  # the sleeper is told; nobody else hears of it
            bench.stores.catalog.upsert_chunks(late, some_chunks(LATE_CHUNKS, words="late"))
        bench.stores.vectors.upsert(late, some_chunks(LATE_CHUNKS), axis_vectors(LATE_CHUNKS, dimension=384))

    async def before(call: str, _number: int) -> None:
        if (call, moment) == ("store", "before it is stored"):
            wake()

    def woken(stores: Stores, revision: Revision, chunk_count: int) -> None:
        if moment == "after it was stored":
            wake()
        confirm(stores, revision, chunk_count)

    monkeypatch.setattr(revisions, "confirm", woken)
    others = PIPELINE.model_copy(update={"chunk": "others", "embed": "others"})
    ended = await bench.run(bench.claim("next"), before, others)
    assert ended.state is JobState.SUCCEEDED
    assert len(ended.attempts) == 2
    bench.assert_published_exactly(ended)
    count = bench.stores.catalog.document("default", job.document_id).chunk_count
    manifest = ids.chunk_ids(job.document_id, job.revision, count)
    found = bench.stores.catalog.chunks_by_id("default", list(manifest))
    assert 0 < count < LATE_CHUNKS
    assert {chunk.epoch for chunk in found.values()} == {2}
    assert not any(chunk.text.startswith("late") for chunk in found.values())
