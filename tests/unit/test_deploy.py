"""The files in `deploy/` are what their tools take, name only settings that exist, and agree with each other."""

import copy
import json
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import compose_spec
import jsonschema
import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from ingest.settings import Settings
from serve.app import APP_NAME, MAX_ONGOING_REQUESTS, application
from serve.intake import PROXY_CALLBACK, Intake

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = {f"FANFOLD_{name.upper()}" for name in Settings.model_fields}
STORES = {"FANFOLD_MONGODB_URI", "FANFOLD_QDRANT_URL", "FANFOLD_OBJECT_STORE_URL"}
WRITTEN_BY_HAND = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env"]
SECRET = re.compile(r"URI|KEY|SECRET|PASSWORD")
PROBED_BY_RAY = {8265: {"/api/gcs_healthz"}, 52365: {"/api/local_raylet_healthz"}, 8000: {"/-/healthz"}}
DURABLE = {"mongodb": "/data/db", "qdrant": "/qdrant/storage", "minio": "/data", "fanfold": "/home/fanfold/.fanfold"}


def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects, by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text("utf-8"))}


def serve_configs() -> dict[str, dict[str, Any]]:
    """The Serve configs, by the file that holds them."""
    return {
        "serve.yaml": yaml.safe_load((DEPLOY / "serve.yaml").read_text("utf-8")),
        "rayservice.yaml": yaml.safe_load(manifests()["RayService"]["spec"]["serveConfigV2"]),
    }


def groups() -> dict[str, dict[str, Any]]:
    """The head and the worker groups of the RayService."""
    cluster = manifests()["RayService"]["spec"]["rayClusterConfig"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def containers() -> Iterator[dict[str, Any]]:
    """Every container of the RayService."""
    for group in groups().values():
        yield from group["template"]["spec"]["containers"]


def services() -> dict[str, dict[str, Any]]:
    """The services of the Compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with what follows it."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("path", [ROOT / "cluster.yaml", *WRITTEN_BY_HAND], ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    """A misspelt FANFOLD_ variable would be ignored without a word."""
    named = set(re.findall(r"\bFANFOLD_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8")))
    assert named - SETTINGS == set()


@pytest.mark.parametrize("file", ["serve.yaml", "rayservice.yaml"])
def test_serve_accepts_the_config(file: str) -> None:
    """Ray's own schema, which ignores unknown fields, so that they are looked for here; and what it names exists."""
    config = serve_configs()[file]
    parsed = ServeDeploySchema.model_validate(config)
    assert _unknown_fields(config, parsed.model_dump(warnings=False)) == set()
    (one,) = parsed.applications
    assert (one.name, one.route_prefix) == (APP_NAME, "/")
    deployments = build_app(application(Settings(), _no_service), name=APP_NAME).deployments
    assert {deployment.name for deployment in one.deployments} == {deployment.name for deployment in deployments}
    [api] = [deployment for deployment in one.deployments if deployment.name == "Api"]
    assert api.max_ongoing_requests == MAX_ONGOING_REQUESTS  # a config's number goes before the code's


@pytest.mark.parametrize("file", ["serve.yaml", "rayservice.yaml"])
def test_the_import_path_is_a_builder(file: str) -> None:
    """As Serve's controller imports it: a function of one parameter, from a module that does nothing when imported."""
    builder = import_attr(serve_configs()[file]["applications"][0]["import_path"])
    assert (builder.__module__, builder.__name__, builder.__code__.co_argcount) == ("cluster.deployment", "build", 1)


def test_serve_refuses_a_broken_config() -> None:
    """The checks above can fail: a doubled application is refused, a misspelt field is found."""
    config = serve_configs()["serve.yaml"]
    with pytest.raises(ValueError, match="multiple configs"):
        ServeDeploySchema.model_validate(config | {"applications": config["applications"] * 2})
    misspelt = config | {"htp_options": {}}
    assert _unknown_fields(misspelt, ServeDeploySchema.model_validate(misspelt).model_dump(warnings=False)) == {
        "htp_options"
    }


def test_the_ray_service_has_the_form_that_kuberay_takes() -> None:
    """Required fields, no unknown ones; resources, probes and a security context on every container."""
    validate_ray_service(manifests()["RayService"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        (("spec", "rayClusterConfig", "headGroupSpecs"), {}),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplicas"), "1"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "resources"), {}),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "image"), "fanfold:latest"),
        (("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
    ids=["version", "misspelt", "type", "resources", "latest", "number"],
)
def test_a_broken_ray_service_is_refused(path: tuple[str | int, ...], value: object) -> None:
    """The schema can fail."""
    broken = copy.deepcopy(manifests()["RayService"])
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_ray_service(broken)


def test_the_ray_service_scales_between_its_bounds() -> None:
    """Workers start within their bounds; the head takes no page work, GPU workers wait until they are asked for."""
    for name, group in groups().items():
        if name != "head":
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], name
            assert group["minReplicas"] < group["maxReplicas"], name
    assert groups()["head"]["rayStartParams"]["num-cpus"] == groups()["gpu-worker"]["rayStartParams"]["num-cpus"] == "0"
    with_gpu = [name for name, group in groups().items() if "nvidia.com/gpu" in json.dumps(group["template"])]
    assert with_gpu == ["gpu-worker"]
    assert groups()["gpu-worker"]["minReplicas"] == 0


def test_requests_are_within_limits() -> None:
    """Kubernetes refuses a pod that asks for more than its limit; memory is asked for whole: none is evicted."""
    for container in containers():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert int(requests["cpu"]) <= int(limits["cpu"])
        assert requests["memory"] == limits["memory"]
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


def test_every_pod_runs_the_same_image_and_this_ray() -> None:
    """A driver joins only a cluster of its own Ray version; the image is the one that Compose builds."""
    (image,) = {container["image"] for container in containers()}
    tag = f"fanfold:{version('fanfold')}"
    assert image.endswith(f"/{tag}")
    assert services()["fanfold"]["image"] == tag
    assert manifests()["RayService"]["spec"]["rayClusterConfig"]["rayVersion"] == version("ray")


def test_every_pod_has_every_setting_and_no_secret_is_written_down() -> None:
    """Serve imports the application on any node, so each has all stores' addresses; secrets come by reference."""
    written = manifests()["ConfigMap"]["data"]
    assert [name for name in written if SECRET.search(name) and name != "FANFOLD_QDRANT_URL"] == []
    Settings.model_validate({name.removeprefix("FANFOLD_").lower(): value for name, value in written.items()})
    for container in containers():
        referred = {entry["name"] for entry in container["env"]}
        assert all("valueFrom" in entry for entry in container["env"])
        assert {entry["configMapRef"]["name"] for entry in container["envFrom"]} == {"fanfold"}
        assert (written.keys() | referred) >= STORES | {"FANFOLD_API_KEYS"}


def test_changed_settings_can_be_brought_to_every_pod() -> None:
    """What comes by reference is no change to KubeRay: one annotation of every pod is, the same everywhere."""
    versions = [group["template"]["metadata"]["annotations"]["fanfold/settings"] for group in groups().values()]
    assert len(versions) == len(groups())
    assert len(set(versions)) == 1


def test_workers_cannot_ask_kubernetes_for_anything() -> None:
    """They parse what strangers send; only the head's autoscaler needs to."""
    for name, group in groups().items():
        mounted = group["template"]["spec"].get("automountServiceAccountToken", True)
        assert mounted is (name == "head"), name


@pytest.mark.parametrize("path", [ROOT / "cluster.yaml", DEPLOY / "rayservice.yaml"], ids=lambda path: path.name)
def test_proxies_bound_what_is_uploaded(path: Path) -> None:
    """Where Ray is started before Fanfold, its environment names what stands before each proxy's first read."""
    [(variable, value)] = PROXY_CALLBACK.items()
    assert re.search(rf"{variable}(=|: ){value}\b", path.read_text("utf-8"))
    module, _, function = value.partition(":")
    assert [one.cls for one in getattr(import_module(module), function)()] == [Intake]


def test_the_address_that_fanfold_checks_is_the_one_that_serve_listens_on() -> None:
    """FANFOLD_HTTP_HOST and the Serve config say the same: otherwise an open address would pass as loopback."""
    written, listens = manifests()["ConfigMap"]["data"], serve_configs()["rayservice.yaml"]["http_options"]
    assert (written["FANFOLD_HTTP_HOST"], int(written["FANFOLD_HTTP_PORT"])) == (listens["host"], listens["port"])
    assert serve_configs()["serve.yaml"]["http_options"]["host"] == Settings().http_host


def test_probes_ask_what_ray_answers() -> None:
    """Each probe's port and path is one that Ray serves there, without its token; a head is ready without Serve."""
    for container in containers():
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[kind]["httpGet"]
            assert asked["path"] in PROBED_BY_RAY[asked["port"]]
    head = groups()["head"]["template"]["spec"]["containers"][0]
    assert head["readinessProbe"]["httpGet"]["port"] == 8265


def test_compose_accepts_the_file() -> None:
    """The Compose specification's own parser, which refuses unknown fields and undefined networks."""
    spec = compose_spec.PyCompose.from_yaml((DEPLOY / "compose.yaml").read_text("utf-8"))
    spec.validate()
    assert set(spec.service_names()) == {"mongodb", "mongodb-init", "qdrant", "minio", "minio-init", "fanfold"}
    with pytest.raises(ValueError, match="helthcheck"):
        compose_spec.PyCompose.from_yaml("services: {a: {image: 'b:1', helthcheck: {}}}")


def test_compose_keeps_what_must_last_and_lets_nobody_in() -> None:
    """Each store has its volume; the only published port is on loopback; the stores' network has no way out."""
    written = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    mounts = {name: dict(volume.split(":") for volume in one.get("volumes", ())) for name, one in services().items()}
    assert {name: mount.get(name) for name, mount in mounts.items() if mount} == DURABLE
    assert set(written["volumes"]) == set(DURABLE)
    assert {port for one in services().values() for port in one.get("ports", ())} == {"127.0.0.1:8000:8000"}
    assert written["networks"]["stores"]["internal"] is True
    assert {name for name, one in services().items() if "front" in one["networks"]} == {"fanfold"}


def test_compose_waits_for_what_is_needed() -> None:
    """What runs on has a health check (Fanfold's is in its image); what runs once is waited for until it succeeded."""
    lasting = {name: one for name, one in services().items() if one["restart"] == "unless-stopped"}
    assert {name for name, one in lasting.items() if "healthcheck" not in one} == {"fanfold"}
    conditions = {name: after["condition"] for name, after in services()["fanfold"]["depends_on"].items()}
    once = services().keys() - lasting.keys()
    assert {name for name, condition in conditions.items() if condition.endswith("successfully")} == once
    assert {after for name in once for after in services()[name]["depends_on"]} | conditions.keys() | {
        "fanfold"
    } == services().keys()


def test_compose_takes_every_secret_from_the_example_environment() -> None:
    """Every `${NAME}` is in `.env.example`, empty there, and required; no password stands in the file itself."""
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    example = (DEPLOY / ".env.example").read_text("utf-8")
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert asked == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    assert asked == set(re.findall(r"\$\{(\w+):\?", text))
    assert "deploy/.env" in (ROOT / ".gitignore").read_text("utf-8")
    environment = services()["fanfold"]["environment"]
    assert environment.keys() >= STORES | {"FANFOLD_API_KEYS"}
    literal = {name for name, value in environment.items() if SECRET.search(name) and "${" not in value}
    assert literal == {"AWS_ACCESS_KEY_ID"}


def test_images_are_pinned() -> None:
    """No `latest`, no image without a tag; Qdrant is among the three versions that the locked client is made for."""
    images = {one["image"] for one in services().values()} | {rest for word, rest in instructions() if word == "FROM"}
    assert all(re.search(r":[^:/]*\d", image) and "latest" not in image for image in images), images
    server = re.search(r":v(\d+)\.(\d+)", services()["qdrant"]["image"])
    assert server is not None
    major, minor = map(int, version("qdrant-client").split(".")[:2])
    assert int(server[1]) == major
    assert minor - 2 <= int(server[2]) <= minor


def test_the_image_is_built_from_the_lock_and_runs_as_nobody_special() -> None:
    """Copies exist and pass .dockerignore; versions are the lock's; the last user is a number above 0; it is probed."""
    written = instructions()
    copied = [source for word, rest in written if word == "COPY" for source in rest.split()[:-1]]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) == allowed
    assert any("--constraint requirements.lock" in rest for word, rest in written if word == "RUN")
    (user,) = [rest for word, rest in written if word == "USER"]
    assert int(user.split(":")[0]) == groups()["head"]["template"]["spec"]["securityContext"]["runAsUser"] > 0
    assert any(word == "HEALTHCHECK" and "/readyz" in rest for word, rest in written)
    assert written[-1] == ("CMD", '["fanfold", "up"]')


def validate_ray_service(manifest: dict[str, Any]) -> None:
    """Raise `ValidationError` unless the schema beside this file takes it."""
    schema = json.loads((Path(__file__).parent / "schemas" / "rayservice.json").read_text("utf-8"))
    jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)


def _unknown_fields(written: Any, parsed: Any) -> set[str]:
    """The fields that a schema dropped without a word."""
    if isinstance(written, list) and isinstance(parsed, list):
        return set().union(*(_unknown_fields(*pair) for pair in zip(written, parsed, strict=True)))
    if isinstance(written, dict) and isinstance(parsed, dict):
        known = [name for name in written if name in parsed]
        return {str(name) for name in written if name not in parsed}.union(
            *(_unknown_fields(written[name], parsed[name]) for name in known)
        )
    return set()


def _no_service(_embed_query: object) -> Any:
    raise AssertionError("nothing is served here")
