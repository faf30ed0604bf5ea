"""Logs say what happened, and hold no secret that was merely at hand."""

import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
from ingest.telemetry import configure_logging, get_logger

configure_logging("INFO")

def serve(key):
    raise RuntimeError("not expected")

try:
    serve("hunter" + "2")
except RuntimeError as error:
    get_logger().error("request failed", exc_info=error)
"""


@pytest.mark.parametrize("at_a_terminal", [True, False])
def test_an_error_is_logged_with_its_place_and_without_its_variables(at_a_terminal: bool) -> None:
    """As JSON and for people: the traceback is there, an argument that is an API key is not."""
    reader, writer = pty.openpty() if at_a_terminal else os.pipe()
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=writer, timeout=60, check=True)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as file:
        logged = file.read(1_000_000).decode()
    assert done.returncode == 0
    assert "request failed" in logged
    assert "not expected" in logged
    assert "hunter2" not in logged
