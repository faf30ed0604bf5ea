"""The database's clock, as this process counts it on."""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from pymongo.database import Database

from ingest.stores import clock
from ingest.stores.clock import Clock

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def test_it_shows_the_servers_time(database: Database[dict[str, Any]]) -> None:
    """Within a second of what the server itself says, also where it is counted on."""
    ours = Clock(database)
    for _ in range(3):
        servers = database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
        assert abs(ours.now() - servers) < timedelta(seconds=1)


def test_it_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that was long on its way shows a time that is over: what was told before stands."""
    monkeypatch.setattr(clock, "READ_AGAIN_S", 0)
    database = MagicMock()
    shown = iter([NOON, NOON - timedelta(seconds=2), NOON + timedelta(seconds=1)])
    database.client.admin.command.side_effect = lambda _command: {"localTime": next(shown)}
    ours = Clock(database)
    assert [ours.now() for _ in range(3)] == [NOON, NOON, NOON + timedelta(seconds=1)]
