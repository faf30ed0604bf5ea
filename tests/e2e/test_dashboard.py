"""Ray's dashboard: what it knows of a task."""

import json
from pathlib import Path
from typing import Any

from ray.util.state import get_log
from ray.util.state.exception import RayStateApiException

from ingest.model import JobState
from tests.clusters import Cluster, ray_address, tasks_called
from tests.crash.processes import until
from tests.pdfs import SCAN, pdf_of


def log_of(task_id: str) -> list[dict[str, Any]]:
    """The lines of a task's log; none while Ray, a second behind, does not know where they are."""
    try:
        log = "".join(get_log(address=ray_address(), task_id=task_id, suffix="err"))
    except RayStateApiException:
        return []
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_a_tasks_log_tells_which_page_of_which_document_it_read(cluster: Cluster, tmp_path: Path) -> None:
    """Beside the task, as the dashboard shows it: its name says only that it reads a page."""
    path = tmp_path / "scan.pdf"
    path.write_bytes(pdf_of([f"Scanned in {tmp_path}.", SCAN]))
    before = {task.task_id for task in tasks_called("ocr")}
    job = cluster.ingest(path)
    assert job.state is JobState.SUCCEEDED

    def said() -> list[dict[str, Any]]:
        new = [task.task_id for task in tasks_called("ocr") if task.task_id not in before]
        lines = [line for task_id in new for line in log_of(task_id)]
        return [line for line in lines if line["event"] == "reads a page" and line["document_id"] == job.document_id]

    until(said)
    [line] = said()
    assert line.items() >= {"job_id": job.job_id, "attempt": 1, "stage": "extract", "page_number": 2}.items()
