"""What the Ray cluster has."""

import ray


def cluster_cpus() -> int:
    """CPUs of the whole cluster, at least one."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return max(1, int(resources.get("CPU", 1)))
