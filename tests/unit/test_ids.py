"""Ids and keys, exactly as the contract spells them; the literals were computed with coreutils' sha256sum."""

import hashlib
import uuid
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import ids

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # sha256 of the bytes "hello"
DOCUMENT = "2283e3ac346deec20db47226c64d01a1"  # printf 'default\0%s' $HELLO | sha256sum | cut -c1-32
scalars = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
inputs = st.dictionaries(st.text(min_size=1), scalars, min_size=1, max_size=5)


@pytest.mark.parametrize(("tenant", "expected"), [("default", DOCUMENT), ("acme", "e23865e37a878a374e7afb2558529b9a")])
def test_a_document_id_is_the_first_32_hex_digits_over_tenant_nul_and_sha256(tenant: str, expected: str) -> None:
    """`document_id` = first 32 hex of sha256(tenant + NUL + sha256(bytes)): two tenants never share a document."""
    assert ids.document_id(tenant, HELLO) == expected


@pytest.mark.parametrize(
    ("revision", "index", "expected"),
    [(1, 0, "399fa7e9-1ea3-2936-92f6-42cbf3e438ed"), (2, 10, "f6e88545-b06e-4b71-12f4-033e0c358e14")],
)
def test_a_chunk_id_is_the_uuid_over_document_revision_and_index(revision: int, index: int, expected: str) -> None:
    """`chunk_id` = UUID of the first 16 bytes of sha256("document:revision:index")."""
    assert ids.chunk_id(DOCUMENT, revision, index) == expected
    assert str(uuid.UUID(expected)) == expected


def test_the_manifest_lists_every_chunk_id_once_and_in_order() -> None:
    """`chunk_ids` is `chunk_id` for 0 to count - 1: what both stores must hold after a publish."""
    manifest = ids.chunk_ids(DOCUMENT, 3, 500)
    assert manifest == [ids.chunk_id(DOCUMENT, 3, index) for index in range(500)]
    assert len(set(manifest)) == 500
    assert set(manifest).isdisjoint(ids.chunk_ids(DOCUMENT, 4, 500))
    assert ids.chunk_ids(DOCUMENT, 3, 0) == []


def test_a_fingerprint_is_16_hex_digits_of_canonical_json() -> None:
    """The fingerprint is readable outside Python: sha256 of compact JSON with sorted keys."""
    assert ids.fingerprint({"b": "x", "a": 1}) == "ecf9e98ec0641e23"  # printf '{"a":1,"b":"x"}' | sha256sum


@given(inputs, st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_the_order_of_its_inputs(values: dict[str, object], random: Random) -> None:
    """The same inputs give the same fingerprint, in whatever order they are named."""
    items = list(values.items())
    random.shuffle(items)
    assert ids.fingerprint(dict(items)) == ids.fingerprint(values)


@given(inputs, st.data())
def test_a_fingerprint_changes_with_every_input(values: dict[str, object], data: st.DataObject) -> None:
    """Another value, a missing input and an additional one each give another fingerprint."""
    original = ids.fingerprint(values)
    key = data.draw(st.sampled_from(sorted(values)))
    other = data.draw(scalars.filter(lambda value: repr(value) != repr(values[key])))
    assert ids.fingerprint({**values, key: other}) != original
    assert ids.fingerprint({name: value for name, value in values.items() if name != key}) != original
    assert ids.fingerprint({**values, "".join(values) + "+": 1}) != original


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (lambda: ids.source_key("d"), "sources/d.pdf"),
        (lambda: ids.checkpoint_prefix("d"), "checkpoints/d/"),
        (lambda: ids.inspection_key("d", "f"), "checkpoints/d/f/inspection.parquet"),
        (lambda: ids.pages_prefix("d", "f"), "checkpoints/d/f/pages/"),
        (lambda: ids.chunks_key("d", "f"), "checkpoints/d/f/chunks.parquet"),
        (lambda: ids.vectors_prefix("d", "f"), "checkpoints/d/f/vectors/"),
    ],
)
def test_object_keys_are_the_contracts(key: Callable[[], str], expected: str) -> None:
    """`sources/{document_id}.pdf` and `checkpoints/{document_id}/{fingerprint}/…`: the names others know."""
    assert key() == expected


def test_ids_do_not_depend_on_the_process() -> None:
    """A retry in another process computes the names that the first one used: no salt, no clock, no random."""
    assert ids.document_id("", "") == hashlib.sha256(b"\0").hexdigest()[:32]
    assert ids.chunk_id("", 0, 0) == str(uuid.UUID(hashlib.sha256(b":0:0").hexdigest()[:32]))
