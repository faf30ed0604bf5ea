"""From an exception to what users see of it."""

from ingest.errors import Category, FanfoldError, NodeLost, OutOfMemory, WorkerCrashed, WorkError, WorkTimeout
from ingest.model import FailedPage, Failure, PageFailure, Stage

INTERNAL_MESSAGE = "Something unexpected went wrong in Fanfold. The log has the details."


def failure_of(error: Exception, stage: Stage | None) -> Failure:
    """The public side of an error. One that Fanfold did not raise on purpose shows no detail, and may be retried."""
    if isinstance(error, FanfoldError):
        return Failure(
            category=error.category,
            message=error.message,
            retryable=error.retryable,
            stage=stage,
            page_number=error.page_number,
        )
    return Failure(category=Category.INTERNAL, message=INTERNAL_MESSAGE, retryable=True, stage=stage)


def failed_page(page_number: int, error: WorkError) -> FailedPage:
    """The record of a page that is given up because of `error`."""
    reasons: dict[type[WorkError], PageFailure] = {
        WorkTimeout: PageFailure.TIMEOUT,
        WorkerCrashed: PageFailure.CRASH,
        NodeLost: PageFailure.CRASH,
        OutOfMemory: PageFailure.MEMORY,
    }
    reason = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), PageFailure.UNREADABLE)
    return FailedPage(page_number=page_number, reason=reason, message=error.message)
