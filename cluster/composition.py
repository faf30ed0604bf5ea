"""The composition root: settings become addresses, addresses become stores. Nothing else connects to anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from pydantic import SecretStr
from qdrant_client import QdrantClient

from cluster.embedded import EMBEDDED_QDRANT_URL, EmbeddedQdrant
from ingest import faults
from ingest.activities import Activities
from ingest.errors import ConfigurationError, StoreError
from ingest.fingerprints import pipeline_of
from ingest.model import PipelineSpec
from ingest.references import References
from ingest.settings import Settings
from ingest.stages.embedding import embedding_dimension, max_tokens
from ingest.stages.models import embedding_model_path
from ingest.stores import Stores, mongo
from ingest.stores.catalog import Catalog
from ingest.stores.held import HeldJob
from ingest.stores.jobs import JobStore
from ingest.stores.objects import DirectoryStore, S3Store, open_object_store
from ingest.stores.receipts import ReceiptStore
from ingest.stores.roster import Roster
from ingest.stores.vectors import COLLECTION_PREFIX, QdrantApi, VectorStore, collection_name
from ingest.telemetry import configure_logging

QDRANT_TIMEOUT_S = 30
ADDRESSES = ("mongodb_uri", "qdrant_url", "object_store_url")
STORE_CLASSES = (JobStore, HeldJob, Catalog, ReceiptStore, Roster, VectorStore, DirectoryStore, S3Store)
ARMED_CLASSES = (*STORE_CLASSES, Activities, References)


@dataclass(frozen=True)
class Blueprint:
    """What every process of one deployment is built from. Small, hashable, and safe to send between processes."""

    settings: Settings  # every store's address is set
    pipeline: PipelineSpec = field(hash=False)
    dimension: int

    @property
    def collection(self) -> str:
        """The Qdrant collection of the embedding model."""
        return collection_name(self.settings.embedding_model, self.dimension)


def resolve(settings: Settings, *, mongodb_uri: str | None) -> Blueprint:
    """Fill in the embedded stores' addresses where none is set, and look at the models."""
    home = settings.home
    addresses = {
        "data_dir": home,
        "mongodb_uri": settings.mongodb_uri or SecretStr(_required(mongodb_uri)),
        "qdrant_url": settings.qdrant_url or EMBEDDED_QDRANT_URL,
        "object_store_url": settings.object_store_url or Path(home / "objects").as_uri(),
    }
    resolved = settings.model_copy(update=addresses)
    dimension = embedding_dimension(embedding_model_path(resolved.embedding_model), resolved.embedding_revision)
    return Blueprint(settings=resolved, pipeline=pipeline_of(resolved), dimension=dimension)


@lru_cache(maxsize=1)
def connect(blueprint: Blueprint) -> Stores:
    """This process's stores; connected once."""
    return open_stores(blueprint.settings, qdrant_client(blueprint.settings), blueprint.collection)


def open_stores(settings: Settings, qdrant: QdrantApi, collection: str) -> Stores:
    """The stores at the addresses in the settings; vectors behind this client, in this collection."""
    if settings.mongodb_uri is None or settings.object_store_url is None:
        raise ConfigurationError("The settings were not resolved: a store has no address.")
    database = mongo.connect(settings.mongodb_uri.get_secret_value(), settings.mongodb_database)
    return Stores(
        jobs=JobStore(database, lease_ttl_s=settings.lease_ttl_s, job_timeout_s=settings.job_timeout_s),
        catalog=Catalog(database),
        vectors=VectorStore(qdrant, collection),
        objects=open_object_store(settings.object_store_url, s3_endpoint_url=settings.s3_endpoint_url),
        receipts=ReceiptStore(database),
        roster=Roster(database),
    )


@lru_cache(maxsize=1)
def enter(blueprint: Blueprint) -> Stores:
    """What every process that Fanfold starts (task, actor, replica) does first: log, arm faults, connect."""
    settings = blueprint.settings
    configure_logging(settings.log_level)
    if settings.faults is not None:
        faults.arm(settings.faults, ARMED_CLASSES)
    return connect(blueprint)


@lru_cache(maxsize=1)
def activities(blueprint: Blueprint) -> Activities:
    """This process's activities, with the models and PDFs that they keep open."""
    return Activities(enter(blueprint), blueprint.settings)


def prepare(blueprint: Blueprint) -> None:
    """Create indexes and the collection where they are missing."""
    stores = connect(blueprint)
    stores.jobs.prepare()
    stores.catalog.prepare()
    stores.receipts.prepare()
    stores.roster.prepare()
    stores.vectors.prepare(blueprint.dimension)


def refuse_dead_stores(settings: Settings) -> None:
    """Raise `StoreUnavailable` or `StoreRefused`, naming the setting, when a store with an address does not answer."""
    if settings.mongodb_uri is not None:
        with _naming("FANFOLD_MONGODB_URI"):
            Catalog(mongo.connect(settings.mongodb_uri.get_secret_value(), settings.mongodb_database)).ping()
    if settings.qdrant_url is not None:
        with _naming("FANFOLD_QDRANT_URL"):
            vectors = VectorStore(qdrant_client(settings), COLLECTION_PREFIX)
            vectors.ping()
            vectors.check_version()
    if settings.object_store_url is not None:
        with _naming("FANFOLD_OBJECT_STORE_URL"):
            open_object_store(settings.object_store_url, s3_endpoint_url=settings.s3_endpoint_url).ping()


def refuse_embedded_stores(settings: Settings) -> None:
    """Raise `ConfigurationError`, naming the settings, unless every store has an address."""
    unset = [f"FANFOLD_{name.upper()}" for name in ADDRESSES if getattr(settings, name) is None]
    if unset:
        raise ConfigurationError(f"Embedded stores serve one machine only. Set {', '.join(unset)} on every Ray node.")


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise type(error)(f"{error.message} See {setting}.") from error


def refuse_truncation(settings: Settings) -> None:
    """Raise `ConfigurationError` when chunks would be longer than the embedding model reads."""
    longest = max_tokens(embedding_model_path(settings.embedding_model), settings.embedding_revision)
    if longest is not None and settings.chunk_tokens > longest:
        raise ConfigurationError(
            f"FANFOLD_CHUNK_TOKENS={settings.chunk_tokens} is more than the {longest} tokens that "
            f"{settings.embedding_model} reads: the end of every chunk would not be found."
        )


def qdrant_client(settings: Settings) -> QdrantApi:
    """The client of the Qdrant that the settings name: a server's, or the actor's."""
    if settings.qdrant_url == EMBEDDED_QDRANT_URL:
        return cast(QdrantApi, EmbeddedQdrant())
    key = None if settings.qdrant_api_key is None else settings.qdrant_api_key.get_secret_value()
    return QdrantClient(url=settings.qdrant_url, api_key=key, timeout=QDRANT_TIMEOUT_S, check_compatibility=False)


def _required(address: str | None) -> str:
    if address is None:
        raise ConfigurationError("Set FANFOLD_MONGODB_URI, or let `fanfold up` start the embedded MongoDB.")
    return address
