"""What the stores on MongoDB share: the connection, and what its errors mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dns.exception import DNSException
from dns.resolver import NXDOMAIN, NoAnswer
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    CursorNotFound,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    WTimeoutError,
)
from pymongo.errors import ConfigurationError as NoAddress
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ingest.errors import ConfigurationError, StoreRefused, StoreUnavailable

Record = Mapping[str, Any]
PASSING = frozenset({134, 202, 262, 290})  # no majority yet, no time, no ticket: gone by itself, mongo error_codes.yml
SERVER_SELECTION_TIMEOUT_MS = 5_000
SOCKET_TIMEOUT_MS = 60_000


def connect(uri: str, database: str) -> Database[dict[str, Any]]:
    """The database, with UTC-aware instants, majority writes and majority reads; connects on first use.

    Raises `ConfigurationError` where the address is none, and `StoreUnavailable` where DNS cannot tell the servers
    of a mongodb+srv address. Neither repeats anything of it, nor does what it comes from: a password that is not
    percent-encoded is taken for any other part, a host name included.
    """
    try:
        client: MongoClient[dict[str, Any]] = MongoClient(
            uri,
            tz_aware=True,
            serverSelectionTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
            socketTimeoutMS=SOCKET_TIMEOUT_MS,
            appname="fanfold",
        )
    except (NoAddress, ValueError) as error:
        asked = error.__cause__  # DNS, for the servers of a mongodb+srv address
        answer = f"DNS answers {type(asked).__name__}"
        if isinstance(asked, DNSException) and not isinstance(asked, NXDOMAIN | NoAnswer):
            raise StoreUnavailable(f"MongoDB's servers are not to be found for the moment: {answer}.") from None
        why = "such as mongodb://USER:PASSWORD@HOST/" if asked is None else answer
        raise ConfigurationError(
            f"FANFOLD_MONGODB_URI is not an address of MongoDB: {why}. Percent-encode user name and password."
        ) from None
    return client.get_database(database, write_concern=WriteConcern(w="majority"), read_concern=ReadConcern("majority"))


@contextmanager
def mongo_errors() -> Iterator[None]:
    """Turn "the server does not answer" into `StoreUnavailable`, and what it refuses into `StoreRefused`.

    A duplicate key passes: who writes one expects it.
    """
    try:
        yield
    except DuplicateKeyError:
        raise
    except BulkWriteError as error:
        if not error.details["writeErrors"]:  # all was done, and not by a majority yet
            raise StoreUnavailable("MongoDB does not answer: no majority has confirmed the writes.") from error
        raise StoreRefused(f"MongoDB refuses a write: code {error.details['writeErrors'][0]['code']}.") from error
    except (ConnectionFailure, ExecutionTimeout, WTimeoutError, CursorNotFound) as error:
        raise StoreUnavailable(f"MongoDB does not answer: {type(error).__name__}.") from error
    except OperationFailure as error:
        name = (error.details or {}).get("codeName", type(error).__name__)
        if error.code in PASSING:
            raise StoreUnavailable(f"MongoDB does not answer: {name}.") from error
        raise StoreRefused(f"MongoDB refuses what it is asked: {name}.") from error


def update_and_read(
    collection: Collection[dict[str, Any]], condition: Record, update: Record, then: Record
) -> dict[str, Any] | None:
    """Update the one record with the condition's `_id`, if it meets the condition; the record afterwards, or None.

    What is read is no older than the update, and may be newer; where it does not meet `then` any more, it is None.
    Two calls, because the embedded server walks through the whole collection for a `find_one_and_update`
    (docs/adr/0008).
    """
    if not collection.update_one(condition, update).matched_count:
        return None
    return collection.find_one({"_id": condition["_id"], **then})
