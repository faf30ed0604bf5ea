"""A job's events: what changed, as it changes (server-sent events, WHATWG HTML, section 9.2)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from sse_starlette import ServerSentEvent

from ingest.model import Job
from serve.schemas import JobView

LOOK_S = 0.5


async def job_changes(read: Callable[[], Awaitable[Job]], last_event_id: str | None) -> AsyncIterator[ServerSentEvent]:
    """The job as it is now, unless that was the last event; then each change, up to and including its end.

    An event carries the whole job, so that whoever missed some needs none of them.
    """
    seen_id, seen_state = last_event_id, None
    while True:
        job = JobView.of(await read())
        now_id = event_id(job)
        if now_id != seen_id:
            kind = "progress" if job.state is seen_state else "state"
            yield ServerSentEvent(job.model_dump_json(), event=kind, id=now_id)
            seen_id, seen_state = now_id, job.state
        if job.state.terminal:
            return
        await asyncio.sleep(LOOK_S)


def event_id(job: JobView) -> str:
    """Names what the job shows; the same for the same."""
    shown = job.model_dump_json(exclude={"updated_at"})
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
