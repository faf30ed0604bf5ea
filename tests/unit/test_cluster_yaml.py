"""`cluster.yaml` is what Ray's cluster launcher takes, and its nodes can do what Fanfold asks of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import fillout_defaults, prepare_config, validate_config

from cluster import tasks

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    """The file, as the launcher completes it."""
    loaded: dict[str, Any] = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    return loaded


def test_the_launcher_accepts_the_file(config: dict[str, Any]) -> None:
    """Ray's own schema and rules, the ones that `ray up` applies."""
    validate_config(config)
    assert fillout_defaults(config)["cluster_name"] == "fanfold"


def test_the_launcher_refuses_a_broken_file(config: dict[str, Any]) -> None:
    """The check above can fail: a head node type that does not exist is refused."""
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(config | {"head_node_type": "nobody"})


def test_every_task_fits_on_some_worker(config: dict[str, Any]) -> None:
    """The CPUs that a page takes are offered by workers, and the head offers none to page work."""
    types = config["available_node_types"]
    offered = {name: kind["resources"] for name, kind in types.items()}
    work: list[Any] = [tasks.inspect, tasks.read_page, tasks.cut, tasks.store]
    asked = max(task._default_options["num_cpus"] for task in work)
    assert offered["head"]["CPU"] == 0
    assert offered["cpu_worker"]["CPU"] >= asked
    assert offered["gpu_worker"]["GPU"] >= 1
