"""The main job on real documents: born-digital, scanned, and both mixed."""

import difflib
import re
from pathlib import Path

import pytest

from ingest.model import JobState
from samples.pages import PageKind, find_work, page_texts
from serve.client import Client
from serve.schemas import JobView
from tests.checks import assert_published_exactly
from tests.clusters import Cluster, tasks_called
from tests.crash.processes import until

SAMPLES = ("field-guide", "letters", "inventory")
MAX_CHARACTER_ERROR_RATE = 0.02
QUESTIONS_FOUND_FIRST = 9


@pytest.fixture(scope="module")
def samples(sample_pdfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples under their own names, with bytes that no other test sends."""
    directory = tmp_path_factory.mktemp("samples-again")
    for name in SAMPLES:
        original = (sample_pdfs / f"{name}.pdf").read_bytes()
        (directory / f"{name}.pdf").write_bytes(original + f"\n% {directory}\n".encode())
    return directory


@pytest.fixture(scope="module")
def ocr_before(cluster: Cluster) -> int:
    """How many pages were given to OCR before the samples."""
    return len(tasks_called("ocr"))


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, ocr_before: int, samples: Path) -> dict[str, JobView]:
    """The samples' finished jobs, submitted together."""
    submitted = {name: cluster.client.submit(samples / f"{name}.pdf").job_id for name in SAMPLES}
    return {name: cluster.finish(job_id) for name, job_id in submitted.items()}


def test_every_sample_succeeds_with_all_its_pages(jobs: dict[str, JobView]) -> None:
    """Each sample reaches `succeeded`, in one attempt, at 100 percent, with every page counted."""
    for name, job in jobs.items():
        assert job.state is JobState.SUCCEEDED, job.error
        assert job.progress.pages_done == job.progress.pages_total == len(page_texts(name))
        assert job.progress.percent == 100
        assert [attempt.outcome for attempt in job.attempts] == ["succeeded"]


def test_both_stores_hold_exactly_the_manifest(cluster: Cluster, jobs: dict[str, JobView]) -> None:
    """Chunk documents = points = `chunk_count`, under the ids of the contract; working copies are gone."""
    for job in jobs.values():
        assert_published_exactly(cluster.stores, job, keep_source=True)
        assert cluster.client.document(job.document_id).chunk_count == job.progress.chunks_stored > 0


def test_scanned_text_has_at_most_two_percent_wrong_characters(cluster: Cluster, jobs: dict[str, JobView]) -> None:
    """The chunks of the scanned sample read as the text that it was made from."""
    read = _joined_chunks(cluster.client, jobs["letters"].document_id)
    assert _error_rate(_folded(" ".join(page_texts("letters"))), _folded(read)) <= MAX_CHARACTER_ERROR_RATE


def test_only_pages_without_a_good_text_layer_are_ocred(jobs: dict[str, JobView], ocr_before: int) -> None:
    """One Ray task per OCR page: none for born-digital pages, also not in the mixed document."""
    scans = sum(kind is not PageKind.TEXT for name in jobs for kind in find_work(name).kinds)
    until(lambda: len(tasks_called("ocr")) - ocr_before >= scans)  # Ray's bookkeeping is a second behind
    assert len(tasks_called("ocr")) - ocr_before == scans


def test_questions_in_other_words_find_the_right_page_first(
    cluster: Cluster, jobs: dict[str, JobView], questions: list[dict[str, str | int]]
) -> None:
    """At least nine of ten paraphrased questions have the page that answers them as first hit, among the samples."""
    assert all(job.state is JobState.SUCCEEDED for job in jobs.values())
    samples = [job.document_id for job in jobs.values()]
    found = []
    for asked in questions:
        [hit] = cluster.client.search(str(asked["question"]), limit=1, document_ids=samples)
        found.append(hit.filename == asked["document"] and hit.first_page <= int(asked["page"]) <= hit.last_page)
    assert len(found) == 10
    assert sum(found) >= QUESTIONS_FOUND_FIRST


def test_chunks_keep_the_pages_they_span(cluster: Cluster, jobs: dict[str, JobView]) -> None:
    """Each chunk's first words stand on its first page."""
    texts = [_folded(text) for text in page_texts("field-guide")]
    for chunk in cluster.client.chunks(jobs["field-guide"].document_id):
        opening = " ".join(_folded(chunk.text).split()[:6])
        pages = range(chunk.first_page, chunk.last_page + 1)
        assert opening in " ".join(texts[page - 1] for page in pages), chunk


def test_submitting_the_same_bytes_again_changes_nothing(
    cluster: Cluster, jobs: dict[str, JobView], samples: Path
) -> None:
    """A second submit answers with the first one's job, and no chunk is added."""
    again = cluster.client.submit(samples / "letters.pdf")
    assert (again.job_id, again.created) == (jobs["letters"].job_id, False)
    assert_published_exactly(cluster.stores, jobs["letters"], keep_source=True)


def _joined_chunks(client: Client, document_id: str) -> str:
    """The document's text from its chunks, which overlap: each adds what follows the longest shared part."""
    text = ""
    for chunk in client.chunks(document_id):
        overlap = next(
            (size for size in range(min(len(text), len(chunk.text)), 0, -1) if text.endswith(chunk.text[:size])), 0
        )
        text += (" " if overlap == 0 else "") + chunk.text[overlap:]
    return text


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _error_rate(expected: str, found: str) -> float:
    """Characters to replace, insert or delete, as a share of the expected text (at least the edit distance)."""
    blocks = difflib.SequenceMatcher(None, expected, found, autojunk=False).get_opcodes()
    wrong = sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in blocks if kind != "equal")
    return wrong / len(expected)
