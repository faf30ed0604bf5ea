"""Nothing of the caller's environment comes between Fanfold's own programs and what they are about."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.ports import LOOPBACK, free_port
from samples import demo
from tests.http_server import answering
from tests.unit.test_deploy import instructions


class Answers(BaseHTTPRequestHandler):
    """A service that is ready, or not."""

    status = 200

    def do_GET(self) -> None:
        """The same each time."""
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where it answers; the environment names a proxy for everything, at which nobody listens."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{free_port()}")
    with answering(Answers) as port:
        yield port


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_image_asks_the_service_itself_whether_it_is_ready(
    port: int, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    """Docker hands its client's proxy on to containers: the probe passes it by, and fails only where it should."""
    monkeypatch.setattr(Answers, "status", status)
    [(_, probe)] = [line for line in instructions() if line[0] == "HEALTHCHECK"]
    _python, *arguments = json.loads(probe.partition("CMD ")[2])
    environment = os.environ | {"FANFOLD_HTTP_PORT": str(port)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr


def test_the_demonstration_waits_for_its_own_service(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a proxy that cannot know it."""
    monkeypatch.setattr(demo, "READY_TIMEOUT_S", 3)
    asked: list[int] = []
    service = cast(Any, SimpleNamespace(poll=lambda: asked.append(port)))
    demo._wait_until_ready(service, {"FANFOLD_HTTP_PORT": str(port)})
    assert asked


def test_the_demonstration_takes_over_no_setting() -> None:
    """Whoever has a shell with production's stores in it writes nothing there, and claims none of its jobs."""
    inherited = {"PATH": "/bin", "FANFOLD_MONGODB_URI": "mongodb://db1/", "fanfold_qdrant_url": "http://db2"}
    own = demo.own_settings(inherited | {"FANFOLD_DATA_DIR": "/var/fanfold", "FANFOLD_RAY_ADDRESS": "head:6379"})
    assert own.pop("FANFOLD_HTTP_PORT").isdecimal()
    assert own == {
        "PATH": "/bin",
        "FANFOLD_DATA_DIR": str(demo.HOME),
        "FANFOLD_KEEP_SOURCE": "true",
        "FANFOLD_RAY_ADDRESS": "local",
    }
