"""The embedding model: what `encode_document` gives, in unit rows of float32, in the precision that was asked for."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from huggingface_hub import constants

from ingest.errors import ConfigurationError, OutOfMemory
from ingest.stages.embedding import LIMITS_FILE, SPECIAL_TOKENS, Embedder, ForwardPass, max_tokens
from ingest.stages.models import embedding_model_path

MODEL = embedding_model_path("all-MiniLM-L6-v2")
TEXTS = [
    "The boat could not land because of the surf.",
    "Bread.",
    "The keeper writes down the wind, the glass and the state of the sea at every change of the watch. " * 8,
    "Unit 4 failed its test on the 3rd; order no. 12,775 is late.",
    "",
]
COUNTS = [10, 1, 180, 18, 0]
BUDGET = 256


def load(precision: str = "float32", *, gpu: bool = False) -> Embedder:
    """The default model."""
    return Embedder.load(MODEL, revision="main", precision=precision, threads=1, gpu=gpu)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """In float32, on the CPU."""
    return load()


@pytest.fixture
def prompted(embedder: Embedder) -> Iterator[Embedder]:
    """With a prompt for documents and another for queries, as many retrieval models have."""
    before = dict(embedder.model.prompts)
    embedder.model.prompts |= {"document": "title: none | text: ", "query": "task: search result | query: "}
    yield embedder
    embedder.model.prompts.clear()
    embedder.model.prompts.update(before)


def test_vectors_are_those_of_encode_document(embedder: Embedder) -> None:
    """Tokenised, padded and computed in passes of our own."""
    expected = embedder.model.encode_document(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed(TEXTS, COUNTS, budget=BUDGET), expected, atol=1e-5)


def test_a_models_prompts_are_used_as_encode_document_and_encode_query_do(prompted: Embedder) -> None:
    """And they matter: without them the vectors are others."""
    expected = prompted.model.encode_document(TEXTS, normalize_embeddings=True)
    vectors = prompted.embed(TEXTS, COUNTS, budget=BUDGET)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    bare = prompted.model.encode(TEXTS, prompt="", normalize_embeddings=True)
    assert np.abs(vectors - bare).max() > 0.01
    query = prompted.model.encode_query(TEXTS[0], normalize_embeddings=True)
    np.testing.assert_allclose(prompted.embed_query(TEXTS[0]), query, atol=1e-5)


def test_a_default_prompt_holds_where_there_is_none_for_documents(embedder: Embedder) -> None:
    """The order in which `encode_document` looks."""
    model = embedder.model
    before = dict(model.prompts)
    try:
        model.prompts.clear()
        model.prompts["other"] = "In other words: "
        model.default_prompt_name = "other"
        expected = model.encode_document(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(embedder.embed(TEXTS, COUNTS, budget=BUDGET), expected, atol=1e-5)
    finally:
        model.default_prompt_name = None
        model.prompts.clear()
        model.prompts.update(before)


def test_bfloat16_gives_unit_rows_of_float32_close_to_those_of_float32(embedder: Embedder) -> None:
    """The model computes in bfloat16; a row's length is exact all the same."""
    rough = load("bfloat16")
    assert {weights.dtype for weights in rough.model.parameters()} == {torch.bfloat16}
    vectors = rough.embed(TEXTS, COUNTS, budget=BUDGET)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    exact = embedder.embed(TEXTS, COUNTS, budget=BUDGET)
    assert np.sum(vectors * exact, axis=1).min() > 0.999
    assert np.abs(vectors - exact).max() > 1e-4  # it is not float32 under another name
    assert np.linalg.norm(rough.embed_query(TEXTS[0])) == pytest.approx(1, abs=1e-6)


def test_without_a_gpu_the_cpu_embeds_and_the_log_says_so(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has given a GPU away, and torch sees none: a driver or a CUDA build of torch is missing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with structlog.testing.capture_logs() as logged:
        loaded = load(gpu=True)
    assert [entry["event"] for entry in logged] == ["a GPU was given, torch sees none: embedding on the CPU"]
    assert logged[0]["log_level"] == "warning"
    vectors = loaded.embed(TEXTS, COUNTS, budget=BUDGET)
    np.testing.assert_allclose(vectors, embedder.embed(TEXTS, COUNTS, budget=BUDGET), atol=1e-6)


def test_a_gpu_that_nobody_asked_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray hides no GPU from processes that were given none: the query embedder must not take one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load().model.device.type == "cpu"


def test_a_gpu_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are what their fingerprint says, or there are none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(ConfigurationError, match=r"Tesla T4 .* FANFOLD_EMBEDDING_PRECISION=float32"):
        load("bfloat16", gpu=True)


def test_a_full_gpu_says_what_to_set(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the settings."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(type(embedder.model), "forward", full)
    [one] = embedder.tokenise(["a text"], [2], budget=BUDGET)
    assert isinstance(one, ForwardPass)
    with pytest.raises(OutOfMemory, match="FANFOLD_EMBEDDING_BATCH_TOKENS"):
        embedder.forward(one)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_model_by_hub_name_says_how_much_it_reads(hub: Path) -> None:
    """As one in a directory does: chunks that are longer would be cut without a word."""
    files = hub / "models--acme--short" / "snapshots" / "1f0c"
    files.mkdir(parents=True)
    (files / LIMITS_FILE).write_text(json.dumps({"max_seq_length": 128}))
    refs = files.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("1f0c")
    assert max_tokens("acme/short", "main") == 128 - SPECIAL_TOKENS
    assert max_tokens(MODEL, "main") == 256 - SPECIAL_TOKENS


def test_a_model_that_is_not_to_be_had_says_nothing_and_is_refused(hub: Path) -> None:
    """When it is loaded, with the reason: the image asks no hub unless it is told to."""
    assert max_tokens("acme/unknown", "main") is None
    assert max_tokens("no/such/name", "main") is None
    with pytest.raises(ConfigurationError, match=r"acme/unknown.*HF_HUB_OFFLINE is set"):
        Embedder.load("acme/unknown", revision="main", precision="float32", threads=1)
    assert list(hub.iterdir()) == []
