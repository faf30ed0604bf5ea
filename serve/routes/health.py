"""Whether the service lives, is ready, and what it is."""

import asyncio
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from ingest.errors import StoreError
from ingest.telemetry import get_logger
from serve import schemas
from serve.access import Tenant
from serve.problems import documented
from serve.service import ServiceOf

PROBE_TIMEOUT_S = 5.0
VERSION = version("fanfold")
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Readiness, "description": "Something is down."}}
router = APIRouter(tags=["health"])
log = get_logger()


@router.get("/v1/service", summary="The service", responses=documented(401, 421))
def get_service(service: ServiceOf, tenant: Tenant) -> schemas.ServiceView:
    """What a client has to know: whose documents it sees, and what is accepted."""
    settings = service.settings
    return schemas.ServiceView(
        version=VERSION,
        tenant=tenant,
        max_upload_bytes=settings.max_upload_bytes,
        max_pages=settings.max_pages,
        pipeline=service.pipeline.fingerprint,
        keep_source=settings.keep_source,
    )


@router.get("/healthz", summary="Liveness", responses=documented(421))
async def healthz() -> dict[str, str]:
    """This replica runs."""
    return {"status": "ok"}


@router.get("/readyz", summary="Readiness", responses=NOT_READY | documented(421))
async def readyz(service: ServiceOf, response: Response) -> schemas.Readiness:
    """Every store, the supervisor and the query embedder answer; 503 names the ones that do not."""
    probes: dict[str, Awaitable[object]] = {name: run_in_threadpool(probe) for name, probe in service.probes.items()}
    probes["query_embedder"] = service.embed_query("ready?")
    answers = await asyncio.gather(*(_why_down(probe) for probe in probes.values()))
    down = {name: answer for name, answer in zip(probes, answers, strict=True) if answer is not None}
    response.status_code = 503 if down else 200
    return schemas.Readiness(ready=not down, down=down)


async def _why_down(probe: Awaitable[object]) -> str | None:
    """What a probe finds wrong, if anything."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await probe
    except StoreError as error:
        return error.message
    except TimeoutError:
        return f"No answer within {PROBE_TIMEOUT_S:g} seconds."
    except Exception:
        log.exception("a probe failed")
        return "It cannot be asked; the service's log says why."
    return None
