"""What the next claim goes on with: an ended job's collection, and a publish that was decided under other settings."""

import time
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from ingest import ids, pipeline
from ingest.collection import collect
from ingest.errors import CorruptPdf
from ingest.model import JobState, PipelineSpec
from tests.conftest import PIPELINE
from tests.integration.bench import Bench, Killed, failing
from tests.integration.test_deletion import let_pass

DatabaseOf = Database[dict[str, Any]]
OTHER = PIPELINE.model_copy(update={"chunk": "1" * 16, "embed": "0" * 16})
SLOW_S = 1.5  # several heartbeats


def slow_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left takes time to remove: many objects, a store that is far away."""

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOW_S)
        return collect(*args, **kwargs)

    monkeypatch.setattr(pipeline, "collect", slow)


async def test_what_a_cancelled_job_kept_is_collected_however_long_it_takes(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel that ended it does not end its collection, too."""
    job = bench.submit()
    held = bench.claim()
    bench.stores.jobs.request_cancel(job.job_id)
    cancelled = await bench.run(held)
    assert (cancelled.state, cancelled.open) == (JobState.CANCELLED, False)
    let_pass(database, timedelta(days=30))
    assert bench.stores.jobs.reopen_due() == 1
    slow_collect(monkeypatch)
    swept = await bench.run(bench.claim("sweeper"))
    assert (swept.open, swept.sweep_at) == (False, None)
    assert not bench.stores.objects.exists(ids.source_key(job.document_id))


async def test_what_a_failed_job_left_is_collected_after_its_deadline(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time was up before; collecting takes what it takes."""
    job = bench.submit()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "collect", lambda *_args, **_kwargs: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            await bench.run(bench.claim(), failing("inspect", 0, CorruptPdf("It is damaged.")))
    past = bench.stores.jobs.now() - timedelta(hours=1)
    expired = {"attempts.0.worked_s": bench.settings.job_timeout_s, "lease.expires_at": past}
    database["jobs"].update_one({"_id": job.job_id}, {"$set": expired})
    slow_collect(monkeypatch)
    collected = await bench.run(bench.claim("next"))
    assert (collected.state, collected.open) == (JobState.FAILED, False)


async def decided_and_killed(bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job whose holder died between its decision and the publish."""
    job = bench.submit()

    def killed(*_args: Any, **_kwargs: Any) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(bench.stores.catalog, "publish", killed)
        with pytest.raises(Killed):
            await bench.run(bench.claim())
    expired = bench.stores.jobs.now() - timedelta(hours=1)
    database["jobs"].update_one({"_id": job.job_id}, {"$set": {"lease.expires_at": expired}})
    return job.document_id


async def test_a_decided_publish_is_finished_by_a_process_with_other_settings(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was verified is shown as it was; nothing of it is made again by models that did not make it."""
    await decided_and_killed(bench, database, monkeypatch)
    ended = await bench.run(bench.claim("next"), pipeline=OTHER)
    assert ended.state is JobState.SUCCEEDED
    assert ended.pipeline.fingerprint == PIPELINE.fingerprint
    assert bench.engine.calls.total() == 0
    bench.assert_published_exactly(ended)


@pytest.mark.parametrize("ours", [PIPELINE, OTHER], ids=["same settings", "other settings"])
async def test_a_decided_publish_of_a_deleted_document_ends(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch, ours: PipelineSpec
) -> None:
    """Deleted meanwhile, and the work could not even be done again: the job ends, and nothing is left."""
    document_id = await decided_and_killed(bench, database, monkeypatch)
    bench.stores.catalog.tombstone("default", document_id, deleted_at=bench.stores.jobs.now())
    broken = failing("inspect", 0, CorruptPdf("It is damaged."), times=9)
    ended = await bench.run(bench.claim("next"), broken, pipeline=ours)
    assert (ended.state, ended.open) == (JobState.FAILED, False)
    bench.assert_no_rows(ended)


async def test_a_decided_publish_is_not_judged_by_a_stricter_limit(
    bench: Bench, database: DatabaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FANFOLD_MAX_FAILED_PAGE_RATIO bounds the way to the decision, not what follows it."""
    job = await decided_and_killed(bench, database, monkeypatch)
    missing = {"page_number": 4, "reason": "crash", "message": "It died."}
    database["jobs"].update_one({"document_id": job}, {"$set": {"failed_pages": [missing]}})
    bench.settings = bench.settings.model_copy(update={"max_failed_page_ratio": 0.0})
    ended = await bench.run(bench.claim("next"))
    assert ended.state is JobState.PARTIALLY_SUCCEEDED
