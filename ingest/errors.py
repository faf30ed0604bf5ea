"""Every error Fanfold raises on purpose.

::

    FanfoldError                     public message + category + whether a retry helps
    ├── InputError                   the document itself: a retry of the same bytes cannot help
    │   ├── EmptyFile
    │   ├── NotAPdf
    │   ├── CorruptPdf
    │   ├── EncryptedPdf
    │   ├── NoPages
    │   ├── TooManyPages
    │   ├── TooManyFailedPages
    │   └── FileTooLarge
    ├── WorkError                    the process that worked on the document
    │   ├── PageUnreadable           one page, not its neighbours
    │   ├── WorkTimeout              a limit passed
    │   ├── WorkerCrashed            the process died under the work
    │   ├── OutOfMemory              the work took more memory than it may
    │   │   └── NodeOutOfMemory      the node had no more, and ended this work: perhaps another one took it
    │   └── NodeLost                 the process's whole machine is gone: no fault of the work
    ├── StoreError                   MongoDB, Qdrant or the object store
    │   ├── StoreUnavailable         does not answer: wait and try again
    │   ├── StoreRefused             answers, and refuses: credentials, a missing collection, a wrong dimension
    │   ├── StoreMismatch            the stores do not hold what was written
    │   └── ObjectMissing            a source or checkpoint that should be there is not
    ├── JobError                     the job's own state machine
    │   ├── LeaseLost                another holder has the job: stop, touch nothing
    │   ├── CancelRequested          somebody asked for it: roll back, then `cancelled`
    │   ├── DocumentGone             the document was deleted or superseded meanwhile
    │   └── AttemptsExhausted        too many attempts without progress
    ├── NotFound                     no such job or document for this tenant
    │   └── SourceNotKept            the document's file was removed after its ingestion
    ├── Conflict                     the thing is in a state that does not allow it
    │   └── NotEnded                 and that state is not its last
    ├── ReferenceNotAllowed          a document shall be fetched from where no setting allows it
    ├── IdempotencyKeyReused         the key of a request came with another request before
    └── ConfigurationError           a setting or the installation is wrong

Each takes one positional message and keyword-only details with defaults, so that `pickle` (and with it Ray)
rebuilds it unchanged on the other side of a process boundary.
"""

from enum import StrEnum


class Category(StrEnum):
    """Why something failed, in one word that a dashboard can group by."""

    INPUT = "input"
    UNREADABLE = "unreadable"
    TIMEOUT = "timeout"
    CRASH = "crash"
    MEMORY = "memory"
    NODE = "node"
    STORE = "store"
    JOB = "job"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    CONFIGURATION = "configuration"
    INTERNAL = "internal"

    @classmethod
    def _missing_(cls, value: object) -> "Category":  # noqa: ARG003  # Enum calls it with the unknown word
        """A word that a newer version has written: it reads the same queue."""
        return cls.INTERNAL


class FanfoldError(Exception):
    """Base of the tree. `str(error)` is written for the user: no paths, no secrets, and what to do next."""

    category: Category = Category.INTERNAL
    retryable: bool = False

    def __init__(self, message: str, *, page_number: int | None = None) -> None:
        super().__init__(message)
        self.page_number = page_number

    @property
    def message(self) -> str:
        """The public message."""
        return str(self.args[0])


class InputError(FanfoldError):
    """The document cannot be ingested as it is; the same bytes will fail the same way."""

    category = Category.INPUT


class EmptyFile(InputError):
    """Zero bytes were sent."""


class NotAPdf(InputError):
    """The bytes do not carry a PDF header, or MuPDF finds another kind of file in them."""


class CorruptPdf(InputError):
    """A PDF header, but no document behind it that can be repaired."""


class EncryptedPdf(InputError):
    """A password is needed to open it."""


class NoPages(InputError):
    """The PDF opens and holds no page."""


class TooManyPages(InputError):
    """More pages than `FANFOLD_MAX_PAGES`."""


class TooManyFailedPages(InputError):
    """A larger share of the pages failed than `FANFOLD_MAX_FAILED_PAGE_RATIO` allows."""

    category = Category.UNREADABLE
    retryable = True


class FileTooLarge(InputError):
    """More bytes than `FANFOLD_MAX_UPLOAD_BYTES`."""


class WorkError(FanfoldError):
    """The work failed, not the document: the same bytes may succeed in another process."""

    retryable = True


class PageUnreadable(WorkError):
    """One page cannot be parsed or rendered."""

    category = Category.UNREADABLE
    retryable = False


class WorkTimeout(WorkError):
    """The work ran longer than its limit and was stopped."""

    category = Category.TIMEOUT


class WorkerCrashed(WorkError):
    """The worker process died in the middle of the work, or its libraries gave up on it without saying why."""

    category = Category.CRASH


class OutOfMemory(WorkError):
    """The work took more memory than it may."""

    category = Category.MEMORY


class NodeOutOfMemory(OutOfMemory):
    """Its node ran out of memory, and this work was chosen to be ended: what took the memory may have been another."""


class NodeLost(WorkError):
    """The node that did the work is gone, and took it along: nothing is said about the work."""

    category = Category.NODE


class StoreError(FanfoldError):
    """One of the three stores; always worth another try."""

    category = Category.STORE
    retryable = True


class StoreUnavailable(StoreError):
    """The store does not answer."""


class StoreRefused(StoreError):
    """The store answers, and refuses what was asked: an operator has to look at it; then another try helps."""


class StoreMismatch(StoreError):
    """Read back, the stores do not hold exactly this revision's chunks."""


class ObjectMissing(StoreError):
    """An object that an earlier step made durable is gone."""


class JobError(FanfoldError):
    """The job's state does not allow what was tried."""

    category = Category.JOB


class LeaseLost(JobError):
    """The job belongs to another holder or epoch: whoever catches this stops and touches nothing more."""


class CancelRequested(JobError):
    """Somebody asked for the job to stop."""


class DocumentGone(JobError):
    """The document was deleted, or a later revision has overtaken this one: this one must not be published."""


class AttemptsExhausted(JobError):
    """`FANFOLD_MAX_ATTEMPTS` attempts in a row brought no progress."""

    category = Category.CRASH
    retryable = True


class NotFound(FanfoldError):
    """No such thing, as far as this tenant may know."""

    category = Category.NOT_FOUND


class SourceNotKept(NotFound):
    """The document is there, its file is not: `FANFOLD_KEEP_SOURCE` was off when its ingestion ended."""


class Conflict(FanfoldError):
    """The thing exists, in a state that does not allow the request."""

    category = Category.CONFLICT


class NotEnded(Conflict):
    """It is for what has ended, and this has not: later it may be allowed."""

    retryable = True


class ReferenceNotAllowed(FanfoldError):
    """A document shall be fetched from where FANFOLD_SOURCE_URLS, or the store itself, does not allow it."""

    category = Category.CONFIGURATION


class IdempotencyKeyReused(FanfoldError):
    """The key came with other bytes before: the same request is not what was meant."""

    category = Category.CONFLICT


class ConfigurationError(FanfoldError):
    """A setting, or what is installed, does not fit; the message names it."""

    category = Category.CONFIGURATION
