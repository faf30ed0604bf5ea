"""The roster: which supervisors work on the queue, and what those of a Ray cluster are ordered to do.

Nothing that is exact depends on it: leases decide who holds a job. It is how `drain` reaches supervisors wherever they
run, however often they are started again meanwhile, and knows that they have obeyed.
"""

from datetime import timedelta
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, ConfigDict, Field
from pymongo import ASCENDING
from pymongo.database import Database

from ingest.faults import fault_point
from ingest.model import Record
from ingest.stores.clock import Clock
from ingest.stores.mongo import mongo_errors

FORGOTTEN_AFTER = timedelta(days=1)


class Order(StrEnum):
    """What the supervisors of a Ray cluster shall do."""

    WORK = "work"
    DRAIN = "drain"  # take no more jobs; what runs may end
    GIVE_BACK = "give_back"  # take no more jobs; what runs goes back to the queue


class Standing(Record):
    """The order that stands. Each one has a higher number than those before it, so that none is taken for another."""

    order: Order = Order.WORK
    number: int = 0


class Presence(Record):
    """A supervisor, as it last reported."""

    holder: str = Field(alias="_id")
    cluster: str  # address of its Ray cluster
    version: str  # of its code
    obeys: int  # number of the order that it has acted on: it claims nothing that this order forbids
    running: int  # jobs that it holds
    readers: int  # of these, the jobs that have pages to read
    expires_at: AwareDatetime | None = None  # when it counts as gone unless it reports again; on the database's clock

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Roster:
    """Supervisors report here; `drain` gives orders."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._clock = Clock(database)
        self._present = database["supervisors"]
        self._orders = database["orders"]

    def prepare(self) -> None:
        """Create the index that lets those that are long gone be forgotten; safe to repeat and to race."""
        with mongo_errors():
            seconds = int(FORGOTTEN_AFTER.total_seconds())
            self._present.create_index([("expires_at", ASCENDING)], expireAfterSeconds=seconds, name="forgotten")

    @fault_point("roster.standing")
    def standing(self, cluster: str) -> Standing:
        """The order that stands for this Ray cluster."""
        with mongo_errors():
            found = self._orders.find_one({"_id": cluster})
        return Standing.model_validate(found or {})

    @fault_point("roster.command")
    def command(self, cluster: str, order: Order) -> Standing:
        """Give an order; it stands until the next one, also for supervisors that start later."""
        change = {"$set": {"order": order}, "$inc": {"number": 1}}
        with mongo_errors():
            self._orders.update_one({"_id": cluster}, change, upsert=True)
        return self.standing(cluster)

    @fault_point("roster.report")
    def report(self, presence: Presence, *, good_for: timedelta) -> None:
        """Say that this supervisor is there, and will be taken to be for so long."""
        with mongo_errors():
            said = presence.model_dump(exclude={"holder"})
            said["expires_at"] = self._clock.now() + good_for
            self._present.update_one({"_id": presence.holder}, {"$set": said}, upsert=True)

    @fault_point("roster.present")
    def present(self, cluster: str | None = None) -> list[Presence]:
        """The supervisors that are there, of one Ray cluster or of all."""
        with mongo_errors():
            condition: dict[str, Any] = {"expires_at": {"$gt": self._clock.now()}}
            found = self._present.find(condition if cluster is None else condition | {"cluster": cluster})
            return [Presence.model_validate(record) for record in found]

    @fault_point("roster.leave")
    def leave(self, holder: str) -> None:
        """This supervisor has stopped."""
        with mongo_errors():
            self._present.delete_one({"_id": holder})
