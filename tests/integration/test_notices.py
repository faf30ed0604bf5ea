"""The webhook hears of every job that has ended: signed, at least once, and never beyond the address it was given."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pymongo.database import Database

from cluster.notices import MAX_TRIES, Notifier, signature
from ingest.errors import WorkerCrashed
from ingest.model import Failure, JobState
from ingest.stores.jobs import JobStore
from tests.builders import KEEP_NOTHING, TENANT
from tests.integration.bench import Bench
from tests.integration.queue import claim, insert
from tests.receiver import Receiver

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DatabaseOf = Database[dict[str, Any]]
SECRET = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BROKEN = Failure(category=WorkerCrashed.category, message="It died.", retryable=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Somebody who wants to know."""
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()


def end_one(jobs: JobStore, document_id: str = "d", *, tenant: str = TENANT) -> str:
    """A job that ends `failed`; its id."""
    insert(jobs, document_id, tenant=tenant)
    held = claim(jobs)
    held.settle(JobState.FAILED, BROKEN, notify=True)
    held.close(keeping=KEEP_NOTHING, sweep_at=None)
    return held.job.job_id


async def send_one(jobs: JobStore, url: str, secret: SecretStr | None = SECRET) -> bool:
    """What a supervisor does again and again."""
    async with httpx.AsyncClient(follow_redirects=False) as http:
        return await Notifier(jobs, url, secret).send_one(http)


def make_due(database: DatabaseOf, jobs: JobStore) -> None:
    """Whatever is postponed is due now."""
    database["jobs"].update_many(
        {"notify_at": {"$ne": None}}, {"$set": {"notify_at": jobs.now() - timedelta(seconds=1)}}
    )


async def test_a_notice_is_signed_and_sent_once(jobs: JobStore, receiver: Receiver) -> None:
    """Body, id, timestamp and signature are what standardwebhooks.com says; after a 2xx nothing is due any more."""
    job_id = end_one(jobs)
    assert await send_one(jobs, receiver.url)
    assert not await send_one(jobs, receiver.url)
    [(path, headers, body)] = receiver.calls
    assert path == "/hook"
    shown = json.loads(body)
    assert (shown["type"], shown["data"]["job_id"]) == ("job.failed", job_id)
    assert shown["data"]["error"]["message"] == "It died."
    expected = signature(SECRET, headers["webhook-id"], headers["webhook-timestamp"], body)
    assert headers["webhook-signature"] == expected


async def test_a_notice_says_whose_job_has_ended(jobs: JobStore, receiver: Receiver) -> None:
    """One webhook hears of all tenants' jobs, and can tell them apart."""
    ended = {end_one(jobs, tenant, tenant=tenant): tenant for tenant in ("acme", "globex")}
    for _ in ended:
        assert await send_one(jobs, receiver.url)
    told = [json.loads(body)["data"] for _, _, body in receiver.calls]
    assert {job["job_id"]: job["tenant"] for job in told} == ended


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example that the libraries of standardwebhooks.com are tested with; any other text is the key itself."""
    example = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
    assert signature(SECRET, *example) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(SecretStr("key"), "id", "1", b"") == (
        f"v1,{base64.b64encode(hmac.digest(b'key', b'id.1.', hashlib.sha256)).decode()}"
    )


async def test_without_a_secret_nothing_is_signed(jobs: JobStore, receiver: Receiver) -> None:
    """A receiver that asks for a signature refuses such a call."""
    end_one(jobs)
    await send_one(jobs, receiver.url, secret=None)
    [(_, headers, _)] = receiver.calls
    assert "webhook-signature" not in headers


async def test_the_readmes_check_tells_genuine_calls_from_others(jobs: JobStore, receiver: Receiver) -> None:
    """The function that the README gives to receivers accepts ours and refuses a changed body, and an old one."""
    end_one(jobs)
    await send_one(jobs, receiver.url)
    [(_, headers, body)] = receiver.calls
    [snippet] = re.findall(r"^```python\n(import base64.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["is_genuine"](SECRET.get_secret_value(), headers, body)
    assert not names["is_genuine"](SECRET.get_secret_value(), headers, body + b" ")
    assert not names["is_genuine"]("whsec_YSBndWVzcw==", headers, body)
    old = headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 3600)}
    old["webhook-signature"] = signature(SECRET, old["webhook-id"], old["webhook-timestamp"], body)
    assert not names["is_genuine"](SECRET.get_secret_value(), old, body)


async def test_a_notice_that_does_not_arrive_comes_again_later(
    jobs: JobStore, database: DatabaseOf, receiver: Receiver
) -> None:
    """After a 500 it waits, then has the same id; what arrived is not sent again."""
    end_one(jobs)
    receiver.statuses = [500]
    assert await send_one(jobs, receiver.url)
    assert not await send_one(jobs, receiver.url)
    make_due(database, jobs)
    assert await send_one(jobs, receiver.url)
    make_due(database, jobs)
    assert not await send_one(jobs, receiver.url)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.calls}) == 1
    assert len(receiver.calls) == 2


async def test_a_redirect_is_not_followed(jobs: JobStore, receiver: Receiver) -> None:
    """It might lead into a private network: it counts as not delivered."""
    job_id = end_one(jobs)
    receiver.statuses = [307]
    assert await send_one(jobs, receiver.url)
    assert [path for path, _, _ in receiver.calls] == ["/hook"]
    assert jobs.job(TENANT, job_id).notify_at is not None


async def test_a_receiver_that_is_gone_is_given_up_in_the_end(jobs: JobStore, database: DatabaseOf) -> None:
    """Nobody listens there: so many tries, hours apart, then no more."""
    job_id = end_one(jobs)
    for number in range(1, MAX_TRIES + 1):
        make_due(database, jobs)
        assert await send_one(jobs, "http://127.0.0.1:9/nobody")
        assert jobs.job(TENANT, job_id).notices == number
    assert jobs.job(TENANT, job_id).notify_at is None


@pytest.mark.parametrize("url", ["http://[1:2]/", "http://host/\x7f", "http://xn--zzzzzzzz/", "http://\udc80/"])
async def test_an_address_that_cannot_be_called_costs_no_supervisor(jobs: JobStore, url: str) -> None:
    """What httpx and the libraries under it raise for it is a notice that did not arrive: it is tried again."""
    job_id = end_one(jobs)
    assert await send_one(jobs, url)
    assert not await send_one(jobs, url)
    job = jobs.job(TENANT, job_id)
    assert job.notices == 1
    assert job.notify_at is not None


async def test_a_notice_whose_sender_died_is_sent_by_another(
    jobs: JobStore, database: DatabaseOf, receiver: Receiver
) -> None:
    """Taken and never ended: nobody else takes it at once, somebody does a little later."""
    end_one(jobs)
    assert jobs.take_notice(again_in=timedelta(seconds=30)) is not None
    assert not await send_one(jobs, receiver.url)
    make_due(database, jobs)
    assert await send_one(jobs, receiver.url)
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("configured", [True, False])
async def test_jobs_have_notices_only_where_a_webhook_is_set(bench: Bench, configured: bool) -> None:
    """Setting the webhook later does not send the past."""
    url = SecretStr("http://127.0.0.1:9/hook") if configured else None
    bench.settings = bench.settings.model_copy(update={"webhook_url": url})
    bench.submit()
    ended = await bench.run(bench.claim())
    assert ended.state is JobState.SUCCEEDED
    assert (ended.notify_at is not None) is configured


def test_a_notice_of_a_newer_versions_job_is_left_to_that_version(jobs: JobStore, database: DatabaseOf) -> None:
    """It does not stand in the way of the others."""
    newer, ours = (end_one(jobs, document_id) for document_id in "ab")
    database["jobs"].update_one({"_id": newer}, {"$set": {"state": "hibernating"}})
    taken = jobs.take_notice(again_in=timedelta(minutes=1))
    assert taken is not None
    assert taken.job_id == ours
    assert jobs.take_notice(again_in=timedelta(minutes=1)) is None
    assert database["jobs"].find_one({"_id": newer})["notices"] == 0  # type: ignore[index]  # it is there
