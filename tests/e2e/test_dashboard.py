"""Ray's dashboard: what each process works on."""

import time
from pathlib import Path

import httpx
import ray
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

from ingest.model import JobState
from tests.clusters import Cluster

PATIENCE_S = 60


def test_the_dashboard_shows_which_page_of_which_document_a_worker_reads(
    cluster: Cluster, sample_pdfs: Path, tmp_path: Path
) -> None:
    """In its list of a node's processes: tasks are called after what they do, lest each page be a metric of its own."""
    scan = tmp_path / "scan.pdf"
    scan.write_bytes((sample_pdfs / "letters.pdf").read_bytes() + f"\n% {tmp_path}\n".encode())
    job = cluster.submit(scan)
    give_up_at = time.monotonic() + PATIENCE_S
    while not (seen := [title for title in titles(cluster) if title.startswith(f"ray::ocr {job.document_id[:8]} r1")]):
        assert time.monotonic() < give_up_at, "no page was shown"
        time.sleep(0.2)
    assert " page " in seen[0]
    assert cluster.finish(job.job_id).state is JobState.SUCCEEDED


def titles(cluster: Cluster) -> list[str]:
    """The command lines of the node's workers, as the dashboard has them."""
    node = ray.get_runtime_context().get_node_id()
    address = f"http://127.0.0.1:{cluster.settings.dashboard_port}/nodes/{node}"
    token = get_auth_headers_if_auth_enabled({})
    answer = httpx.get(address, headers=token, timeout=30, trust_env=False)
    return [" ".join(worker["cmdline"]) for worker in answer.json()["data"]["detail"]["workers"]]
