"""Fingerprints of a pipeline: a changed setting repeats exactly the stages that depend on it."""

from pathlib import Path
from typing import Any

import pytest

from ingest import fingerprints
from ingest.model import PipelineSpec
from ingest.settings import Settings

STAGES = {"extract", "chunk", "embed"}


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Any]:
    """Settings under a directory of the test, with a tiny stand-in for a model, so that nothing large is read."""
    for name in ("model-a", "model-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(name)
    for name in ("ocr-a", "ocr-b"):
        for part in ("det", "rec"):
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "inference.onnx").write_text(f"{name} {part}")
    return {
        "data_dir": tmp_path / "home",
        "embedding_model": str(tmp_path / "model-a"),
        "ocr_model": str(tmp_path / "ocr-a"),
    }


def pipeline(base: dict[str, Any], **changes: Any) -> PipelineSpec:
    """The pipeline of these settings."""
    return fingerprints.pipeline_of(Settings(**(base | changes)))


def changed(before: PipelineSpec, after: PipelineSpec) -> set[str]:
    """The stages whose fingerprints differ."""
    return {stage for stage in STAGES if getattr(before, stage) != getattr(after, stage)}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"embedding_precision": "bfloat16"}, {"embed"}),
        ({"chunk_tokens": 100}, {"chunk", "embed"}),
        ({"chunk_overlap_tokens": 0}, {"chunk", "embed"}),
        ({"embedding_batch_chunks": 16}, {"chunk", "embed"}),
        ({"ocr_dpi": 300}, STAGES),
        ({"ocr_precision": "float32"}, STAGES),
        ({"max_page_pixels": 1_000_000}, STAGES),
        ({"http_port": 9000, "lease_ttl_s": 1, "max_attempts": 9, "keep_source": True}, set()),
        ({"embedders": 4, "embedder_gpus": 1.0, "page_timeout_s": 1, "max_running_jobs": 1}, set()),
    ],
)
def test_a_setting_changes_exactly_the_stages_that_depend_on_it(
    base: dict[str, Any], change: dict[str, Any], stages: set[str]
) -> None:
    """A stage's fingerprint covers exactly what its output depends on: no stage is repeated needlessly."""
    assert changed(pipeline(base), pipeline(base, **change)) == stages


def test_another_embedding_model_does_not_repeat_ocr(base: dict[str, Any], tmp_path: Path) -> None:
    """Changing the embedding model cuts and embeds again (its tokenizer counts), and leaves every page where it is."""
    after = pipeline(base, embedding_model=str(tmp_path / "model-b"))
    assert changed(pipeline(base), after) == {"chunk", "embed"}


def test_another_ocr_model_repeats_everything(base: dict[str, Any], tmp_path: Path) -> None:
    """Another OCR model gives other text, hence other chunks and vectors."""
    assert changed(pipeline(base), pipeline(base, ocr_model=str(tmp_path / "ocr-b"))) == STAGES


def test_a_model_is_known_by_its_content(base: dict[str, Any], tmp_path: Path) -> None:
    """Files exchanged under the same name are another model; the same files in another place are the same one."""
    before = pipeline(base)
    (tmp_path / "model-a").rename(tmp_path / "moved")
    assert changed(before, pipeline(base, embedding_model=str(tmp_path / "moved"))) == set()
    (tmp_path / "moved" / "tokenizer.json").write_text("updated")
    assert changed(before, pipeline(base, embedding_model=str(tmp_path / "moved"))) == {"chunk", "embed"}


def test_a_hub_model_is_known_by_name_and_revision(base: dict[str, Any]) -> None:
    """Without its files, another revision is another model."""
    hub = base | {"embedding_model": "some/model-of-the-hub"}
    assert changed(pipeline(hub), pipeline(hub, embedding_revision="v2")) == {"chunk", "embed"}


@pytest.mark.parametrize(
    ("version", "stages"),
    [("PAGES_VERSION", STAGES), ("CHUNKS_VERSION", {"chunk", "embed"}), ("VECTORS_VERSION", {"embed"})],
)
def test_a_raised_schema_version_repeats_its_stage_and_what_follows(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, version: str, stages: set[str]
) -> None:
    """Code that gives other output raises its version: old checkpoints are not found any more."""
    before = pipeline(base)
    monkeypatch.setattr(fingerprints, version, 99)
    assert changed(before, pipeline(base)) == stages


def test_the_whole_pipelines_fingerprint_covers_every_stage(base: dict[str, Any]) -> None:
    """`fingerprint`, by which a published document is recognised, changes with any stage."""
    whole = {pipeline(base, **change).fingerprint for change in ({}, {"ocr_dpi": 300}, {"chunk_tokens": 100})}
    assert len(whole) == 3


def test_points_that_hold_something_else_repeat_no_stage_and_are_made_again(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published document is not recognised any more, so that sending it again writes new points; vectors stay."""
    before = pipeline(base)
    monkeypatch.setattr(fingerprints, "POINTS_VERSION", 99)
    after = pipeline(base)
    assert changed(before, after) == set()
    assert before.fingerprint != after.fingerprint


def test_a_job_that_recorded_no_version_of_its_points_has_the_first(base: dict[str, Any]) -> None:
    """Jobs of an earlier Fanfold are not taken for ones that serve."""
    now = pipeline(base)
    earlier = PipelineSpec.model_validate(now.model_dump(exclude={"points"}))
    assert (earlier.points, earlier.embed) == (1, now.embed)
    assert earlier.fingerprint != now.fingerprint


def test_the_default_models_can_be_fingerprinted(tmp_path: Path) -> None:
    """The models in the wheels are known by content, the same on every call, and named for people."""
    first, second = (fingerprints.pipeline_of(Settings(data_dir=tmp_path)) for _ in range(2))
    assert first == second
    assert first.settings["embedding_model"] == "all-MiniLM-L6-v2"
    assert len({first.extract, first.chunk, first.embed}) == 3
