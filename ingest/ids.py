"""Deterministic names: the same bytes, revision and position always get the same id and the same object key.

Because a retry computes the names it used before, it overwrites what it wrote and can never duplicate it.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping


def document_id(tenant: str, sha256: str) -> str:
    """32 hex digits of sha256(tenant NUL sha256-of-the-bytes): one document per tenant and content."""
    return hashlib.sha256(f"{tenant}\0{sha256}".encode()).hexdigest()[:32]


def chunk_id(document_id: str, revision: int, chunk_index: int) -> str:
    """UUID of the first 16 bytes of sha256("document:revision:index"); MongoDB `_id` and Qdrant point id alike."""
    digest = hashlib.sha256(f"{document_id}:{revision}:{chunk_index}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16]))


def chunk_ids(document_id: str, revision: int, count: int) -> list[str]:
    """The manifest of a revision: the ids of its `count` chunks, in order."""
    return [chunk_id(document_id, revision, index) for index in range(count)]


def fingerprint(inputs: Mapping[str, object]) -> str:
    """16 hex digits that change exactly when one of `inputs` changes; order does not matter."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def source_key(document_id: str) -> str:
    """Where the uploaded bytes wait until the document is published."""
    return f"sources/{document_id}.pdf"


def checkpoint_prefix(document_id: str) -> str:
    """Everything that any pipeline ever derived from the document lies below this key."""
    return f"checkpoints/{document_id}/"


def extract_prefix(document_id: str, fingerprint: str) -> str:
    """Below it, all that `extract` leaves: the text of every page."""
    return f"{checkpoint_prefix(document_id)}{fingerprint}/"


def inspection_key(document_id: str, fingerprint: str) -> str:
    """One row a page: its route, and the text of every page that has a good text layer."""
    return f"{extract_prefix(document_id, fingerprint)}inspection.parquet"


def pages_prefix(document_id: str, fingerprint: str) -> str:
    """Below it, `{page_number:06d}.parquet`: the text that OCR read from one page."""
    return f"{extract_prefix(document_id, fingerprint)}pages/"


def chunks_key(document_id: str, fingerprint: str) -> str:
    """All chunks of the document, one row group an embedding batch."""
    return f"{checkpoint_prefix(document_id)}{fingerprint}/chunks.parquet"


def vectors_prefix(document_id: str, fingerprint: str) -> str:
    """Below it, `{batch:06d}.parquet`: the vectors of one batch of chunks."""
    return f"{checkpoint_prefix(document_id)}{fingerprint}/vectors/"
