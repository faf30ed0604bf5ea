"""Stores without a service, for benchmarks of what works on them."""

from pathlib import Path

from pydantic import SecretStr
from qdrant_client import QdrantClient

from cluster.composition import open_stores
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.vectors import collection_name

NOWHERE = "mongodb://127.0.0.1:1"  # connects on first use: what asks for no job and no chunk needs none


def local_stores(home: Path, *, mongodb_uri: str = NOWHERE) -> Stores:
    """Objects in files below `home`, vectors in memory, and MongoDB at that address."""
    settings = Settings(
        data_dir=home, mongodb_uri=SecretStr(mongodb_uri), object_store_url=(home / "objects").absolute().as_uri()
    )
    return open_stores(settings, QdrantClient(":memory:"), collection_name(settings.embedding_model, 0))
