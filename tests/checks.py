"""What every end of a job must mean, asked of the stores themselves."""

from ingest import ids
from ingest.stores import Stores
from serve.schemas import JobView


def assert_published_exactly(stores: Stores, job: JobView, *, complete: bool = True) -> None:
    """MongoDB's chunk ids = Qdrant's point ids = the manifest; nothing else is left, unless pages are missing."""
    document = stores.catalog.document("default", job.document_id)
    manifest = set(ids.chunk_ids(job.document_id, job.revision, document.chunk_count))
    assert document.published_revision == job.revision
    assert stores.catalog.chunk_ids(job.document_id, job.revision) == manifest
    assert stores.vectors.point_ids(job.document_id, job.revision) == manifest
    assert (stores.objects.keys(ids.checkpoint_prefix(job.document_id)) == []) is complete
    assert stores.objects.exists(ids.source_key(job.document_id)) is not complete


def assert_nothing_left(stores: Stores, document_id: str, revision: int) -> None:
    """No chunk, no point, no checkpoint, no source."""
    assert stores.catalog.chunk_ids(document_id, revision) == set()
    assert stores.vectors.point_ids(document_id, revision) == set()
    assert stores.objects.keys(ids.checkpoint_prefix(document_id)) == []
    assert not stores.objects.exists(ids.source_key(document_id))
