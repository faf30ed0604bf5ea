"""The typed client: to whom it talks, and what it makes of an answer."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cluster.batch import connect, each
from cluster.ports import LOOPBACK, free_port
from ingest.settings import Settings
from serve import examples
from serve.client import Client, ServiceError
from serve.schemas import ServiceView
from tests.http_server import answering

SERVICE = ServiceView.model_validate(examples.SERVICE).model_dump_json().encode()


class Answers(BaseHTTPRequestHandler):
    """Answers every request, also one that is meant for somebody else, as a proxy does."""

    body = SERVICE

    def do_GET(self) -> None:
        """The same each time."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody answers."""
    with answering(Answers) as port:
        yield port


def test_what_goes_to_this_machine_passes_no_proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY without NO_PROXY: files and keys do not leave the machine, and the service is found."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:{free_port()}")
    with Client(f"http://{LOOPBACK}:{port}") as client:
        assert client.service().version == examples.SERVICE["version"]


def test_what_goes_elsewhere_takes_the_way_that_is_set(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service beyond a proxy is reached through it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:{port}")
    with Client("http://fanfold.example") as client:
        assert client.service().version == examples.SERVICE["version"]


def test_the_commands_go_where_the_settings_say(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To FANFOLD_URL, below its path; without one to this machine's port."""
    called: list[str] = []
    monkeypatch.setattr(Answers, "log_message", lambda self, *_arguments: called.append(self.path))
    with connect(Settings(http_port=free_port(), url=f"http://{LOOPBACK}:{port}/papers")) as client:
        client.service()
    with connect(Settings(http_port=port, url=None)) as client:
        client.service()
    assert called == ["/papers/v1/service", "/v1/service"]


def test_another_service_is_not_taken_for_fanfold(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else that answers 200 at this address is named as what it may be."""
    monkeypatch.setattr(Answers, "body", b"<html>It works!</html>")
    with Client(f"http://{LOOPBACK}:{port}") as client, pytest.raises(ServiceError, match="another service"):
        client.service()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_a_certificate_that_is_not_trusted_is_not_a_service_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to set, not to start one; set, it is trusted, also on this machine, past every proxy."""
    files = [tmp_path / name for name in ("key.pem", "certificate.pem")]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-addext"]
    made += ["subjectAltName=IP:127.0.0.1", "-keyout", str(files[0]), "-out", str(files[1])]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    with answering(Answers, context) as port:
        client = Client(f"https://{LOOPBACK}:{port}", retry_for_s=0)
        with client, pytest.raises(ServiceError, match="SSL_CERT_FILE") as refused:
            client.service()
        monkeypatch.setenv("SSL_CERT_FILE", str(files[1]))
        monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:{free_port()}")
        with Client(f"https://{LOOPBACK}:{port}", retry_for_s=0) as trusting:
            assert trusting.service().version == examples.SERVICE["version"]
    assert "fanfold up" not in str(refused.value)


def test_without_a_service_nothing_was_refused() -> None:
    """Many calls at once: that nobody answers is said once, not as a refusal of each."""
    with Client(f"http://{LOOPBACK}:{free_port()}") as client, pytest.raises(ServiceError, match="fanfold up"):
        list(each(["one", "two"], client.retry))
