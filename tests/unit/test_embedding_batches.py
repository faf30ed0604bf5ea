"""Batches of the embedder: bounded by what they cost after padding, and nothing is left out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.stages.embedding import token_budget_batches

token_counts = st.lists(st.integers(min_value=0, max_value=600), max_size=200)
budgets = st.integers(min_value=1, max_value=8_192)


@given(token_counts, budgets)
def test_every_text_is_in_exactly_one_batch(counts: list[int], budget: int) -> None:
    """No chunk is embedded twice and none is forgotten."""
    positions = [position for batch in token_budget_batches(counts, budget) for position in batch]
    assert sorted(positions) == list(range(len(counts)))


@given(token_counts, budgets)
def test_a_padded_batch_stays_within_the_budget(counts: list[int], budget: int) -> None:
    """Longest member times members <= budget: memory of one forward pass is bounded; only a lone text may exceed it."""
    for batch in token_budget_batches(counts, budget):
        assert batch
        assert len(batch) == 1 or max(counts[position] for position in batch) * len(batch) <= budget


@given(token_counts, budgets)
def test_neighbours_in_length_are_batched_together(counts: list[int], budget: int) -> None:
    """Longest first, so that little is padding."""
    lengths = [counts[position] for batch in token_budget_batches(counts, budget) for position in batch]
    assert lengths == sorted(lengths, reverse=True)


@given(st.lists(st.integers(min_value=1, max_value=600), min_size=1, max_size=200), budgets)
def test_batches_are_as_full_as_the_budget_allows(counts: list[int], budget: int) -> None:
    """No batch could have taken the next one's first member: no forward pass is wasted."""
    batches = list(token_budget_batches(counts, budget))
    for batch, following in pairwise(batches):
        assert counts[batch[0]] * (len(batch) + 1) > budget
        assert counts[following[0]] <= counts[batch[-1]]


@given(token_counts, budgets)
def test_the_same_texts_are_batched_the_same_way(counts: list[int], budget: int) -> None:
    """Padding moves the last bits of a vector: a repeated batch must be padded alike."""
    assert list(token_budget_batches(counts, budget)) == list(token_budget_batches(list(counts), budget))


def test_equal_lengths_keep_their_order_and_nothing_gives_nothing() -> None:
    """Ties are broken by position; no text, no batch; texts without tokens are still embedded."""
    assert list(token_budget_batches([5, 5, 5, 5], 10)) == [[0, 1], [2, 3]]
    assert list(token_budget_batches([], 10)) == []
    assert list(token_budget_batches([0, 0], 10)) == [[0, 1]]
