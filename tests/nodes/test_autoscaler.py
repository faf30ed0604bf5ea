"""Ray's own autoscaler, the version that `ray up` and KubeRay start, with nodes that are processes of this machine."""

import json
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util import get_node_ip_address

from cluster.ports import free_port
from serve.client import Client
from tests.checks import assert_invariants
from tests.crash.machine import PATIENCE_S
from tests.crash.processes import until
from tests.nodes.conftest import MakeSite, Scan
from tests.nodes.site import OBJECT_STORE_BYTES, Site
from tests.nodes.test_lost_nodes import assert_undisturbed, pages_of
from tests.s3_server import S3Server

PAGES = 10
MOST_NODES = 2
IDLE_MINUTES = 0.1
OF_THE_HEAD = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class AutoscaledSite(Site):
    """Nodes of one CPU come and go as its autoscaler will; there is none at first."""

    def start_head(self, **options: Any) -> None:
        """The head, with an autoscaler beside it."""
        port, config = free_port(), self._home / "autoscaler.json"
        host = get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray ships it untyped
        config.write_text(json.dumps(_config(f"{host}:{port}")))
        override = OF_THE_HEAD | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        super().start_head(gcs_server_port=port, autoscaling_config=str(config), env_vars=override, **options)

    def nodes(self) -> int:
        """How many it has started that are there."""
        status = get_cluster_status(self.ray.address)
        return len([*status.active_nodes, *status.idle_nodes]) - 1

    def stop(self) -> None:
        """The nodes do not end with the autoscaler that started them."""
        [monitor] = self.head.ray_node.all_processes["monitor"]
        nodes = psutil.Process(monitor.process.pid).children(recursive=True)
        super().stop()
        for process in nodes:
            if process.is_running():
                process.kill()


def _config(gcs_address: str) -> dict[str, Any]:
    """What `cluster.yaml` says, but of nodes that are to be had here."""
    reader = {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES}
    module = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
    provider = {"type": "external", "module": module, "gcs_address": gcs_address, "launch_multiple": True}
    return {
        "cluster_name": "autoscaled",
        "provider": provider | {"head_node_id": FAKE_HEAD_NODE_ID},
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": IDLE_MINUTES,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        **{f"{whose}setup_commands": [] for whose in ("", "head_", "worker_")},
        **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
        "initialization_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "reader": {"resources": reader, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
        },
    }


@pytest.fixture(scope="module")
def site(make_site: MakeSite, s3: S3Server) -> Iterator[AutoscaledSite]:
    """A head with Fanfold on it, and no node that reads."""
    environment = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        site = make_site(AutoscaledSite, **s3.settings, FANFOLD_EMBEDDER_IDLE_S="2")
        site.fanfold.start()
        assert isinstance(site, AutoscaledSite)
        yield site


def test_nodes_come_for_pages_and_go_without(site: AutoscaledSite, s3: S3Server, scan: Scan) -> None:
    """From no node to as many as there may be and back, twice; no page is read twice, and none waits for ever."""
    assert site.nodes() == 0
    with Client(site.fanfold.url) as client:
        for _ in range(2):
            job = client.submit(scan(PAGES))
            until(lambda: site.nodes() == MOST_NODES, PATIENCE_S)
            assert_undisturbed(site.fanfold.finish(client, job.job_id))
            assert sorted(pages_of(s3, job.document_id).values()) == [1] * PAGES
            until(lambda: site.nodes() == 0, PATIENCE_S)
    assert_invariants(site.stores)
