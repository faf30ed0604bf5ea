"""Cutting a document's text into chunks: token-aware, at sentence ends where it can, with the pages each one spans."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from ingest.model import Chunk, Page

PAGE_BREAK = "\n\n"


@dataclass(frozen=True)
class Chunker:
    """Cuts at the largest boundary that fits: paragraph, then sentence, then word (Unicode Standard Annex #29).

    The same text, tokenizer and sizes always give the same chunks. `chunk_tokens` counts without the model's own
    special tokens; neighbours share at most `overlap_tokens`.
    """

    tokenizer: Tokenizer
    chunk_tokens: int
    overlap_tokens: int

    def cut(self, pages: Sequence[Page]) -> list[Chunk]:
        """The chunks of the pages' text in order; none for a document without text."""
        pages = [page for page in pages if page.text.strip()]
        if not pages:
            return []
        starts = list(accumulate((len(page.text) + len(PAGE_BREAK) for page in pages[:-1]), initial=0))
        text = PAGE_BREAK.join(page.text for page in pages)
        splitter = TextSplitter.from_huggingface_tokenizer(self.tokenizer, self.chunk_tokens, self.overlap_tokens)
        pieces = splitter.chunk_indices(text)
        encodings = self.tokenizer.encode_batch([piece for _, piece in pieces], add_special_tokens=False)
        return [
            Chunk(
                chunk_index=index,
                text=piece,
                first_page=_page_at(pages, starts, start),
                last_page=_page_at(pages, starts, start + len(piece) - 1),
                token_count=len(encoding.ids),
            )
            for index, ((start, piece), encoding) in enumerate(zip(pieces, encodings, strict=True))
        ]


def _page_at(pages: Sequence[Page], starts: Sequence[int], offset: int) -> int:
    return pages[bisect_right(starts, offset) - 1].page_number
