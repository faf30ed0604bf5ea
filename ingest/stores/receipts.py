"""Receipts: which job a submit with an idempotency key was given, so that repeating it gives the same answer."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ASCENDING
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from ingest.errors import IdempotencyKeyReused, StoreUnavailable
from ingest.faults import fault_point
from ingest.model import Receipt
from ingest.stores.mongo import mongo_errors

KEPT_FOR = timedelta(days=1)
RESERVE_TRIES = 3


class ReceiptStore:
    """One receipt a tenant and key, kept for a day; the first that is written stands."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._receipts = database["receipts"]

    def prepare(self) -> None:
        """Create the index that lets old receipts expire; safe to repeat and to race."""
        with mongo_errors():
            self._receipts.create_index(
                [("created_at", ASCENDING)], expireAfterSeconds=int(KEPT_FOR.total_seconds()), name="kept_for_a_day"
            )

    @fault_point("receipts.reserve")
    def reserve(self, tenant: str, key: str, sha256: str) -> Receipt:
        """The key's receipt for these bytes; a new one names no job yet. Safe to race.

        Raises `IdempotencyKeyReused` when the key came with other bytes before.
        """
        fresh = {
            "_id": hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest(),
            "sha256": sha256,
            "job_id": None,
            "created": False,
            "created_at": datetime.now(UTC),
        }
        receipt = self._first(fresh)
        if receipt.sha256 != sha256:
            raise IdempotencyKeyReused("This Idempotency-Key came with another file before. Use a new one.")
        return receipt

    @fault_point("receipts.fill")
    def fill(self, receipt: Receipt, *, job_id: str, created: bool) -> Receipt:
        """Name the job, unless somebody with the same key has just named one; the receipt as it stands."""
        named = {"job_id": job_id, "created": created}
        with mongo_errors():
            self._receipts.update_one({"_id": receipt.receipt_id, "job_id": None}, {"$set": named})
            found = self._receipts.find_one({"_id": receipt.receipt_id})
        return receipt.model_copy(update=named) if found is None else Receipt.model_validate(found)

    def _first(self, fresh: Mapping[str, Any]) -> Receipt:
        """The receipt that is there, or this one."""
        with mongo_errors():
            for _ in range(RESERVE_TRIES):
                try:
                    self._receipts.insert_one(dict(fresh))
                except DuplicateKeyError:
                    found = self._receipts.find_one({"_id": fresh["_id"]})
                    if found is not None:  # else it expired in this moment
                        return Receipt.model_validate(found)
                else:
                    return Receipt.model_validate(fresh)
        raise StoreUnavailable("The Idempotency-Key could not be recorded. Try again.")
