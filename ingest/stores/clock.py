"""The database's clock: the only one by which leases and waits are judged."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from ingest.stores.mongo import mongo_errors

READ_AGAIN_S = 1.0  # between two readings this machine's monotonic clock counts on
MILLISECOND = 1_000  # what MongoDB keeps of an instant, in microseconds


class Clock:
    """Reads the server's clock once a second at the most, and counts on from there; it never goes back.

    Never ahead of the server by more than two clocks drift apart within a second, and behind it by the reply's way
    back at the most. Behind is the safe side: leases that are granted end earlier, leases of others are taken later.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._admin = database.client.admin
        self._read: tuple[float, datetime] | None = None  # when, by the monotonic clock, and what it showed
        self._latest = datetime.min.replace(tzinfo=UTC)  # that was told

    def now(self) -> datetime:
        """The time on the server. Raises `StoreUnavailable` when it has to be asked and does not answer."""
        self._latest = max(self._latest, self._look())  # a reply that was long on its way shows an earlier time
        return self._latest

    def _look(self) -> datetime:
        read = self._read
        if read is not None and time.monotonic() - read[0] < READ_AGAIN_S:
            instant = read[1] + timedelta(seconds=time.monotonic() - read[0])
            return instant.replace(microsecond=instant.microsecond // MILLISECOND * MILLISECOND)
        with mongo_errors():
            shown: datetime = self._admin.command("hello")["localTime"]
        shown = shown.replace(tzinfo=UTC)
        self._read = time.monotonic(), shown
        return shown
