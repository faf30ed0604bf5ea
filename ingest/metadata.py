"""What a submitter says about a document: free JSON, kept beside it and filterable in search."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from ingest.errors import InputError

Metadata: TypeAlias = dict[str, Any]
Conditions: TypeAlias = Mapping[str, Mapping[str, Any]]  # dotted name -> one of OPERATORS -> what to compare with

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 8
INT64 = 2**63  # what BSON can hold
OPERATORS = frozenset({"eq", "in", "gt", "gte", "lt", "lte"})


class BadMetadata(InputError):
    """Not a JSON object, too large, or with names that a filter could not address."""


def parse_metadata(text: str) -> Metadata:
    """The JSON object in `text`; an empty text is an empty object.

    Raises `BadMetadata` unless it is an object of at most 16 KiB and eight levels, whose names are not empty, hold no
    dot and no NUL and do not begin with `$` (a filter writes `author.name` for a name within a name), and whose
    whole numbers fit into 64 bits.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_METADATA_BYTES:
        raise BadMetadata(f"The metadata is larger than the {MAX_METADATA_BYTES} bytes that are accepted.")
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise BadMetadata(f"The metadata is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadMetadata(f"The metadata is nested deeper than {MAX_METADATA_DEPTH} levels.") from error
    if not isinstance(value, dict):
        raise BadMetadata('The metadata must be a JSON object, like {"author": "Ann"}.')
    _check(value, depth=1)
    return value


def check_metadata(value: Metadata) -> Metadata:
    """An object that has been parsed already, by the same rules. Raises `BadMetadata`."""
    return parse_metadata(json.dumps(value))


def mongo_filter(conditions: Conditions) -> dict[str, Any]:
    """The MongoDB filter for documents whose metadata fulfil every condition; no condition is an empty filter.

    Compares as MongoDB does: only values of one kind with each other (a number with numbers, text with text, by code
    point), and of an array each condition is fulfilled if any element fulfils it.
    Raises `BadMetadata` for a name that metadata could not have, and for another operator: nothing that a user sends
    becomes an operator of MongoDB's.
    """
    for name, operators in conditions.items():
        for part in name.split("."):
            _check_name(part)
        if not operators or not operators.keys() <= OPERATORS:
            raise BadMetadata(f"A condition on metadata uses some of: {', '.join(sorted(OPERATORS))}.")
    return {
        f"metadata.{name}": {f"${operator}": operand for operator, operand in operators.items()}
        for name, operators in conditions.items()
    }


def _check(value: object, *, depth: int) -> None:
    if depth > MAX_METADATA_DEPTH:
        raise BadMetadata(f"The metadata is nested deeper than {MAX_METADATA_DEPTH} levels.")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_name(name)
            _check(inner, depth=depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth=depth + 1)
    elif isinstance(value, int) and not -INT64 <= value < INT64:
        raise BadMetadata("A whole number in the metadata does not fit into 64 bits.")
    elif isinstance(value, str):
        _check_text(value)


def _check_name(name: str) -> None:
    if not name or name.startswith("$") or "." in name or "\0" in name:
        raise BadMetadata("A name in the metadata must not be empty, hold a dot or NUL, or begin with $.")
    _check_text(name)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadMetadata("The metadata holds a character that is not Unicode.") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
