"""The stores: MongoDB (jobs, catalog, receipts, roster), Qdrant (vectors), objects. None imports another."""

from dataclasses import dataclass

from ingest.stores.catalog import Catalog
from ingest.stores.jobs import JobStore
from ingest.stores.objects import ObjectStore
from ingest.stores.receipts import ReceiptStore
from ingest.stores.roster import Roster
from ingest.stores.vectors import VectorStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one process, as the composition root connected them."""

    jobs: JobStore
    catalog: Catalog
    vectors: VectorStore
    objects: ObjectStore
    receipts: ReceiptStore
    roster: Roster
