"""Queries have a lane of their own: an embedder that is busy with documents makes no search wait."""

import time
from pathlib import Path

from ingest.model import JobState
from tests.clusters import Cluster
from tests.pdfs import pdf_of

PAGES, LINES = 200, 25
LINE = "On the ebb of day {}.{} the pilot climbs aboard from the cutter before the bar, and takes the wheel. "
PATIENCE_S = 5.0  # a full batch of chunks takes longer, and hundreds wait


def test_a_search_answers_while_documents_are_embedded(cluster: Cluster, tmp_path: Path) -> None:
    """Each of several searches during the embedding of a long text, found and answered in seconds."""
    path = tmp_path / "log.pdf"
    pages = [" ".join(LINE.format(page, line) for line in range(LINES)) for page in range(PAGES)]
    path.write_bytes(pdf_of(pages))
    cluster.client.search("who boards the ship before the bar?")  # the model is there
    job = cluster.submit(path)
    took = []
    while not (seen := cluster.client.job(job.job_id)).state.terminal:
        if seen.progress.chunks_total and seen.progress.chunks_embedded < seen.progress.chunks_total:
            started_at = time.monotonic()
            cluster.client.search("who boards the ship before the bar?")
            took.append(time.monotonic() - started_at)
        time.sleep(0.1)
    assert seen.state is JobState.SUCCEEDED
    assert len(took) >= 3
    assert sorted(took)[len(took) // 2] < PATIENCE_S
