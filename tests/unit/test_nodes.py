"""What is read of the Ray cluster's nodes."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster import nodes

HEAD: dict[str, Any] = {
    "NodeID": "head",
    "NodeManagerAddress": "10.0.0.1",
    "Alive": True,
    "Resources": {nodes.HEAD: 1.0},
}
READER: dict[str, Any] = {
    "NodeID": "reader",
    "NodeManagerAddress": "10.0.0.2",
    "Alive": True,
    "Resources": {"CPU": 4.0},
}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the calling process onto a node, which knows the cluster by some address."""

    def put(node: str, address: str) -> None:
        context = SimpleNamespace(gcs_address=address, get_node_id=lambda: node)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(ray, "nodes", lambda: [READER, HEAD])

    return put


@pytest.mark.parametrize(("node", "address"), [("head", "10.0.0.1:6379"), ("reader", "fanfold-head-svc:6379")])
def test_every_node_calls_the_cluster_the_same(on: Any, node: str, address: str) -> None:
    """A node that was told to join by a host name keeps that; orders and peers are found under one name."""
    on(node, address)
    assert nodes.cluster_address() == "10.0.0.1:6379"


def test_a_process_has_its_own_nodes_cpus(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the whole cluster's; where Ray gives out none, as many as the container may use of its host's."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    monkeypatch.setattr("joblib.externals.loky.backend.context._cpu_count_cgroup", lambda _host: 2)  # its quota
    on("reader", "10.0.0.1:6379")
    assert nodes.own_cpus() == 4
    on("head", "10.0.0.1:6379")
    assert nodes.own_cpus() == 2
