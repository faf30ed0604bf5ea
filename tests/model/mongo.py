"""MongoDB's operators on plain records, and the client's side of MongoDB, Qdrant and the object store.

Only what production code uses, and nothing else: an operator that is not known here raises `KeyError`.
Records are never changed in place.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from qdrant_client import models

from tests.model.calls import ask

Record = dict[str, Any]

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$in": lambda value, wanted: value in wanted,
    "$ne": lambda value, wanted: value != wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$gt": lambda value, wanted: value is not None and value > wanted,
}
TAKES: dict[str, Callable[[Any, Any], bool]] = {
    "$set": lambda _known, _value: True,
    "$setOnInsert": lambda _known, _value: False,
    "$max": lambda known, value: known is None or _in_order(value) > _in_order(known),
    "$min": lambda known, value: known is None or value < known,
}


def _in_order(value: Any) -> Any:
    """What it is compared by: a record, field by field."""
    return tuple(value.values()) if isinstance(value, dict) else value


def value_at(record: Any, path: str) -> Any:
    """What stands under a dotted path; None where nothing does."""
    for name in path.split("."):
        if isinstance(record, list):
            record = dict(enumerate(record)).get(int(name))
        elif record is not None:
            record = record.get(name)
    return record


def with_value(record: Any, path: str, value: Any) -> Any:
    """The record with another value under a dotted path; a list grows by one at its end."""
    name, _, rest = path.partition(".")
    if isinstance(record, list):
        index = int(name)
        return [*record[:index], with_value(record[index], rest, value) if rest else value, *record[index + 1 :]]
    return {**record, name: with_value(record.get(name, {}), rest, value) if rest else value}


def matches(record: Record, condition: Mapping[str, Any]) -> bool:
    """Whether the record meets a filter."""
    for path, wanted in condition.items():
        if path == "$or":
            if not any(matches(record, one) for one in wanted):
                return False
        elif isinstance(wanted, dict):
            value = value_at(record, path)
            if not all(COMPARISONS[operator](value, operand) for operator, operand in wanted.items()):
                return False
        elif value_at(record, path) != wanted:
            return False
    return True


def updated(record: Record, update: Mapping[str, Mapping[str, Any]], *, inserted: bool = False) -> Record:
    """The record after an update."""
    for operator, changes in update.items():
        for path, value in changes.items():
            known = value_at(record, path)
            if TAKES[operator](known, value) or (operator == "$setOnInsert" and inserted):
                record = with_value(record, path, value)
    return record


def ordered(records: Sequence[Record], sort: Any, direction: int = 1) -> list[Record]:
    """The records in the order of a sort, by one field or a list of fields."""
    fields = [(sort, direction)] if isinstance(sort, str) else sort
    found = list(records)
    for path, way in reversed(fields):
        found.sort(key=lambda record, path=path: value_at(record, path), reverse=way < 0)  # type: ignore[misc]
    return found


class Cursor:
    """What `find` returns: asked when it is read."""

    def __init__(self, table: str, condition: Record, projection: Record | None) -> None:
        self._find: list[Any] = [table, "find", condition, projection, None, 0]

    def sort(self, field: Any, direction: int = 1) -> "Cursor":
        """Ordered."""
        self._find[4] = [(field, direction)] if isinstance(field, str) else field
        return self

    def limit(self, count: int) -> "Cursor":
        """At most so many."""
        self._find[5] = count
        return self

    def __iter__(self) -> Any:
        return iter(ask(*self._find))


class Collection:
    """The client's side of a collection: every method is one call."""

    def __init__(self, database: "Database", table: str) -> None:
        self.database = database
        self._table = table

    def find(self, condition: Record, projection: Record | None = None) -> Cursor:
        """As pymongo's."""
        return Cursor(self._table, condition, projection)

    def find_one(self, condition: Record, sort: Any = None) -> Any:
        """As pymongo's."""
        found = ask(self._table, "find", condition, None, sort, 1)
        return found[0] if found else None

    def insert_one(self, record: Record) -> Any:
        """As pymongo's."""
        return ask(self._table, "insert_one", record)

    def update_one(self, condition: Record, update: Record, *, upsert: bool = False) -> Any:
        """As pymongo's."""
        return ask(self._table, "update_one", condition, update, upsert)

    def find_one_and_update(self, condition: Record, update: Record, *, return_document: bool) -> Any:
        """As pymongo's, with the record after the update."""
        assert return_document is True
        return ask(self._table, "find_one_and_update", condition, update)

    def delete_many(self, condition: Record) -> Any:
        """As pymongo's."""
        return ask(self._table, "delete_many", condition)

    def bulk_write(self, writes: Sequence[Any], *, ordered: bool) -> Any:
        """As pymongo's, for `ReplaceOne` by id with upsert."""
        return ask(self._table, "replace", tuple(write._doc for write in writes), _fence(writes[0]._filter))


class Database:
    """The client's side of a database, as `JobStore` and `Catalog` use it."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(admin=SimpleNamespace(command=self._hello))

    def __getitem__(self, table: str) -> Collection:
        return Collection(self, table)

    @staticmethod
    def _hello(command: str) -> Record:
        assert command == "hello"
        return {"localTime": ask("clock", "now")}


class Qdrant:
    """The client's side of Qdrant, as `VectorStore` uses it: a filter becomes the one that MongoDB would take."""

    def __init__(self, collection: str) -> None:
        self._collection = SimpleNamespace(name=collection)

    def get_collections(self) -> Any:
        """The one there is."""
        return SimpleNamespace(collections=[self._collection])

    def upsert(
        self, _collection: str, *, points: Sequence[models.PointStruct], wait: bool, update_filter: models.Filter
    ) -> None:
        """As Qdrant's."""
        assert wait
        records = tuple({"_id": point.id, **(point.payload or {})} for point in points)
        ask("points", "replace", records, _condition(update_filter))

    def delete(self, _collection: str, *, points_selector: models.FilterSelector, wait: bool) -> None:
        """As Qdrant's."""
        assert wait
        ask("points", "delete_many", _condition(points_selector.filter))

    def count(self, _collection: str, *, count_filter: models.Filter) -> Any:
        """As Qdrant's."""
        return SimpleNamespace(count=len(ask("points", "find", _condition(count_filter), {"_id": 1}, None, 0)))

    def scroll(self, _collection: str, *, scroll_filter: models.Filter, **_how: Any) -> tuple[list[Any], None]:
        """As Qdrant's; all on one page."""
        found = ask("points", "find", _condition(scroll_filter), {"_id": 1}, None, 0)
        return [SimpleNamespace(id=record["_id"], payload=None) for record in found], None


def _range(given: models.Range) -> Record:
    return {"$lte": given.lte} if given.gt is None else {"$gt": given.gt}


def _fence(condition: Record) -> Record:
    """What a record that is there must meet to be replaced, besides its id."""
    return {path: wanted for path, wanted in condition.items() if path != "_id"}


def _condition(given: Any) -> Record:
    condition: Record = {}
    for one in given.must or []:
        operators = condition.setdefault(one.key, {})
        operators |= {"$in": [one.match.value]} if one.match is not None else _range(one.range)
    for one in given.must_not or []:
        condition.setdefault(one.key, {})["$ne"] = one.match.value
    return condition


class Objects:
    """The client's side of the object store."""

    def exists(self, key: str) -> bool:
        """As `ObjectStore.exists`."""
        return bool(ask("objects", "exists", key))

    def put_file(self, key: str, _path: object) -> bool:
        """As `ObjectStore.put_file`."""
        return bool(ask("objects", "put", key))

    def keys(self, prefix: str) -> list[str]:
        """As `ObjectStore.keys`."""
        return list(ask("objects", "keys", prefix))

    def delete(self, key: str) -> None:
        """As `ObjectStore.delete`."""
        ask("objects", "delete", key)
