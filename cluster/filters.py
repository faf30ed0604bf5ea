"""What the command line says about where to search, as the client takes it."""

import json
import re
from collections.abc import Sequence
from typing import Any

_CONDITION = re.compile(r"\s*([^=<>]+?)\s*(>=|<=|=|>|<)\s*(.*)", re.DOTALL)
_PAGES = re.compile(r"(\d+)(-(\d+)?)?")
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def parse_where(conditions: Sequence[str]) -> dict[str, Any]:
    """`author=Ann`, `year>=2020`: the metadata of a `SearchRequest`.

    A value that is a JSON number, `true` or `false` is one; anything else is text, also in JSON's quotes. Several
    values of one name are alternatives; several bounds of one name are a range. Raises `ValueError`.
    """
    values: dict[str, list[Any]] = {}
    ranges: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        found = _CONDITION.fullmatch(condition)
        if found is None:
            raise ValueError(f"{condition!r} is not like author=Ann or year>=2020.")
        name, operator, value = found[1], found[2], _value(found[3])
        if operator == "=":
            values.setdefault(name, []).append(value)
        else:
            ranges.setdefault(name, {})[_BOUNDS[operator]] = value
    if both := values.keys() & ranges.keys():
        raise ValueError(f"{min(both)} has both a value and a range.")
    return {name: given[0] if len(given) == 1 else given for name, given in values.items()} | ranges


def parse_pages(pages: str) -> dict[str, int]:
    """`3-7`, `3-` or `3`: the pages of a `SearchRequest`. Raises `ValueError`."""
    found = _PAGES.fullmatch(pages.strip())
    if found is None:
        raise ValueError(f"{pages!r} is not like 3-7, 3- or 3.")
    first = int(found[1])
    if found[2] is None:
        return {"first": first, "last": first}
    return {"first": first} if found[3] is None else {"first": first, "last": int(found[3])}


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (bool, int, float, str)) else text
