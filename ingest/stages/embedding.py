"""Embedding texts with a sentence-transformers model."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ingest.errors import CancelRequested, ConfigurationError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


SPECIAL_TOKENS = 2  # before and after the text


def token_budget_batches(token_counts: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions grouped so that each group, padded to its longest member, stays within `budget` tokens.

    Members are sorted by length, longest first, so that little is padding; a single text over the budget goes alone.
    """
    group: list[int] = []
    longest = 0
    for position in sorted(range(len(token_counts)), key=lambda position: -token_counts[position]):
        if group and longest * (len(group) + 1) > budget:
            yield group
            group = []
        if not group:
            longest = max(token_counts[position], 1)
        group.append(position)
    if group:
        yield group


def load_tokenizer(model: str, revision: str) -> Tokenizer:
    """The model's own tokenizer, without truncation or padding: for counting. `model` is a directory or a hub name."""
    path = Path(model) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else Tokenizer.from_pretrained(model, revision=revision)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class Embedder:
    """A loaded model. Vectors are float32 of unit length, whatever the model's own precision."""

    model: "SentenceTransformer"

    @classmethod
    def load(cls, model: str, *, revision: str, precision: str, threads: int) -> "Embedder":
        """Load a model directory or hub name, on the GPU when this process sees one, else on `threads` CPU threads."""
        import torch  # noqa: PLC0415  # takes seconds: only processes that embed pay for it
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  # as above

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(threads)
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        try:
            loaded = SentenceTransformer(model, revision=revision, device=device, model_kwargs={"dtype": dtype})
        except OSError as error:
            raise ConfigurationError(
                f"FANFOLD_EMBEDDING_MODEL={model} is neither a directory nor a model that can be downloaded from here."
            ) from error
        loaded.eval()
        return cls(loaded)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        dimension = self.model.get_embedding_dimension()
        if dimension is None:
            raise ValueError("the embedding model does not say how long its vectors are")
        return dimension

    def embed(
        self,
        texts: Sequence[str],
        token_counts: Sequence[int],
        *,
        budget: int,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> NDArray[np.float32]:
        """One row a text, in the order given: shape (len(texts), dimension). `budget` bounds one forward pass.

        Raises `CancelRequested` before the next pass once `is_cancelled`.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for group in token_budget_batches(token_counts, budget):
            if is_cancelled():
                raise CancelRequested("The batch is not wanted any more.")
            encoded = self.model.encode_document(
                [texts[position] for position in group],
                batch_size=len(group),
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            vectors[group] = np.asarray(encoded, dtype=np.float32)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a search query, in the model's query mode where it has one."""
        encoded = self.model.encode_query(text, normalize_embeddings=True, show_progress_bar=False)
        return [float(value) for value in encoded]


def embedding_dimension(model: str, revision: str) -> int:
    """Length of the model's vectors: read from a plain pooling model's files, otherwise by loading the model."""
    directory = Path(model)
    pooling, modules = directory / "1_Pooling" / "config.json", directory / "modules.json"
    if pooling.exists() and modules.exists() and "Dense" not in modules.read_text():
        config = json.loads(pooling.read_text())
        return int(config.get("word_embedding_dimension") or config["embedding_dimension"])
    return Embedder.load(model, revision=revision, precision="float32", threads=1).dimension


def max_tokens(model: str) -> int | None:
    """Most tokens of a text that the model reads, without its special ones; None when its files do not say."""
    config = Path(model) / "sentence_bert_config.json"
    if not config.exists():
        return None
    longest = json.loads(config.read_text()).get("max_seq_length")
    return None if longest is None else int(longest) - SPECIAL_TOKENS
