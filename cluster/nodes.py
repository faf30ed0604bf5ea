"""What the Ray cluster has."""

from typing import Any

import ray


def cluster_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return max(1, int(resources.get("CPU", 1)))


def largest_node_cpus() -> int:
    """CPUs of the node that has most of them: who takes so many shares its node with nobody who takes any."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return max([1, *(int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"])])
