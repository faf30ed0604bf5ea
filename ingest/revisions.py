"""A revision across stores that share no transaction: verify it, roll it back."""

from ingest import ids
from ingest.errors import StoreMismatch
from ingest.model import Revision
from ingest.stores import Stores


def verify(stores: Stores, revision: Revision, chunk_count: int) -> None:
    """Read both stores back. Raises `StoreMismatch` unless each holds exactly the manifest's ids."""
    manifest = set(ids.chunk_ids(revision.document_id, revision.number, chunk_count))
    chunks = stores.catalog.chunk_ids(revision.document_id, revision.number)
    points = stores.vectors.point_ids(revision.document_id, revision.number)
    if chunks != manifest or points != manifest:
        raise StoreMismatch(
            f"Read back, MongoDB holds {len(chunks)} chunks and Qdrant {len(points)} points instead of {chunk_count}."
        )


def confirm(stores: Stores, revision: Revision, chunk_count: int) -> None:
    """Remove what earlier attempts wrote of this revision and this one did not write over, then `verify`.

    Their rows are of other chunks: written late, after a change of settings. Raises `StoreMismatch` also where Qdrant
    has kept a point of a later epoch, which it does without a word: then MongoDB is older than it, a copy perhaps.
    """
    if revision.epoch > 1:
        _delete(stores, revision, up_to_epoch=revision.epoch - 1)
    verify(stores, revision, chunk_count)
    if stores.vectors.has_later(revision):
        raise StoreMismatch("Qdrant holds points of a later attempt than MongoDB knows. They are written again.")


def roll_back(stores: Stores, revision: Revision) -> None:
    """Remove what this attempt and those before it wrote of this revision from both stores, and count again.

    Rows of a later attempt stay: whoever calls this may have slept through its lease. Raises `StoreMismatch` when
    anything is still there.
    """
    _delete(stores, revision, up_to_epoch=revision.epoch)
    verify(stores, revision, chunk_count=0)


def _delete(stores: Stores, revision: Revision, *, up_to_epoch: int) -> None:
    stores.catalog.delete_revision(revision.document_id, revision.number, up_to_epoch=up_to_epoch)
    stores.vectors.delete_revision(revision.document_id, revision.number, up_to_epoch=up_to_epoch)
