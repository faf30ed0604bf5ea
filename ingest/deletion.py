"""Deleting a document: hidden at once, stopped, then swept by its last job (docs/adr/0006)."""

from ingest.model import Document
from ingest.stores import Stores


def delete(stores: Stores, tenant: str, document_id: str) -> Document:
    """Hide the document, and see to it that nothing of it stays. Raises `NotFound`. Repeating it changes nothing.

    When this returns, no search and no listing shows it. Its job, if one is at work, stops. Chunks, points,
    checkpoints and source go when the supervisor claims the document's last job once more, and again a while later.
    """
    document = stores.catalog.tombstone(tenant, document_id, deleted_at=stores.jobs.now())
    latest = stores.jobs.latest(document_id)
    if latest is not None:
        stores.jobs.request_cancel(latest.job_id)
        stores.jobs.request_sweep(latest.job_id)
    return document
