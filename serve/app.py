"""Ray Serve: the API's replicas, and the one model they may use, the query embedder."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from ingest.errors import StoreUnavailable
from ingest.settings import Settings
from ingest.stages.embedding import Embedder
from ingest.stages.models import embedding_model_path
from ingest.telemetry import configure_logging
from serve.asgi import create_app
from serve.service import Service
from serve.uploads import remove_abandoned

APP_NAME = "fanfold"
MAX_ONGOING_QUERIES = 100
MAX_ONGOING_REQUESTS = 1_000  # a client that follows a job, or waits for it, holds one
EmbedQuery = Callable[[str], Any]
Connect = Callable[[EmbedQuery], Service]


@serve.deployment(name="QueryEmbedder", max_ongoing_requests=MAX_ONGOING_QUERIES, ray_actor_options={"num_cpus": 0})
class QueryEmbedder:
    """Embeds queries in a process of its own, so that ingestion never makes a search wait."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level)
        self._embedder = Embedder.load(
            embedding_model_path(settings.embedding_model),
            revision=settings.embedding_revision,
            precision=settings.embedding_precision,
            threads=1,
        )

    def embed(self, query: str) -> list[float]:
        """The query's vector."""
        return self._embedder.embed_query(query)


@serve.deployment(name="Api", max_ongoing_requests=MAX_ONGOING_REQUESTS, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Api:
    """A replica of the HTTP interface. Connects its own stores; parses no PDF and loads no model."""

    def __init__(self, connect: Connect, embedder: DeploymentHandle[Any]) -> None:
        async def embed_query(query: str) -> list[float]:
            try:
                vector: list[float] = await embedder.embed.remote(query)
            except (RayError, RayServeException) as error:
                if isinstance(error, RayTaskError):  # it is there, and says what is wrong
                    raise
                raise StoreUnavailable("The query embedder does not answer.") from error
            return vector

        remove_abandoned()
        self._service = connect(embed_query)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service)


def application(settings: Settings, connect: Connect) -> serve.Application:
    """The Serve application; `connect` makes each replica's service from the function that embeds a query."""
    api: Any = Api  # Ray types its decorator as returning the class; it returns a Deployment
    query_embedder: Any = QueryEmbedder
    bound: serve.Application = api.bind(connect, query_embedder.bind(settings))
    return bound
