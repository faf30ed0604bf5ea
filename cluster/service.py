"""One running Fanfold: Ray, the embedded stores, the supervisor, the HTTP interface; started and stopped in order."""

import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from cluster.accounting import job_ended
from cluster.composition import (
    Blueprint,
    enter,
    prepare,
    refuse_dead_stores,
    refuse_embedded_stores,
    refuse_truncation,
    resolve,
)
from cluster.embedded import EmbeddedMongoDB, start_embedded_qdrant, stop_embedded_qdrant
from cluster.flags import raise_flag, start_flags, stop_flags
from cluster.instance import Addresses
from cluster.nodes import cluster_address, places
from cluster.ports import free_port, is_free, why_not_free
from cluster.supervisor import probe_supervisors, refuse_second_supervisor, start_supervisors, stop_supervisors
from cluster.views import RayPageViewer
from ingest.errors import ConfigurationError
from ingest.references import References
from ingest.settings import LOOPBACK, Settings
from ingest.stores.roster import Order
from ingest.telemetry import get_logger
from serve.admission import Admission
from serve.app import APP_NAME, EmbedQuery, application
from serve.intake import proxy_environment
from serve.service import Service

OBJECT_STORE_BYTES = 256 * 1024**2  # Ray's own; Fanfold moves keys through it, not data
IDLE_WORKERS_PER_CPU = 4  # OCR models take seconds to load: keep their processes
READY_TIMEOUT_S = 120.0
CALM_SERVE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # 5 s otherwise: a busy machine's proxies need more
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # 0.1 s otherwise: a third of what an idle Fanfold takes of a core
}
READY_POLL_S = 0.2
CONNECT_TIMEOUT_S = 5.0
Report = Callable[[str], None]
log = get_logger()


@dataclass(frozen=True, slots=True)
class Running:
    """What `fanfold up` has to say, and to look after."""

    blueprint: Blueprint
    dashboard_url: str
    addresses: Addresses
    mongodb: EmbeddedMongoDB | None

    def keep_alive(self) -> None:
        """Start again what has died and does not restart by itself."""
        if self.mongodb is not None and self.mongodb.keep_alive():
            log.error("the embedded MongoDB had died and was started again")


@contextmanager
def running(settings: Settings, report: Report = lambda _step: None) -> Iterator[Running]:
    """Everything, up and ready for the length of the block. `report` hears each step in words."""
    refuse_open_address(settings)
    _refuse_taken_port(settings)
    refuse_truncation(settings)
    report("looking for the stores")
    refuse_dead_stores(settings)
    with ExitStack() as stack:
        report("Ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `python` in a Ray job is this one
        on_stop = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        joined = _join_ray(settings)
        ray_context = _start_ray(settings) if joined is None else joined
        stack.callback(ray.shutdown)
        signal.signal(signal.SIGTERM, on_stop)  # Ray's own prints its stack and ends in an abort
        if joined is not None:
            refuse_to_join(settings)
        report("embedded stores")
        mongodb = _start_embedded_stores(settings, stack)
        report("models")
        blueprint = resolve(settings, mongodb_uri=None if mongodb is None else mongodb.uri)
        prepare(blueprint)
        report("supervisor and HTTP interface")
        stack.callback(_stop_serve, leave_ray=joined is not None)
        _start_serve(blueprint)
        stack.callback(stop_flags)
        start_flags()
        stack.callback(stop_supervisors)
        start_supervisors(blueprint)
        _wait_until_ready(settings)
        addresses = Addresses(
            ray_address=cluster_address(),
            ray_auth_mode=os.environ.get("RAY_AUTH_MODE"),  # Ray chooses it when it starts
            mongodb_uri=None if mongodb is None else mongodb.uri,
        )
        yield Running(blueprint, f"http://{ray_context.dashboard_url}", addresses, mongodb)


def connect_service(blueprint: Blueprint, embed_query: EmbedQuery) -> Service:
    """What a replica of the HTTP interface works with."""
    stores = enter(blueprint)
    cluster = cluster_address()

    def draining() -> bool:
        return stores.roster.standing(cluster).order is not Order.WORK

    return Service(
        stores=stores,
        pipeline=blueprint.pipeline,
        settings=blueprint.settings,
        admission=Admission(blueprint.settings, stores.jobs.count_waiting, draining),
        references=References(blueprint.settings.source_urls, s3_endpoint_url=blueprint.settings.s3_endpoint_url),
        viewer=RayPageViewer(blueprint),
        embed_query=embed_query,
        hint_cancel=raise_flag,
        report_end=job_ended,
        probes={
            "mongodb": stores.catalog.ping,
            "qdrant": stores.vectors.ping,
            "object_store": stores.objects.ping,
            "supervisor": probe_supervisors,
        },
    )


def refuse_to_join(settings: Settings) -> None:
    """Raise `ConfigurationError` or `Conflict` when the Ray cluster that was found cannot be Fanfold's too."""
    if len(places()) > 1:
        refuse_embedded_stores(settings)
    refuse_second_supervisor()


def refuse_open_address(settings: Settings) -> None:
    """Raise `ConfigurationError` when FANFOLD_HTTP_HOST would let callers in whom nobody checks."""
    if settings.http_host not in LOOPBACK and not settings.api_keys:
        raise ConfigurationError(
            f"FANFOLD_HTTP_HOST={settings.http_host} would let everybody on the network in. Make a key with `fanfold "
            "key TENANT` and set FANFOLD_API_KEYS, or stay on 127.0.0.1."
        )


def _refuse_taken_port(settings: Settings) -> None:
    error = why_not_free(settings.http_host, settings.http_port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise ConfigurationError(
            f"Port {settings.http_port} is taken by another program. Set FANFOLD_HTTP_PORT to a free one."
        )
    raise ConfigurationError(
        f"Nothing can listen at FANFOLD_HTTP_HOST={settings.http_host}, FANFOLD_HTTP_PORT={settings.http_port}: "
        f"{error.strerror}."
    )


def _refuse_dead_address(address: str) -> None:
    """Ray itself would try for minutes. Addresses of other forms (`auto`, `ray://`) are left to it."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        raise ConfigurationError(f"No Ray cluster answers at FANFOLD_RAY_ADDRESS={address}.") from None


def _join_ray(settings: Settings) -> Any:
    """Join the cluster that is named or found; None where one is to be started."""
    if settings.ray_address == "local":
        return None
    if settings.ray_address is not None:
        _refuse_dead_address(settings.ray_address)
    try:
        return ray.init(address=settings.ray_address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        if settings.ray_address is None:
            return None
        raise ConfigurationError(f"No Ray cluster answers at FANFOLD_RAY_ADDRESS={settings.ray_address}.") from None


def _start_ray(settings: Settings) -> Any:
    wanted = settings.dashboard_port
    dashboard_port = wanted if is_free("127.0.0.1", wanted) else free_port()
    idle_workers = IDLE_WORKERS_PER_CPU * (settings.num_cpus or os.cpu_count() or 1)
    with _inherited(proxy_environment(settings) | CALM_SERVE):
        return ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=dashboard_port,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _system_config={"num_workers_soft_limit": idle_workers},
        )


@contextmanager
def _inherited(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that start within the block have these environment variables; this one has its own again after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_embedded_stores(settings: Settings, stack: ExitStack) -> EmbeddedMongoDB | None:
    """Start those that have no address; they stop with the stack."""
    if settings.qdrant_url is None:
        stack.callback(stop_embedded_qdrant)
        start_embedded_qdrant(settings.home / "qdrant")
    if settings.mongodb_uri is not None:
        return None
    mongodb = EmbeddedMongoDB(settings.home / "mongodb")
    stack.callback(mongodb.stop)
    mongodb.start()
    return mongodb


def _start_serve(blueprint: Blueprint) -> None:
    """Deploy the application; its models load while the caller goes on."""
    settings = blueprint.settings
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.http_host, "port": settings.http_port},
        logging_config=quiet,
    )
    target = serve.RunTarget(
        application(settings, partial(connect_service, blueprint)), name=APP_NAME, logging_config=quiet
    )
    serve.run_many([target], wait_for_applications_running=False)


def _stop_serve(*, leave_ray: bool) -> None:
    """Let replicas finish what they answer, then end them; Serve too, where Ray goes on and nobody else uses it."""
    try:
        serve.delete(APP_NAME)
    except RayServeException:
        return  # it was stopped before Serve had started
    if leave_ray and not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray ships it untyped


def _wait_until_ready(settings: Settings) -> None:
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    answer = "nothing"
    while time.monotonic() < give_up_at:
        try:
            response = httpx.get(f"{settings.http_url}/readyz", timeout=READY_TIMEOUT_S, trust_env=False)
        except httpx.TransportError as error:
            answer = type(error).__name__
        else:
            if response.status_code == httpx.codes.OK:
                return
            answer = response.text
        time.sleep(READY_POLL_S)
    raise ConfigurationError(f"The service does not become ready; {settings.http_url}/readyz says: {answer}")
