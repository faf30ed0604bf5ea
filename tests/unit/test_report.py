"""The report of a run: every outcome, in bounded memory, in place whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import report
from cluster.outcome import Outcome, failure_of
from cluster.report import FORMATS, SCHEMA, reporting
from cluster.sources import Source
from ingest.errors import Category, ConfigurationError
from ingest.model import FailedPage, Failure, JobState, PageFailure, Progress
from serve.schemas import JobView
from tests.builders import a_job

BROKEN = Failure(category=Category.INPUT, message="The PDF is protected by a password.", retryable=False)
PARTLY = FailedPage(page_number=3, reason=PageFailure.TIMEOUT, message="too slow")


def outcomes(count: int = 1) -> Iterator[Outcome]:
    """Published in part, failed, refused and stopped, `count` of each."""
    done = JobView.of(
        a_job(
            state=JobState.PARTIALLY_SUCCEEDED,
            failed_pages=[PARTLY],
            progress=Progress(pages_total=4, pages_done=4, chunks_total=7, chunks_stored=7),
        )
    )
    failed = JobView.of(a_job(state=JobState.FAILED, error=BROKEN))
    refused = Failure(category=Category.CONFIGURATION, message="Not from there.", retryable=False)
    for number in range(count):
        yield Outcome(Source(f"s3://archive/{number}.pdf"), done, already_there=True, seconds=0.5)
        yield Outcome(Source(f"/tmp/{number}.pdf"), failed, failure_of(failed))
        yield Outcome(Source(f"/tmp/{number}-\udcff.pdf"), None, refused)
        yield Outcome(Source(f"/tmp/{number}-late.pdf"), None, stopped=True)


def written(path: Path) -> list[dict[str, object]]:
    """The rows that a report holds."""
    match path.suffix:
        case ".parquet":
            table = pq.read_table(path)
            assert table.schema.equals(SCHEMA)
            rows: list[dict[str, object]] = table.to_pylist()
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        case _:
            rows = json.loads(path.read_text(encoding="utf-8"))
    return rows


@pytest.mark.parametrize("ending", FORMATS)
def test_every_outcome_is_a_row(ending: str, tmp_path: Path) -> None:
    """In each format: names, ids, state, reason, counts; what is not known is null."""
    path = tmp_path / f"report{ending}"
    with reporting(str(path)) as rows:
        for outcome in outcomes():
            rows.write(outcome)
    done, failed, refused, stopped = written(path)
    assert done == {
        "source": "s3://archive/0.pdf",
        "document_id": "document",
        "job_id": "job",
        "state": "partially_succeeded",
        "error_category": None,
        "error_message": None,
        "pages": 4,
        "failed_pages": [3],
        "chunks": 7,
        "seconds": 0.5,
        "already_there": True,
    }
    assert (failed["state"], failed["error_category"], failed["error_message"]) == ("failed", "input", BROKEN.message)
    assert (refused["source"], refused["state"], refused["job_id"]) == ("/tmp/0-\ufffd.pdf", "refused", None)
    assert (stopped["state"], stopped["error_message"], stopped["pages"]) == ("unknown", None, None)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_run_of_nothing_has_an_empty_report(ending: str, tmp_path: Path) -> None:
    """Which can be read like any other."""
    path = tmp_path / f"report{ending}"
    with reporting(str(path)):
        pass
    assert written(path) == []


def test_rows_do_not_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet holds back one row group at most; each is in the file before the next one begins."""
    monkeypatch.setattr(report, "ROW_GROUP", 100)
    path = tmp_path / "report.parquet"
    with reporting(str(path)) as rows:
        [staged] = tmp_path.iterdir()
        for outcome in outcomes(500):
            rows.write(outcome)
        before = staged.stat().st_size
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(group).num_rows for group in range(groups.num_row_groups)] == [100] * 20
    assert before > 0.5 * path.stat().st_size


@pytest.mark.parametrize("ending", FORMATS)
def test_a_report_appears_whole_also_after_an_error(ending: str, tmp_path: Path) -> None:
    """An earlier report stays until then; then the new one has every row there was, and is alone."""
    path = tmp_path / f"report{ending}"
    path.write_text("earlier", encoding="utf-8")
    with pytest.raises(RuntimeError), reporting(str(path)) as rows:  # noqa: PT012  # what it leaves is under test
        for outcome in outcomes():
            rows.write(outcome)
        assert path.read_text(encoding="utf-8") == "earlier"
        raise RuntimeError
    assert len(written(path)) == 4
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "words"), [("report.csv", ".parquet, .jsonl, .json"), ("no/where.json", "no/where")])
def test_what_cannot_be_written_is_said_before_anything_begins(name: str, words: str, tmp_path: Path) -> None:
    """An unknown ending, a directory that is not there."""
    with pytest.raises(ConfigurationError, match=words), reporting(str(tmp_path / name)):
        raise AssertionError("it has begun")
