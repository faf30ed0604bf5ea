"""Notices: an HTTP call to FANFOLD_WEBHOOK_URL whenever a job has ended, at least once, signed.

Shaped and signed as https://www.standardwebhooks.com says: who receives it checks `webhook-signature`, drops
what has an old `webhook-timestamp`, and tells repetitions by `webhook-id`.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta

import httpx
from pydantic import SecretStr

from ingest.errors import StoreError
from ingest.model import Job
from ingest.settings import webhook_key
from ingest.stores.jobs import JobStore
from ingest.telemetry import get_logger
from serve.schemas import JobView

TIMEOUT_S = 10.0
IDLE_S = 1.0
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(hours=1)
MAX_TRIES = 16  # some six hours
log = get_logger()


class Notifier:
    """Sends what is due. Several may run: each notice is taken by one at a time."""

    def __init__(self, jobs: JobStore, url: str, secret: SecretStr | None) -> None:
        self._jobs = jobs
        self._url = url
        self._secret = secret

    async def run(self) -> None:
        """Send notices until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as http:
            while True:
                try:
                    sent = await self.send_one(http)
                except StoreError as error:
                    log.warning("cannot look for notices", error=error.message)
                    sent = False
                if not sent:
                    await asyncio.sleep(IDLE_S)

    async def send_one(self, http: httpx.AsyncClient) -> bool:
        """Send the notice that is due first, and note whether it arrived; False when none is due."""
        job = await asyncio.to_thread(self._jobs.take_notice, again_in=timedelta(seconds=3 * TIMEOUT_S))
        if job is None:
            return False
        why_not = await self._post(http, job)
        if why_not is None:
            await asyncio.to_thread(self._jobs.end_notice, job.job_id)
        elif job.notices >= MAX_TRIES:
            log.error("notice given up", job_id=job.job_id, tries=job.notices, reason=why_not)
            await asyncio.to_thread(self._jobs.end_notice, job.job_id)
        else:
            log.warning("notice not delivered; it is tried again", job_id=job.job_id, reason=why_not)
            pause = min(FIRST_PAUSE * 2 ** (job.notices - 1), LONGEST_PAUSE)
            await asyncio.to_thread(self._jobs.postpone_notice, job.job_id, pause)
        return True

    async def _post(self, http: httpx.AsyncClient, job: Job) -> str | None:
        """Why it did not arrive, if it did not. A redirect is not followed: it might lead into a private network."""
        body = json.dumps({"type": f"job.{job.state}", "data": JobView.of(job).model_dump(mode="json")}).encode()
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):  # httpx limits each read, not their sum
                answer = await http.post(self._url, content=body, headers=self._headers(job, body))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as error:  # ValueError: of host names
            return type(error).__name__
        return None if answer.is_success else f"status {answer.status_code}"

    def _headers(self, job: Job, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "webhook-id": f"{job.job_id}.{job.state}",
            "webhook-timestamp": str(int(time.time())),
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(
                self._secret, headers["webhook-id"], headers["webhook-timestamp"], body
            )
        return headers


def signature(secret: SecretStr, notice_id: str, timestamp: str, body: bytes) -> str:
    """Version 1 of Standard Webhooks: a keyed hash of all three, in base64."""
    digest = hmac.digest(webhook_key(secret), f"{notice_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"
