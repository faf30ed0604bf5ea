"""What Serve imports: it refuses what cannot work, starts in order, and can be called again."""

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
import ray
from ray import serve

from cluster import deployment, service, supervisor
from cluster.composition import Blueprint
from cluster.embedded import NAMESPACE
from ingest.errors import ConfigurationError, Conflict, StoreUnavailable
from ingest.settings import Settings

ADDRESSES = {
    "FANFOLD_MONGODB_URI": "mongodb://db/",
    "FANFOLD_QDRANT_URL": "http://qdrant:6333",
    "FANFOLD_OBJECT_STORE_URL": "s3://bucket/prefix",
}
STEPS = ["refuse_dead_stores", "refuse_second_supervisor", "resolve", "prepare", "start_flags", "start_supervisors"]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A Ray node with every address set, and nothing else."""
    for name in [name for name in os.environ if name.startswith("FANFOLD_")]:
        monkeypatch.delenv(name)
    for name, value in ADDRESSES.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def steps(environment: pytest.MonkeyPatch) -> list[str]:
    """The steps that reach for stores or Ray, as they are taken."""
    taken: list[str] = []

    def step(name: str) -> Callable[..., Any]:
        def take(*_args: Any, **_kwargs: Any) -> Any:
            taken.append(name)
            return Blueprint(Settings(), MagicMock(), 384) if name == "resolve" else None

        return take

    for name in STEPS:
        environment.setattr(deployment, name, step(name))
    return taken


def test_it_starts_everything_in_order_and_returns_the_application(steps: list[str]) -> None:
    """Stores answer and are prepared before a supervisor claims; called again, as Serve does, it does the same."""
    assert isinstance(deployment.build({}), serve.Application)
    assert steps == STEPS
    assert isinstance(deployment.build({}), serve.Application)
    assert steps == STEPS * 2


@pytest.mark.parametrize("name", ADDRESSES)
def test_embedded_stores_are_refused_by_name(steps: list[str], environment: pytest.MonkeyPatch, name: str) -> None:
    """They serve one machine; nothing was started when it says so."""
    environment.delenv(name)
    with pytest.raises(ConfigurationError, match=f"Set {name} on every Ray node"):
        deployment.build({})
    assert steps == []


def test_arguments_are_refused(steps: list[str]) -> None:
    """Settings in the Serve config's `args` would be ignored without a word."""
    with pytest.raises(ConfigurationError, match="mongodb_uri"):
        deployment.build({"mongodb_uri": "mongodb://elsewhere/"})
    assert steps == []


def test_an_open_address_is_refused(steps: list[str], environment: pytest.MonkeyPatch) -> None:
    """As by `fanfold up`: nobody would check who calls."""
    environment.setenv("FANFOLD_HTTP_HOST", "0.0.0.0")
    with pytest.raises(ConfigurationError, match="FANFOLD_HTTP_HOST"):
        deployment.build({})
    assert steps == []


def test_nothing_starts_before_the_stores_answer(steps: list[str], environment: pytest.MonkeyPatch) -> None:
    """The error names the store; no supervisor runs against half of them."""

    def dead(_settings: Settings) -> None:
        raise StoreUnavailable("MongoDB does not answer. See FANFOLD_MONGODB_URI.")

    environment.setattr(deployment, "refuse_dead_stores", dead)
    with pytest.raises(StoreUnavailable, match="FANFOLD_MONGODB_URI"):
        deployment.build({})
    assert steps == []


@pytest.mark.parametrize(("nodes", "refused"), [(["head"], False), (["head", "worker"], True)])
def test_embedded_stores_join_no_cluster_of_several_nodes(
    environment: pytest.MonkeyPatch, nodes: list[str], *, refused: bool
) -> None:
    """A worker on another node would look for the objects on its own disk."""
    asked = MagicMock()
    environment.setattr(service, "places", lambda: nodes)
    environment.setattr(service, "refuse_second_supervisor", asked)
    environment.delenv("FANFOLD_OBJECT_STORE_URL")
    if refused:
        with pytest.raises(ConfigurationError, match="Set FANFOLD_OBJECT_STORE_URL on every Ray node"):
            service.refuse_to_join(Settings())
    else:
        service.refuse_to_join(Settings())
    assert asked.called is not refused


@pytest.mark.parametrize(("owner", "refused"), [("0a", False), ("0b", True), ("0c", False), ("0d", True)])
def test_only_another_running_fanfold_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, owner: str, *, refused: bool
) -> None:
    """A supervisor of this Ray job (0a) is replaced, as is a dead job's (0c); a running other one's (0b) is not.

    Nor is one of a job that Ray does not list (0d): a deployed application's, which belongs to Ray's dashboard.
    """
    context = MagicMock(gcs_address="here:6379")
    context.get_job_id.return_value = "0a"
    found = MagicMock(ray_namespace=NAMESPACE, job_id=owner)
    jobs = [MagicMock(job_id="0a", status="RUNNING"), MagicMock(job_id="0b", status="RUNNING")]
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(supervisor, "list_jobs", lambda **_: [*jobs, MagicMock(job_id="0c", status="FAILED")])
    monkeypatch.setattr(supervisor, "list_actors", lambda **_: [found])
    if refused:
        with pytest.raises(Conflict, match="fanfold down"):
            supervisor.refuse_second_supervisor()
    else:
        assert supervisor.refuse_second_supervisor() is None  # type: ignore[func-returns-value]  # it returns at all
