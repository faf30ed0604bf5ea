"""What the HTTP interface refuses by itself, beside the errors of `ingest`; `problems.py` gives each its status."""

from ingest.errors import Conflict, FanfoldError, InputError


class Unauthorized(FanfoldError):
    """No API key came with the request, or one that nobody has."""


class Forbidden(FanfoldError):
    """Whoever the caller is, this is not allowed here."""


class CrossSite(Forbidden):
    """A page of another site wants to change something here."""


class Misdirected(FanfoldError):
    """The request names a host that this service is not called by: a page that rebinds its name to this machine."""


class UnsupportedMediaType(FanfoldError):
    """The body is of none of the types that a submit takes."""


class LengthRequired(InputError):
    """A body of unknown length where none is taken."""


class MissingFile(InputError):
    """A form without the field `file`, or one that cannot be read."""


class UnknownField(InputError):
    """A field that a submit does not have: what it says would be lost without a word."""


class BadReference(InputError):
    """A body that does not say where the document is."""


class BadCursor(InputError):
    """The cursor was not one that an earlier answer gave."""


class StaleCursor(Conflict):
    """The cursor leads into a revision of the document that is not the published one any more."""


class BadIdempotencyKey(InputError):
    """The key is longer than is kept, or came with several files."""


class Draining(FanfoldError):
    """An operator is about to stop the service: it takes nothing new; the same request succeeds after its restart."""

    retryable = True


class ServiceFull(FanfoldError):
    """The service has as much to do as it may take on; the same request succeeds later."""

    retryable = True
