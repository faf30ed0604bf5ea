"""Embedding texts with a sentence-transformers model."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ingest.errors import ConfigurationError, OutOfMemory
from ingest.telemetry import get_logger

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

SPECIAL_TOKENS = 2  # before and after the text
LIMITS_FILE = "sentence_bert_config.json"  # of sentence-transformers: how much of a text a model reads
log = get_logger()


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
class ForwardPass:
    """Texts that the model reads at once, tokenised and padded."""

    positions: list[int]  # of its texts among those that were given
    tokens: int  # of the texts themselves: what is padded is not counted
    features: dict[str, Any]


@dataclass(frozen=True)
class Embedder:
    """A loaded model. Vectors are float32 of unit length, whatever the model's own precision."""

    model: "SentenceTransformer"

    @classmethod
    def load(cls, model: str, *, revision: str, precision: str, threads: int, gpu: bool = False) -> "Embedder":
        """Load a model directory or hub name: on a GPU when one is asked for and there, else on so many CPU threads.

        Raises `ConfigurationError` when the model is not to be had, or the GPU does not compute in this precision:
        vectors are what their fingerprint says, or there are none. CPUs compute in both, bfloat16 perhaps more slowly.
        """
        import torch  # noqa: PLC0415  # takes seconds: only processes that embed pay for it
        from huggingface_hub import constants  # noqa: PLC0415  # as above
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  # as above

        device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(min(threads, os.cpu_count() or threads))
            if gpu:
                log.warning("a GPU was given, torch sees none: embedding on the CPU", torch=torch.__version__)
        elif precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigurationError(
                f"The GPU {torch.cuda.get_device_name()} does not compute in bfloat16. "
                "Set FANFOLD_EMBEDDING_PRECISION=float32."
            )
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        try:
            loaded = SentenceTransformer(model, revision=revision, device=device, model_kwargs={"dtype": dtype})
        except OSError as error:
            raise ConfigurationError(
                f"FANFOLD_EMBEDDING_MODEL={model} is neither a directory nor a model that can be downloaded from here"
                f"{': HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else ''}."
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

    def tokenise(self, texts: Sequence[str], token_counts: Sequence[int], *, budget: int) -> list[ForwardPass]:
        """Sort the texts by length into passes of at most `budget` padded tokens; each is tokenised as a document."""
        counts = [count + SPECIAL_TOKENS for count in token_counts]
        return [
            ForwardPass(
                positions,
                sum(counts[position] for position in positions),
                self.model.preprocess(
                    [texts[position] for position in positions], prompt=self._document_prompt, task="document"
                ),
            )
            for positions in token_budget_batches(counts, budget)
        ]

    def forward(self, one: ForwardPass) -> NDArray[np.float32]:
        """The vectors of its texts, in the order of `positions`. Raises `OutOfMemory`."""
        import torch  # noqa: PLC0415  # as above; it is loaded
        from sentence_transformers.util import batch_to_device  # noqa: PLC0415  # as above

        try:
            with torch.inference_mode():
                features = batch_to_device(one.features, self.model.device)
                return _unit_rows(self.model(features, task="document")["sentence_embedding"][:, : self.dimension])
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                "The GPU has too little free memory for one forward pass. Lower FANFOLD_EMBEDDING_BATCH_TOKENS, or "
                "give each embedder a larger share with FANFOLD_EMBEDDER_GPUS."
            ) from error

    def embed(self, texts: Sequence[str], token_counts: Sequence[int], *, budget: int) -> NDArray[np.float32]:
        """One row a text, in the order given: shape (len(texts), dimension). `budget` bounds one forward pass."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for one in self.tokenise(texts, token_counts, budget=budget):
            vectors[one.positions] = self.forward(one)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a search query, in the model's query mode where it has one."""
        encoded = self.model.encode_query([text], convert_to_tensor=True, show_progress_bar=False)
        return [float(value) for value in _unit_rows(encoded)[0]]

    @property
    def _document_prompt(self) -> str | None:
        """What `SentenceTransformer.encode_document` puts before each text."""
        prompts: dict[str, str | None] = self.model.prompts
        for name in ("document", "passage", "corpus", self.model.default_prompt_name):
            if name in prompts:
                return prompts[name]
        return None


def _unit_rows(embeddings: "Tensor") -> NDArray[np.float32]:
    """As float32, and only then of unit length: in bfloat16 a length is right to two digits."""
    from torch.nn.functional import normalize  # noqa: PLC0415  # as above; it is loaded

    rows: NDArray[np.float32] = normalize(embeddings.float(), dim=1).cpu().numpy()
    return rows


def embedding_dimension(model: str, revision: str) -> int:
    """Length of the model's vectors: read from a plain pooling model's files, otherwise by loading the model."""
    directory = Path(model)
    pooling, modules = directory / "1_Pooling" / "config.json", directory / "modules.json"
    if pooling.exists() and modules.exists() and "Dense" not in modules.read_text():
        config = json.loads(pooling.read_text())
        return int(config.get("word_embedding_dimension") or config["embedding_dimension"])
    return Embedder.load(model, revision=revision, precision="float32", threads=1).dimension


def max_tokens(model: str, revision: str) -> int | None:
    """Most tokens of a text that the model reads, without its special ones; `model` is a directory or a hub name.

    None when its files do not say, or are not to be had: then loading the model fails, and says why.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  # as above
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415  # as above

    config = Path(model) / LIMITS_FILE
    if not Path(model).is_dir():
        try:
            config = Path(hf_hub_download(model, LIMITS_FILE, revision=revision))
        except (OSError, HFValidationError):
            return None
    if not config.exists():
        return None
    longest = json.loads(config.read_text()).get("max_seq_length")
    return None if longest is None else int(longest) - SPECIAL_TOKENS
