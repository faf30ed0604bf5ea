"""What the stores on MongoDB share: the connection, and what its errors mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, ExecutionTimeout, WTimeoutError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ingest.errors import StoreUnavailable

Record = Mapping[str, Any]
SERVER_SELECTION_TIMEOUT_MS = 5_000
SOCKET_TIMEOUT_MS = 60_000


def connect(uri: str, database: str) -> Database[dict[str, Any]]:
    """The database, with UTC-aware instants, majority writes and majority reads; connects on first use."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        uri,
        tz_aware=True,
        serverSelectionTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
        socketTimeoutMS=SOCKET_TIMEOUT_MS,
        appname="fanfold",
    )
    return client.get_database(database, write_concern=WriteConcern(w="majority"), read_concern=ReadConcern("majority"))


def database_time(database: Database[dict[str, Any]]) -> datetime:
    """The database's clock: the only one by which leases and waits are judged."""
    local_time: datetime = database.client.admin.command("hello")["localTime"]
    return local_time.replace(tzinfo=UTC)


@contextmanager
def mongo_errors() -> Iterator[None]:
    """Turn "the server does not answer" into `StoreUnavailable`; every other error passes."""
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout, WTimeoutError) as error:
        raise StoreUnavailable(f"MongoDB does not answer: {type(error).__name__}.") from error
