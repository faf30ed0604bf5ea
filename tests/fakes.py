"""A service that only counts: for tests of what calls it."""

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingest.metadata import Metadata
from ingest.model import JobState, Progress
from serve import schemas
from serve.client import Client, ServiceError
from tests.builders import a_job, pipeline_named

PIPELINE = pipeline_named("p").fingerprint
SERVICE = schemas.ServiceView(
    version="0", tenant="default", max_upload_bytes=10_000, max_pages=10, pipeline=PIPELINE, keep_source=False
)


def refusal(status: int, kind: str, *, retryable: bool = False, retry_after_s: float | None = None) -> ServiceError:
    """What a client raises for a problem body."""
    problem = schemas.Problem(type=f"urn:fanfold:{kind}", title=kind, status=status, detail=kind, retryable=retryable)
    return ServiceError(kind, problem=problem, retry_after_s=retry_after_s)


class FakeService(Client):
    """Ends every job when it has been looked at `looks` times."""

    def __init__(self, *, looks: int = 2) -> None:
        self.looks = looks
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.answers = True
        self.most_open = 0
        self.delay_s = 0.0
        self.known: set[str] = set()  # whose jobs somebody else has made
        self.refusals: list[ServiceError] = []  # raised by the submits to come, one each
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def service(self) -> schemas.ServiceView:
        """What it is."""
        self._answer()
        return SERVICE

    def submit(self, path: Path, *, metadata: Metadata | None = None, **_: Any) -> schemas.SubmitView:
        """A new job for each."""
        return self.submit_reference(str(path), metadata=metadata)

    def submit_reference(self, url: str, *, metadata: Metadata | None = None, **_: Any) -> schemas.SubmitView:
        """The same."""
        self._answer()
        time.sleep(self.delay_s)
        with self._lock:
            if self.refusals:
                raise self.refusals.pop(0)
            job_id = uuid.uuid4().hex
            self.submitted.append(url)
            self._seen[job_id] = 0
            self.most_open = max(self.most_open, len(self._seen))
        created = url not in self.known
        return schemas.SubmitView(job_id=job_id, document_id=job_id, state=JobState.QUEUED, created=created)

    def job(self, job_id: str, *, wait: float = 0) -> schemas.JobView:
        """A page further with every look."""
        self._answer()
        with self._lock:
            seen = self._seen[job_id] = self._seen[job_id] + 1
            ended = seen > self.looks
            if ended:
                del self._seen[job_id]
        progress = Progress(pages_total=self.looks, pages_done=min(seen, self.looks))
        state = JobState.SUCCEEDED if ended else JobState.RUNNING
        return schemas.JobView.of(a_job(_id=job_id, state=state, progress=progress))

    def jobs(self, **_: Any) -> Iterator[schemas.JobView]:
        """Nothing was ever submitted before."""
        self._answer()
        return iter(())

    def cancel(self, job_id: str) -> schemas.JobView:
        """At once."""
        self.cancelled.append(job_id)
        return schemas.JobView.of(a_job(_id=job_id, state=JobState.CANCELLED))

    def _answer(self) -> None:
        if not self.answers:
            raise ServiceError("Nobody answers.")
