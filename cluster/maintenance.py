"""The stores of this data directory for a maintenance command, whether Fanfold runs on it or not."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import ray
from pydantic import SecretStr
from qdrant_client import QdrantClient

from cluster.composition import open_stores, qdrant_client
from cluster.embedded import EMBEDDED_QDRANT_URL, EmbeddedMongoDB
from cluster.instance import addresses_of_instance, only_instance
from ingest.errors import ConfigurationError, Conflict
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.vectors import COLLECTION_PREFIX, QdrantApi


@contextmanager
def maintenance_stores(settings: Settings) -> Iterator[Stores]:
    """The stores, for the length of the block.

    Stores with an address are called there. Embedded ones are reached through the Fanfold that runs, or, when none
    does, started for this block, in which none can start.
    """
    objects = settings.object_store_url or Path(settings.home / "objects").as_uri()
    settings = settings.model_copy(update={"object_store_url": objects})
    with ExitStack() as stack:
        if settings.mongodb_uri is None or settings.qdrant_url is None:
            try:
                stack.enter_context(only_instance(settings.home, task="fsck"))
            except Conflict:
                settings, qdrant = _join(stack, settings)
            else:
                settings, qdrant = _start(stack, settings)
        else:
            qdrant = qdrant_client(settings)
        yield open_stores(settings, qdrant, f"{COLLECTION_PREFIX}maintenance")  # looks at every collection of ours


def _join(stack: ExitStack, settings: Settings) -> tuple[Settings, QdrantApi]:
    """The embedded stores of the Fanfold that runs here."""
    addresses = addresses_of_instance(settings.home)
    if settings.mongodb_uri is None:
        if addresses.mongodb_uri is None:
            raise ConfigurationError(
                "The Fanfold that runs here uses another MongoDB: set FANFOLD_MONGODB_URI as there."
            )
        settings = settings.model_copy(update={"mongodb_uri": SecretStr(addresses.mongodb_uri)})
    if settings.qdrant_url is None:
        settings = settings.model_copy(update={"qdrant_url": EMBEDDED_QDRANT_URL})
        try:
            ray.init(address=addresses.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise Conflict("The Ray of the Fanfold that runs here does not answer. Restart it: fanfold down") from None
        stack.callback(ray.shutdown)
    return settings, qdrant_client(settings)


def _start(stack: ExitStack, settings: Settings) -> tuple[Settings, QdrantApi]:
    """The embedded stores without Ray: a MongoDB process, and Qdrant's files opened in this one."""
    if settings.mongodb_uri is None:
        mongodb = EmbeddedMongoDB(settings.home / "mongodb")
        stack.callback(mongodb.stop)
        mongodb.start()
        settings = settings.model_copy(update={"mongodb_uri": SecretStr(mongodb.uri)})
    if settings.qdrant_url is not None:
        return settings, qdrant_client(settings)
    try:
        client = QdrantClient(path=str(settings.home / "qdrant"))
    except RuntimeError as error:
        raise Conflict(
            "Another process has the embedded Qdrant open: a Ray that outlived its Fanfold? Stop it with: ray stop"
        ) from error
    stack.callback(client.close)
    return settings, cast(QdrantApi, client)
