"""A revision across two stores that share no transaction: verify it, roll it back, collect what it replaced."""

from ingest import ids
from ingest.errors import StoreMismatch
from ingest.model import Revision
from ingest.stores import Stores


def missing_chunks(stores: Stores, revision: Revision, chunk_count: int) -> set[int]:
    """The chunk indexes of the manifest that either store lacks."""
    chunks = stores.catalog.chunk_ids(revision.document_id, revision.number)
    points = stores.vectors.point_ids(revision.document_id, revision.number)
    manifest = ids.chunk_ids(revision.document_id, revision.number, chunk_count)
    return {index for index, chunk_id in enumerate(manifest) if chunk_id not in chunks or chunk_id not in points}


def verify(stores: Stores, revision: Revision, chunk_count: int) -> None:
    """Read both stores back. Raises `StoreMismatch` unless each holds exactly the manifest's ids."""
    manifest = set(ids.chunk_ids(revision.document_id, revision.number, chunk_count))
    chunks = stores.catalog.chunk_ids(revision.document_id, revision.number)
    points = stores.vectors.point_ids(revision.document_id, revision.number)
    if chunks != manifest or points != manifest:
        raise StoreMismatch(
            f"Read back, MongoDB holds {len(chunks)} chunks and Qdrant {len(points)} points instead of {chunk_count}."
        )


def roll_back(stores: Stores, revision: Revision) -> None:
    """Remove this revision's rows, no other's, from both stores, and count again.

    Raises `StoreMismatch` when something is still there.
    """
    stores.catalog.delete_revision(revision.document_id, revision.number)
    stores.vectors.delete_revision(revision.document_id, revision.number)
    verify(stores, revision, chunk_count=0)


def collect_rows(stores: Stores, revision: Revision) -> None:
    """Remove the older revisions that a published one replaced."""
    stores.catalog.delete_older_revisions(revision.document_id, revision.number)
    stores.vectors.delete_older_revisions(revision.document_id, revision.number)


def discard_objects(stores: Stores, document_id: str, *, keep_source: bool = False) -> None:
    """Remove every checkpoint of the document, key by key, then (unless kept) its source.

    Only for a document whose job is still open: no other job exists that could need any of it.
    """
    for key in stores.objects.keys(ids.checkpoint_prefix(document_id)):
        stores.objects.delete(key)
    if not keep_source:
        stores.objects.delete(ids.source_key(document_id))
