"""A typed client of the HTTP interface: the one way in which Fanfold's own programs talk to the service."""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from ingest.metadata import Metadata
from ingest.model import JobState
from ingest.settings import LOOPBACK
from ingest.turns import Priority
from serve import schemas
from serve.search_schemas import Hit, SearchOptions, SearchRequest, SearchResponse

TIMEOUT_S = 120.0
RETRY_FOR_S = 60.0
View = TypeVar("View", bound=BaseModel)
Listing = TypeVar("Listing", schemas.JobPage, schemas.DocumentPage, schemas.ChunkPage, schemas.PageList)
UNTRUSTED = "its certificate is of no known authority. SSL_CERT_FILE names a file with those to trust."


class ServiceError(Exception):
    """The service refused, or does not answer. `str(error)` is for the user; `problem` is the body if there was one.

    `retry_after_s` is when the service asked to come back, if it did.
    """

    def __init__(
        self, message: str, *, problem: schemas.Problem | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.problem is not None and self.problem.status == httpx.codes.SERVICE_UNAVAILABLE


class Client:
    """Calls one service, from any thread. Every method raises `ServiceError`.

    "Come back later" (503) is obeyed for `retry_for_s`, as late as its `Retry-After` says.
    """

    def __init__(self, url: str, *, api_key: str | None = None, retry_for_s: float = RETRY_FOR_S) -> None:
        self._url = url
        self._retry_for_s = retry_for_s
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        here = httpx.URL(url).host in LOOPBACK  # no HTTP_PROXY can know it, and none shall see its files and its key
        direct = httpx.HTTPTransport() if here else None  # without a proxy; SSL_CERT_FILE holds
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=headers, transport=direct)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(
        self,
        path: Path,
        *,
        metadata: Metadata | None = None,
        priority: Priority = Priority.NORMAL,
        idempotency_key: str | None = None,
    ) -> schemas.SubmitView:
        """Send a PDF. Sending it again, after a failure or not, changes nothing but the metadata, if it comes with any.

        The priority is that of a new job among the tenant's own. With a key, repeating the call within a day gives the
        same job, also when that has failed.
        """
        said = {schemas.PRIORITY_HEADER: str(priority)}
        said |= {} if metadata is None else {schemas.METADATA_HEADER: json.dumps(metadata)}
        said |= {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}

        def send() -> schemas.SubmitView:
            with path.open("rb") as file:
                headers = {
                    "Content-Type": "application/pdf",
                    "Content-Length": str(path.stat().st_size),
                    "Content-Disposition": f"attachment; filename*=UTF-8''{quote(os.fsencode(path.name))}",
                    **said,
                }
                return self._call(schemas.SubmitView, "POST", "/v1/documents", content=file, headers=headers)

        return self._patiently(send)

    def submit_reference(
        self, url: str, *, metadata: Metadata | None = None, priority: Priority = Priority.NORMAL
    ) -> schemas.SubmitView:
        """Have the service fetch a PDF from where its FANFOLD_SOURCE_URLS allows it: `s3://bucket/key.pdf`."""
        reference = schemas.ReferenceRequest(url=url, metadata=metadata, priority=priority)
        body = reference.model_dump(mode="json", exclude_none=True)
        return self._patiently(lambda: self._call(schemas.SubmitView, "POST", "/v1/documents", json=body))

    def service(self) -> schemas.ServiceView:
        """What the service is and accepts, and whose documents this client sees."""
        return self._call(schemas.ServiceView, "GET", "/v1/service")

    def job(self, job_id: str, *, wait: float = 0) -> schemas.JobView:
        """A job; with `wait`, as soon as it has ended or that many seconds are over."""
        params = {"wait": wait} if wait else None
        return self._patiently(
            lambda: self._call(schemas.JobView, "GET", f"/v1/jobs/{quote(job_id, safe='')}", params=params)
        )

    def jobs(
        self, *, state: JobState | None = None, document_id: str | None = None, limit: int = schemas.DEFAULT_LIMIT
    ) -> Iterator[schemas.JobView]:
        """The newest jobs, at most `limit`; of one state, of one document."""
        narrowed = {} if state is None else {"state": str(state)}
        narrowed |= {} if document_id is None else {"document_id": document_id}
        for page in self._pages(schemas.JobPage, "/v1/jobs", limit=limit, **narrowed):
            yield from page.jobs

    def pages(self, job_id: str) -> Iterator[schemas.PageView]:
        """How far each page of a job is, in order."""
        for page in self._pages(schemas.PageList, f"/v1/jobs/{quote(job_id, safe='')}/pages"):
            yield from page.pages

    def cancel(self, job_id: str) -> schemas.JobView:
        """Ask for the job to stop; it is `cancelling`, or `cancelled`. May be repeated."""
        return self._patiently(lambda: self._call(schemas.JobView, "POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel"))

    def cancel_all(self, job_ids: Sequence[str]) -> Iterator[tuple[str, schemas.JobView | ServiceError]]:
        """Ask for all of them to stop, many in a call; what became of each, in their order. May be repeated."""
        for first in range(0, len(job_ids), schemas.MAX_CANCELS):
            body = {"job_ids": list(job_ids[first : first + schemas.MAX_CANCELS])}
            answers = self._patiently(partial(self._call, schemas.CancelAnswers, "POST", "/v1/jobs/cancel", json=body))
            for answer in answers.jobs:
                if answer.job is not None:
                    yield answer.job_id, answer.job
                elif answer.problem is not None:
                    yield answer.job_id, ServiceError(answer.problem.detail, problem=answer.problem)

    def retry(self, job_id: str) -> schemas.SubmitView:
        """A new job that goes on where this one ended."""
        return self._patiently(
            lambda: self._call(schemas.SubmitView, "POST", f"/v1/jobs/{quote(job_id, safe='')}/retry")
        )

    def delete(self, document_id: str) -> schemas.DeletionView:
        """Delete the document and everything that was made of it. May be repeated."""
        path = f"/v1/documents/{quote(document_id, safe='')}"
        return self._patiently(lambda: self._call(schemas.DeletionView, "DELETE", path))

    def document(self, document_id: str) -> schemas.DocumentView:
        """A document."""
        return self._call(schemas.DocumentView, "GET", f"/v1/documents/{quote(document_id, safe='')}")

    def documents(self, *, limit: int = schemas.DEFAULT_LIMIT) -> Iterator[schemas.DocumentView]:
        """The newest documents, at most `limit`."""
        for page in self._pages(schemas.DocumentPage, "/v1/documents", limit=limit):
            yield from page.documents

    def chunks(self, document_id: str) -> Iterator[schemas.ChunkView]:
        """All published chunks of a document, in order. That another revision is published meanwhile is an error."""
        for page in self._pages(schemas.ChunkPage, f"/v1/documents/{quote(document_id, safe='')}/chunks"):
            yield from page.chunks

    def page_image(self, document_id: str, page_number: int) -> bytes:
        """A page of a kept document as a PNG."""
        return self._send("GET", f"/v1/documents/{quote(document_id, safe='')}/pages/{page_number}/image").content

    def page_marks(self, document_id: str, page_number: int, chunk_id: str) -> list[schemas.MarkView]:
        """Where on a page of a kept document a chunk's text lies."""
        path = f"/v1/documents/{quote(document_id, safe='')}/pages/{page_number}/marks"
        return self._call(schemas.MarkList, "GET", path, params={"chunk_id": chunk_id}).marks

    def search(self, query: str, *, limit: int = 10, **asked: Unpack[SearchOptions]) -> list[Hit]:
        """The chunks that fit the query best, best first; grouped, in the order of their documents."""
        return self.search_response(query, limit=limit, **asked).hits

    def search_response(self, query: str, *, limit: int = 10, **asked: Unpack[SearchOptions]) -> SearchResponse:
        """The same with `groups`, if they were asked for. Raises pydantic's `ValidationError` for what no search is."""
        wanted = SearchRequest.model_validate({"query": query, "limit": limit, **asked})
        body = wanted.model_dump(mode="json", exclude_unset=True)
        return self._call(SearchResponse, "POST", "/v1/search", json=body)

    def _pages(self, view: type[Listing], path: str, *, limit: int = sys.maxsize, **params: str) -> Iterator[Listing]:
        """A list, answer by answer, up to `limit` items."""
        cursor: str | None = None
        while limit > 0:
            size = min(limit, schemas.MAX_LIMIT)
            page = self._call(
                view, "GET", path, params={"limit": size} | params | ({} if cursor is None else {"cursor": cursor})
            )
            yield page
            limit -= size
            cursor = page.next_cursor
            if cursor is None:
                return

    def _call(self, view: type[View], method: str, path: str, **request: Any) -> View:
        response = self._send(method, path, **request)
        try:
            return view.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(f"{self._url} answers, but not as Fanfold does; is it another service?") from error

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ServiceError(f"{self._url} is not trusted: {UNTRUSTED}") from error
            raise ServiceError(f"No Fanfold answers at {self._url}. Start it with: fanfold up") from error
        except httpx.TransportError as error:
            raise ServiceError(f"The connection to {self._url} broke: {type(error).__name__}.") from error
        if response.is_success:
            return response
        try:
            problem = schemas.Problem.model_validate_json(response.content)
        except ValidationError:
            raise ServiceError(f"{self._url} answered {response.status_code}; is it Fanfold?") from None
        raise ServiceError(problem.detail, problem=problem, retry_after_s=_seconds(response.headers.get("Retry-After")))

    def _patiently(self, call: Callable[[], View]) -> View:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServiceError) and error.retryable),
            stop=stop_after_delay(self._retry_for_s),
            wait=_pause_s,
            sleep=time.sleep,
            reraise=True,
        )
        return retrying(call)


_BACKOFF = wait_exponential_jitter(multiplier=0.5, max=5)


def _pause_s(state: RetryCallState) -> float:
    """What the service asked for, and a little more, so that those who were refused together do not come together."""
    error = state.outcome and state.outcome.exception()
    asked = error.retry_after_s if isinstance(error, ServiceError) else None
    return _BACKOFF(state) if asked is None else asked + random.random()  # noqa: S311  # no secret


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After`; it may also be a date, which the service never sends."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
