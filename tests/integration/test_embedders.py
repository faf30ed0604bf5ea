"""Real embedders on a Ray cluster with a GPU that is not there: placed, more, killed, none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENTS, BATCHES = 30, 2


@pytest.mark.timeout(600)
def test_embedders_follow_the_work_on_shares_of_a_gpu(tmp_path: Path) -> None:
    """One is warm, on the node with the GPU; a backlog brings the second; a killed one costs nothing; idle, none."""
    program = [sys.executable, "-m", "tests.integration.gpu_cluster", str(tmp_path)]
    ran = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr[-4_000:]
    seen = json.loads(ran.stdout.splitlines()[-1])
    [warm] = seen["warm"]
    assert warm["node_gpus"] == 1
    assert warm["takes"] == {"GPU": 0.25}
    assert seen["most"] == 2
    assert seen["ended"] == [None] * (DOCUMENTS * BATCHES - 1) + ["CancelledError"]
    assert seen["committed"] == DOCUMENTS * BATCHES - 1
    assert seen["repeated"] == []
    assert seen["idle"] == 0
    assert "torch sees none: embedding on the CPU" in ran.stdout + ran.stderr
