"""The measures of search quality are those of the papers, and a set in BEIR's format is read as it is meant."""

import json
from pathlib import Path

import pytest

from benchmarks.search_quality import _beir, ndcg, recall, reciprocal_ranks


def test_ndcg_is_that_of_the_paper() -> None:
    """Järvelin and Kekäläinen 2002, by hand: gains 3 and 1 found at ranks 2 and 3, ideally at 1 and 2."""
    gains = {"a": 3, "b": 1}
    found = 3 / 1.584962500721156 + 1 / 2
    assert ndcg(["x", "a", "b"], gains) == pytest.approx(found / (3 + 1 / 1.584962500721156))
    assert ndcg(["a", "b"], gains) == 1
    assert ndcg(["x"] * 10 + ["a"], gains) == 0


def test_recall_is_the_share_that_is_found() -> None:
    """Whatever the order; a document that was judged irrelevant does not count."""
    assert recall(["x", "b"], {"a": 1, "b": 2, "c": 0}) == 0.5


def test_ranks_are_fused_as_in_the_paper() -> None:
    """Second and first beats first and absent."""
    assert reciprocal_ranks([["a", "b"], ["b", "c"]]) == ["b", "a", "c"]


def test_a_set_in_beirs_format_is_read(tmp_path: Path) -> None:
    """Title and text are one document; only judgements above zero are relevant; the source is named."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "title": "Tides", "text": "They rise."}) + "\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "tide"}) + "\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n")
    read = _beir(tmp_path)
    assert read.documents == {"d1": "Tides\n\nThey rise."}
    assert (read.queries, read.gains) == ({"q1": "tide"}, {"q1": {"d1": 2}})
    assert "unknown licence" in read.source
    (tmp_path / "SOURCE.txt").write_text("Tides, CC0\n")
    assert _beir(tmp_path).source == "Tides, CC0"
