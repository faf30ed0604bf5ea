"""From an error to an HTTP answer: one table, and one shape (RFC 9457)."""

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ingest import errors
from ingest.failures import INTERNAL_MESSAGE
from ingest.telemetry import get_logger
from serve import refusals
from serve.schemas import Problem

MEDIA_TYPE = "application/problem+json"
HEADERS = {
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "5"},
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
}
WORDS = {
    "extra_forbidden": "There is no such field. The fields are described at /docs.",
    "json_invalid": "This is not JSON.",
    "missing": "This has to be given.",
    "model_attributes_type": "Send a JSON object, as Content-Type: application/json.",
}
log = get_logger()


STATUS: dict[type[errors.FanfoldError], HTTPStatus] = {
    errors.InputError: HTTPStatus.BAD_REQUEST,
    errors.FileTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    refusals.Unauthorized: HTTPStatus.UNAUTHORIZED,
    refusals.Forbidden: HTTPStatus.FORBIDDEN,
    refusals.Misdirected: HTTPStatus.MISDIRECTED_REQUEST,
    refusals.LengthRequired: HTTPStatus.LENGTH_REQUIRED,
    refusals.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    refusals.Draining: HTTPStatus.SERVICE_UNAVAILABLE,
    refusals.ServiceFull: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.ReferenceNotAllowed: HTTPStatus.FORBIDDEN,
    errors.IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.WorkError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.WorkTimeout: HTTPStatus.SERVICE_UNAVAILABLE,  # these three say nothing about the page
    errors.NodeOutOfMemory: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NodeLost: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.FanfoldError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def install(app: FastAPI) -> None:
    """Make every error that routes raise leave as a problem body; `unexpected_error` is for what is none of these."""
    app.add_exception_handler(errors.FanfoldError, _fanfold_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def status_of(error: errors.FanfoldError) -> HTTPStatus:
    """The status of the nearest ancestor that the table names."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def kind_of(error: type[Exception]) -> tuple[str, str]:
    """The problem's `type` and `title`: `NotAPdf` is `urn:fanfold:not-a-pdf`, "Not a PDF"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", error.__name__).lower()
    return f"urn:fanfold:{words.replace(' ', '-')}", re.sub(r"\bpdf\b", "PDF", words.capitalize())


def problem_of(error: errors.FanfoldError) -> Problem:
    """The error as the body that clients see."""
    kind, title = kind_of(type(error))
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request failed", exc_info=error)
    return Problem(type=kind, title=title, status=status, detail=error.message, retryable=error.retryable)


def problem_answer(error: errors.FanfoldError) -> JSONResponse:
    """The error as an answer."""
    return _answer(problem_of(error))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem bodies that a route may answer with, for its OpenAPI."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def _fanfold_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.FanfoldError)
    return problem_answer(error)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(part) for part in item['loc'])}: {_words_of(item)}" for item in error.errors()]
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return _answer(
        Problem(type="urn:fanfold:invalid-request", title="Invalid request", status=status, detail="; ".join(found))
    )


def _words_of(found: dict[str, Any]) -> str:
    """What is wrong with a part of the request, for whoever has sent it."""
    return WORDS.get(found["type"]) or str(found["msg"]).removeprefix("Value error, ")


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = f"{error.detail}. What there is, is described at /docs." if error.detail == title else str(error.detail)
    answer = _answer(Problem(type="about:blank", title=title, status=error.status_code, detail=detail))
    answer.headers.update(error.headers or {})
    return answer


async def unexpected_error(_request: Request, error: Exception) -> JSONResponse:
    """What nobody has foreseen, as an answer that says no more than that."""
    log.error("request failed", exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _answer(Problem(type="urn:fanfold:internal", title="Internal error", status=status, detail=INTERNAL_MESSAGE))


def _answer(problem: Problem) -> JSONResponse:
    headers = HEADERS.get(HTTPStatus(problem.status))
    return JSONResponse(problem.model_dump(), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
