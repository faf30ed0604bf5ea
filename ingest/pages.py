"""How far each page of a job is: put together from what the work has left behind, wherever that still is."""

from dataclasses import dataclass
from enum import StrEnum

from ingest.checkpoints import Checkpoints
from ingest.errors import ObjectMissing, PageUnreadable
from ingest.failures import failed_page
from ingest.model import FailedPage, Job, Page, Route, Stage, StageStatus
from ingest.stores import Stores


class PageState(StrEnum):
    """Where one page stands."""

    WAITING = "waiting"  # not read yet; or it was, and its job ended without keeping that
    READ = "read"  # its text is durable, or there is none to read
    FAILED = "failed"  # given up; the job lists it in `failed_pages`


@dataclass(frozen=True, slots=True)
class PageStatus:
    """One page of one job. `route` and `reason` are known until the job's checkpoints are collected."""

    page_number: int
    state: PageState
    route: Route | None = None
    reason: str = ""  # why this route
    failure: FailedPage | None = None


def page_statuses(stores: Stores, job: Job) -> list[PageStatus]:
    """Every page of the job's document, in order; none before its pages were counted.

    While the job works, from its checkpoints; once they are collected, from the job's record.
    """
    failures = {page.page_number: page for page in job.failed_pages}
    checkpoints = Checkpoints(stores.objects, job.document_id, job.pipeline)
    routes = {page.page_number: page for page in _routes(checkpoints)}
    if job.stages[Stage.EXTRACT].status is StageStatus.DONE:
        waiting: set[int] = set()
    else:
        ocr = {number for number, page in routes.items() if page.route is Route.OCR}
        waiting = ocr - checkpoints.committed_pages() if routes else set(range(1, job.progress.pages_total + 1))
    return [
        _status(number, routes.get(number), failures.get(number), waits=number in waiting)
        for number in range(1, max(job.progress.pages_total, len(routes)) + 1)
    ]


def _routes(checkpoints: Checkpoints) -> list[Page]:
    try:
        return checkpoints.routes()
    except ObjectMissing:  # collected in this moment
        return []


def _status(number: int, page: Page | None, failure: FailedPage | None, *, waits: bool) -> PageStatus:
    if failure is None and page is not None and page.route is Route.UNREADABLE:  # known before the job lists it
        failure = failed_page(number, PageUnreadable(page.reason))
    state = PageState.FAILED if failure is not None else PageState.WAITING if waits else PageState.READ
    if page is None:
        return PageStatus(number, state, failure=failure)
    return PageStatus(number, state, page.route, page.reason, failure)
