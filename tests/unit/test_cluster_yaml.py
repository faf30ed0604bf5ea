"""`cluster.yaml` is what Ray's cluster launcher takes, and its nodes can do what Fanfold asks of them."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster import tasks
from cluster.embedder_actor import EmbedderActor
from ingest.settings import Settings

FILE = Path(__file__).parents[2] / "cluster.yaml"
MADE_BY_THE_USER = {"dist", "~/.ray/auth_token"}  # the file's head says how


@pytest.fixture
def config() -> dict[str, Any]:
    """The file, as the launcher completes it."""
    loaded: dict[str, Any] = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    return loaded


def test_the_launcher_accepts_the_file(config: dict[str, Any]) -> None:
    """Ray's own schema and rules, the ones that `ray up` applies; workers can come and go."""
    validate_config(config)
    workers = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    assert all(kind["min_workers"] < kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) <= config["max_workers"]


def test_the_launcher_refuses_a_broken_file(config: dict[str, Any]) -> None:
    """The check above can fail: a head node type that does not exist is refused."""
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(config | {"head_node_type": "nobody"})


def test_every_task_fits_on_some_worker(config: dict[str, Any]) -> None:
    """The CPUs that a page takes are offered by workers, and the head offers none to page work."""
    offered = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    work: list[Any] = [tasks.on_cpu, tasks.cut, tasks.store, EmbedderActor]
    asked = max(task._default_options["num_cpus"] for task in work)
    assert asked >= 1
    assert offered["head"]["CPU"] == 0
    assert offered["cpu_worker"]["CPU"] >= asked
    assert "GPU" not in offered["cpu_worker"]  # page work does not start the dear machines
    assert offered["gpu_worker"]["GPU"] >= 1


def test_every_ray_that_is_started_asks_for_the_token(config: dict[str, Any]) -> None:
    """`ray start` turns authentication on only when told; the token is on every node; the dashboard stays inside."""
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("export RAY_AUTH_MODE=token;") for command in starts)
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_head_starts_fanfold_and_gives_an_earlier_one_time_to_stop(config: dict[str, Any]) -> None:
    """`ray up` alone brings the service up, detached from the launcher's shell; again, it first gives the jobs back."""
    commands = config["head_start_ray_commands"]
    order = ["fanfold down", "ray stop", "ray start --head", "fanfold up"]
    assert [next(word for word in order if word in command) for command in commands] == order
    assert re.search(r"setsid --fork nohup fanfold up .*< /dev/null", commands[-1])
    assert commands[-1].startswith(". ~/fanfold.env;")
    assert not any("fanfold" in command for command in config["worker_start_ray_commands"])


def test_what_is_copied_is_in_the_repository(config: dict[str, Any]) -> None:
    """Every mount is a file of this checkout, or one that the instructions at the head of the file make."""
    mounted = set(config["file_mounts"].values()) - MADE_BY_THE_USER
    assert {source for source in mounted if not (FILE.parent / source).exists()} == set()


def test_the_settings_are_ours_and_name_every_store(config: dict[str, Any]) -> None:
    """No variable is misspelt, the values parse, and no store is left embedded: that serves one machine only."""
    assigned = dict(re.findall(r'export (FANFOLD_\w+)="?([^"\n]+)', "\n".join(config["head_setup_commands"])))
    named = {name.removeprefix("FANFOLD_").lower(): value for name, value in assigned.items()}
    assert set(named) <= set(Settings.model_fields)
    settings = Settings.model_validate(named)
    assert None not in {settings.mongodb_uri, settings.qdrant_url, settings.object_store_url}


def test_the_nodes_run_the_ray_that_fanfold_is_made_for(config: dict[str, Any]) -> None:
    """A driver joins only a cluster of its own Ray and Python version."""
    images = [config["docker"]["image"], config["available_node_types"]["gpu_worker"]["docker"]["worker_image"]]
    assert all(f":{version('ray')}-py311" in image for image in images)
