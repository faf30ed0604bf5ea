"""Metadata: any JSON object that MongoDB can hold and a filter can address; everything else is refused in words."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.metadata import MAX_METADATA_BYTES, MAX_METADATA_DEPTH, BadMetadata, parse_metadata

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=".\0$"), min_size=1, max_size=10)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)


@given(st.dictionaries(NAMES, LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(NAMES, LEAVES, max_size=3)))
def test_any_small_object_is_kept_as_it_is(value: dict[str, object]) -> None:
    """What goes in comes out, whatever its language."""
    assert parse_metadata(json.dumps(value)) == value


def test_no_metadata_is_an_empty_object() -> None:
    """A form without the field and one with an empty field say the same."""
    assert parse_metadata("") == parse_metadata("  ") == parse_metadata("{}") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "object"),
        ('"a"', "object"),
        ("{", "not JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"": 1}', "name"),
        ('{"$where": 1}', "name"),
        ('{"a": [{"b.c": 1}]}', "name"),
        ('{"a\\u0000": 1}', "name"),
        ('{"a": "\\ud800"}', "Unicode"),
        ('{"\\ud800": 1}', "Unicode"),
        (f'{{"a": {2**63}}}', "64 bits"),
        (f'{{"a": {-(2**63) - 1}}}', "64 bits"),
        ('{"a": "' + "x" * MAX_METADATA_BYTES + '"}', "larger"),
        ('{"a":' * (MAX_METADATA_DEPTH + 1) + "1" + "}" * (MAX_METADATA_DEPTH + 1), "deeper"),
        ('{"a":' + "[" * 3_000 + "]" * 3_000 + "}", "deeper"),
    ],
)
def test_what_cannot_be_kept_or_filtered_is_refused(text: str, says: str) -> None:
    """Each refusal says what is wrong with it."""
    with pytest.raises(BadMetadata, match=says):
        parse_metadata(text)


def test_the_deepest_allowed_nesting_passes() -> None:
    """Eight levels are accepted; the ninth is the one that is too deep."""
    depth = MAX_METADATA_DEPTH - 1
    text = '{"a":' * depth + "1" + "}" * depth
    assert json.dumps(parse_metadata(text)).replace(" ", "") == text
