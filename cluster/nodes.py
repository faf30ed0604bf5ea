"""What the Ray cluster has."""

from typing import Any

import ray

HEAD = "node:__internal_head__"  # a resource that only the head has


def cluster_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return max(1, int(resources.get("CPU", 1)))


def cluster_address() -> str:
    """The Ray cluster's address, the same on every node: a node itself keeps whatever name it was told to join by."""
    [head] = [node["NodeManagerAddress"] for node in _alive() if HEAD in node["Resources"]]
    port = ray.get_runtime_context().gcs_address.rpartition(":")[2]
    return f"{head}:{port}"


def own_cpus() -> int:
    """CPUs of the calling process's node: as many as Ray gives out there; where it gives out none, all of them.

    A container has as many as its quota, whatever its host has.
    """
    import joblib  # noqa: PLC0415  # only embedders pay for it

    here = ray.get_runtime_context().get_node_id()
    given_out = sum(_cpus(node) for node in _alive() if node["NodeID"] == here)
    return given_out or int(joblib.cpu_count())


def largest_node_cpus() -> int:
    """CPUs of the node that has most of them: who takes so many shares its node with nobody who takes any."""
    return max([1, *(_cpus(node) for node in _alive())])


def is_alive(node_id: str) -> bool:
    """Whether Ray takes the node to be there; after a silent death it does so for some seconds."""
    return any(node["NodeID"] == node_id for node in _alive())


def places() -> list[str]:
    """The nodes that are there, the head first."""
    return [node["NodeID"] for node in sorted(_alive(), key=lambda node: HEAD not in node["Resources"])]


def _cpus(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return [node for node in nodes if node["Alive"]]
