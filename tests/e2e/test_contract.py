"""The running service against its own OpenAPI: schemathesis asks whatever the document allows, and what it does not."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.clusters import Cluster
from tests.pdfs import pdf_of

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)
EXAMPLES = 12
TIMEOUT_S = 240


def test_nothing_is_answered_that_openapi_does_not_say(cluster: Cluster, tmp_path: Path) -> None:
    """No 5xx, no undocumented status, type, body or header, whatever is sent to any route, valid or not."""
    letter = tmp_path / "a letter.pdf"
    letter.write_bytes(pdf_of([f"For whoever reads the contract, {tmp_path.name}."]))
    assert cluster.client.job(cluster.client.submit(letter).job_id, wait=60).state.terminal
    asked = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{cluster.settings.http_url}/openapi.json",
            *("--checks", ",".join(CHECKS)),
            *("--max-examples", str(EXAMPLES)),
            *("--request-timeout", "60"),
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert asked.returncode == 0, asked.stdout
    paths = httpx.get(f"{cluster.settings.http_url}/openapi.json").json()["paths"]
    count = sum(len(methods) for methods in paths.values())
    assert f"{count} selected / {count} total" in asked.stdout
