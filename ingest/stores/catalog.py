"""The catalog: documents and their chunks, in MongoDB."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from pymongo import ASCENDING, DESCENDING, ReplaceOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from ingest import ids
from ingest.errors import LeaseLost, NotFound, StoreUnavailable
from ingest.faults import fault_point
from ingest.metadata import Conditions, Metadata, mongo_filter
from ingest.model import Chunk, Document, Revision, StoredChunk
from ingest.stores.mongo import mongo_errors

NO_CONDITIONS: Conditions = {}
DUPLICATE_KEY = 11000  # mongo error_codes.yml


class Catalog:
    """Documents by tenant, and chunks by document and revision. Only published revisions are shown to readers."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._documents = database["documents"]
        self._chunks = database["chunks"]

    def prepare(self) -> None:
        """Create the indexes where they are missing; safe to repeat and to race."""
        with mongo_errors():
            self._documents.create_index([("tenant", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)])
            self._chunks.create_index(
                [("document_id", ASCENDING), ("revision", ASCENDING), ("chunk_index", ASCENDING)], unique=True
            )

    @fault_point("catalog.register")
    def register(self, document: Document) -> Document:
        """Add the document, or return the one that is there; a deleted one comes back as new. Safe to race."""
        fresh = document.model_dump(by_alias=True, exclude={"document_id"})
        revived = {"deleted_at": None, "published_revision": None, "chunk_count": 0}
        revived |= {name: fresh[name] for name in ("filename", "created_at")}
        with mongo_errors():
            with suppress(DuplicateKeyError):  # somebody else has just added it
                self._documents.update_one({"_id": document.document_id}, {"$setOnInsert": fresh}, upsert=True)
            self._documents.update_one({"_id": document.document_id, "deleted_at": {"$ne": None}}, {"$set": revived})
        return self.document(document.tenant, document.document_id)

    @fault_point("catalog.describe")
    def describe(self, document_id: str, metadata: Metadata) -> None:
        """Replace what is said about the document, unless it is deleted."""
        with mongo_errors():
            self._documents.update_one({"_id": document_id, "deleted_at": None}, {"$set": {"metadata": metadata}})

    @fault_point("catalog.document")
    def document(self, tenant: str, document_id: str) -> Document:
        """The tenant's document. Raises `NotFound`, also for a deleted one."""
        with mongo_errors():
            found = self._documents.find_one({"_id": document_id, "tenant": tenant, "deleted_at": None})
        if found is None:
            raise NotFound(f"There is no document {document_id}.")
        return Document.model_validate(found)

    @fault_point("catalog.documents")
    def documents(
        self, tenant: str, document_ids: Iterable[str], conditions: Conditions = NO_CONDITIONS
    ) -> dict[str, Document]:
        """Those of the documents that the tenant has, that are not deleted and fulfil the conditions, by id."""
        condition = {"_id": {"$in": list(document_ids)}, "tenant": tenant, "deleted_at": None}
        with mongo_errors():
            records = self._documents.find({**mongo_filter(conditions), **condition})
            found = [Document.model_validate(record) for record in records]
        return {document.document_id: document for document in found}

    @fault_point("catalog.find")
    def find(
        self, tenant: str, *, limit: int, published: bool | None = None, before: tuple[datetime, str] | None = None
    ) -> list[Document]:
        """The tenant's documents that are not deleted, newest first, from the one behind (`created_at`, id) `before`.

        With `published`, only those that readers find something of, or only the others.
        """
        condition: dict[str, Any] = {"tenant": tenant, "deleted_at": None}
        if published is not None:
            condition["published_revision"] = {"$ne": None} if published else None
        if before is not None:
            created_at, document_id = before
            older = [{"created_at": {"$lt": created_at}}, {"created_at": created_at, "_id": {"$lt": document_id}}]
            condition["$or"] = older
        with mongo_errors():
            found = self._documents.find(condition).sort([("created_at", DESCENDING), ("_id", DESCENDING)])
            return [Document.model_validate(record) for record in found.limit(limit)]

    @fault_point("catalog.documents_with")
    def documents_with(
        self, tenant: str, conditions: Conditions, *, limit: int, document_ids: Sequence[str] | None = None
    ) -> list[str]:
        """The ids of at most `limit` published documents of the tenant whose metadata fulfil the conditions.

        In no order; with `document_ids`, only those. Reads all of the tenant's documents: metadata have no index.
        """
        condition: dict[str, Any] = {"tenant": tenant, "deleted_at": None, "published_revision": {"$ne": None}}
        if document_ids is not None:
            condition["_id"] = {"$in": list(document_ids)}
        with mongo_errors():
            found = self._documents.find({**mongo_filter(conditions), **condition}, {"_id": 1}).limit(limit)
            return [record["_id"] for record in found]

    @fault_point("catalog.advance")
    def advance(self, document_id: str, revision: int, *, epoch: int = 0) -> None:
        """Make this the latest revision, and the attempt of this epoch the latest at it, unless later ones are known.

        From then on no earlier one publishes. Repeating changes nothing. Epoch 0: submitted, not attempted yet.
        """
        attempt = {"revision": revision, "epoch": epoch}  # MongoDB compares field by field, in this order
        with mongo_errors():
            self._documents.update_one(
                {"_id": document_id}, {"$max": {"latest_revision": revision, "latest_attempt": attempt}}
            )

    @fault_point("catalog.publish")
    def publish(self, revision: Revision, *, page_count: int, chunk_count: int) -> bool:
        """Make the revision's chunks visible, all at once; False when it is not the latest attempt, or deleted.

        Publishing a published revision again changes nothing and returns True.
        """
        condition = {
            "_id": revision.document_id,
            "latest_revision": revision.number,  # an older Fanfold advances nothing else
            "latest_attempt.revision": revision.number,
            "latest_attempt.epoch": revision.epoch,
            "deleted_at": None,
        }
        shown = {"published_revision": revision.number, "page_count": page_count, "chunk_count": chunk_count}
        with mongo_errors():
            result = self._documents.update_one(condition, {"$set": shown})
        return result.matched_count == 1

    @fault_point("catalog.tombstone")
    def tombstone(self, tenant: str, document_id: str, *, deleted_at: datetime) -> Document:
        """Mark the tenant's document as deleted: from now on no reader sees it and no revision of it is published.

        Marking it again changes nothing. Raises `NotFound` when there never was one.
        """
        gone: dict[str, Any] = {"deleted_at": deleted_at, "published_revision": None, "chunk_count": 0, "metadata": {}}
        with mongo_errors():
            self._documents.update_one({"_id": document_id, "tenant": tenant, "deleted_at": None}, {"$set": gone})
            found = self._documents.find_one({"_id": document_id, "tenant": tenant})
        if found is None:
            raise NotFound(f"There is no document {document_id}.")
        return Document.model_validate(found)

    def unpublish(self, document_id: str, revision: int) -> bool:
        """Hide the document if this revision is the one that is shown; False, and nothing changed, when it is not."""
        with mongo_errors():
            result = self._documents.update_one(
                {"_id": document_id, "published_revision": revision},
                {"$set": {"published_revision": None, "chunk_count": 0}},
            )
        return result.matched_count == 1

    def document_ids(self) -> Iterator[str]:
        """The id of every document of every tenant, deleted ones too."""
        with mongo_errors():
            yield from (record["_id"] for record in self._documents.find({}, {"_id": 1}))

    @fault_point("catalog.known")
    def known(self, document_id: str) -> Document | None:
        """The document, whoever's it is, and also when it is deleted; None when there never was one."""
        with mongo_errors():
            found = self._documents.find_one({"_id": document_id})
        return None if found is None else Document.model_validate(found)

    def revisions(self) -> Iterator[tuple[str, int]]:
        """Document id and revision of everything that has at least one chunk, counted by the server."""
        group = {"$group": {"_id": {"document_id": "$document_id", "revision": "$revision"}, "count": {"$sum": 1}}}
        with mongo_errors():
            for record in self._chunks.aggregate([group], allowDiskUse=True):
                yield record["_id"]["document_id"], record["_id"]["revision"]

    @fault_point("catalog.upsert_chunks")
    def upsert_chunks(self, revision: Revision, chunks: Sequence[Chunk]) -> None:
        """Write the chunks under this revision, invisible until it is published; repeating changes nothing.

        Fenced by the revision's epoch: no chunk of a later attempt is replaced. Raises `LeaseLost` where there is one.
        """
        records = [_chunk_record(revision, chunk) for chunk in chunks]
        fence = {"epoch": {"$lte": revision.epoch}}
        writes = [ReplaceOne({"_id": record["_id"], **fence}, record, upsert=True) for record in records]
        with mongo_errors():
            try:
                self._chunks.bulk_write(writes, ordered=False)
            except BulkWriteError as error:
                refused = {failed["code"] for failed in error.details["writeErrors"]}
                if refused == {DUPLICATE_KEY}:
                    self._refuse_late(revision, error)
                raise

    def _refuse_late(self, revision: Revision, error: BulkWriteError) -> NoReturn:
        """Chunks are there that the fence hides, or that a twin of this attempt has just written."""
        later = {"document_id": revision.document_id, "revision": revision.number, "epoch": {"$gt": revision.epoch}}
        if self._chunks.find_one(later) is not None:
            raise LeaseLost("A later attempt has written chunks of this revision.") from error
        raise StoreUnavailable("Chunks were written twice at the same moment: to be written again.") from error

    @fault_point("catalog.chunk_ids")
    def chunk_ids(self, document_id: str, revision: int) -> set[str]:
        """The ids of every chunk of this revision, read back from the store."""
        with mongo_errors():
            found = self._chunks.find({"document_id": document_id, "revision": revision}, {"_id": 1})
            return {record["_id"] for record in found}

    @fault_point("catalog.chunks")
    def chunks(self, document: Document, *, limit: int, after: int = -1) -> list[StoredChunk]:
        """The published chunks in order, from the one behind chunk index `after`; none of an unpublished document."""
        if document.published_revision is None:
            return []
        condition = {
            "document_id": document.document_id,
            "revision": document.published_revision,
            "chunk_index": {"$gt": after},
        }
        with mongo_errors():
            found = self._chunks.find(condition).sort("chunk_index", ASCENDING).limit(limit)
            return [StoredChunk.model_validate(record) for record in found]

    @fault_point("catalog.chunks_by_id")
    def chunks_by_id(self, tenant: str, chunk_ids: Sequence[str]) -> Mapping[str, StoredChunk]:
        """Those of the chunks that the tenant has, by id."""
        with mongo_errors():
            found = self._chunks.find({"_id": {"$in": list(chunk_ids)}, "tenant": tenant})
            return {record["_id"]: StoredChunk.model_validate(record) for record in found}

    @fault_point("catalog.delete_revision")
    def delete_revision(self, document_id: str, revision: int, *, up_to_epoch: int | None = None) -> None:
        """Remove this revision's chunks; with `up_to_epoch`, none that a later attempt wrote."""
        condition: dict[str, Any] = {"document_id": document_id, "revision": revision}
        if up_to_epoch is not None:
            condition["epoch"] = {"$lte": up_to_epoch}
        with mongo_errors():
            self._chunks.delete_many(condition)

    @fault_point("catalog.delete_other_revisions")
    def delete_other_revisions(self, document_id: str, *, up_to: int, shown: int | None) -> None:
        """Remove the chunks of every revision of the document up to this one, except the one that is shown."""
        with mongo_errors():
            self._chunks.delete_many({"document_id": document_id, "revision": {"$lte": up_to, "$ne": shown}})

    def ping(self) -> None:
        """Raise `StoreUnavailable` unless MongoDB answers."""
        with mongo_errors():
            self._documents.database.client.admin.command("ping")


def _chunk_record(revision: Revision, chunk: Chunk) -> dict[str, Any]:
    stored = StoredChunk(
        chunk_id=ids.chunk_id(revision.document_id, revision.number, chunk.chunk_index),
        document_id=revision.document_id,
        revision=revision.number,
        chunk_index=chunk.chunk_index,
        tenant=revision.tenant,
        text=chunk.text,
        first_page=chunk.first_page,
        last_page=chunk.last_page,
        token_count=chunk.token_count,
        epoch=revision.epoch,
    )
    return stored.model_dump(by_alias=True)
