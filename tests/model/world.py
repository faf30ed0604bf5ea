"""What is durable, and what one call does to it.

Equal records, tables and worlds are the same objects, so that comparing them costs nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pymongo.errors import BulkWriteError, DuplicateKeyError

from ingest.errors import ObjectMissing
from ingest.stores.catalog import DUPLICATE_KEY
from tests.model.calls import Call, Raised
from tests.model.mongo import Record, matches, ordered, updated, value_at

START = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2036, 1, 1, tzinfo=UTC)
SHOWN_ONLY = {  # instants by which nothing is decided, but for being there: one value for each, so that states meet
    "started_at": START,
    "finished_at": START,
    "ended_at": START,
    "created_at": START,
    "cancel_requested_at": START,
    "since": START,
    "deleted_at": START,  # but for SWEEP_AGAIN, beside which what else passes is nothing
    "deadline_at": FAR,  # the limit of a job's time is not among what is explored
    "worked_s": 0.0,
}
A_MOMENT = timedelta(milliseconds=1)  # between two requests for a sweep, although the clock stands still
Unique = tuple[Callable[[Record], bool], tuple[str, ...]]
UNIQUE: Mapping[str, tuple[Unique, ...]] = {
    "jobs": (
        (lambda record: bool(record["open"]), ("document_id",)),
        (lambda _record: True, ("document_id", "revision")),
    ),
    "documents": (),
    "chunks": ((lambda _record: True, ("document_id", "revision", "chunk_index")),),
    "points": (),
}


class Updated(NamedTuple):
    """What an update says."""

    matched_count: int
    modified_count: int


class Table(dict[str, Record]):
    """Records by id. Compared by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # equal tables are the same object

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Everything durable, and the clock. Compared by identity."""

    clock: float
    objects: frozenset[str]
    jobs: Table
    documents: Table
    chunks: Table
    points: Table
    late: frozenset[str]  # rows and objects that an attempt wrote which had lost its lease: nobody may know of them

    @property
    def now(self) -> datetime:
        """The database's clock."""
        return START + timedelta(seconds=self.clock)


class Universe:
    """Every world that was met, and how calls lead from one to another."""

    def __init__(self) -> None:
        self._records: dict[Any, Record] = {}
        self._tables: dict[frozenset[int], Table] = {}
        self._worlds: dict[Any, World] = {}

    def __len__(self) -> int:
        return len(self._worlds)

    @property
    def empty(self) -> World:
        """Nothing, at the beginning of time."""
        return self._world(
            clock=0.0, objects=frozenset(), late=frozenset(), **{name: self._table([]) for name in UNIQUE}
        )

    def later(self, world: World, seconds: float) -> World:
        """The same, when time has passed."""
        return self._changed(world, clock=world.clock + seconds)

    def perform(self, world: World, call: Call, *, late: bool = False) -> tuple[World, Any]:
        """The world after the call, and what it returns. Atomic. `late`: by an attempt that has lost its lease."""
        after, outcome = self._performed(world, call)
        if late or world.late:
            fresh = _names(after) - (frozenset() if call.method == "replace" else _names(world))
            written = fresh & _written_by(call)
            after = self._changed(
                after, late=((after.late - written) | (written if late else frozenset())) & _names(after)
            )
        return after, outcome

    def _performed(self, world: World, call: Call) -> tuple[World, Any]:
        target, method, args = call.target, call.method, call.args
        if target in UNIQUE:
            after, outcome = getattr(self, f"_{method}")(world, target, *args)
            return after, outcome
        if target == "clock":
            return world, world.now if method == "now" else world.clock
        after, outcome = getattr(self, f"_{target}_{method}")(world, *args)
        return after, outcome

    def _find(  # noqa: PLR0913  # what a find has
        self, world: World, table: str, condition: Record, projection: Any, sort: Any, limit: int
    ) -> tuple[World, Any]:
        found = [record for record in getattr(world, table).values() if matches(record, condition)]
        if sort is not None:
            found = ordered(found, sort)
        if projection is not None:
            found = [self._record({name: record[name] for name in projection}) for record in found]
        return world, found[: limit or None]

    def _insert_one(self, world: World, table: str, record: Record) -> tuple[World, Any]:
        return self._written(world, table, None, record, None)

    def _update_one(
        self, world: World, table: str, condition: Record, update: Record, upsert: bool
    ) -> tuple[World, Any]:
        for record in getattr(world, table).values():
            if matches(record, condition):
                change = updated(record, update)
                if change.get("sweep_at") is not None and change["sweep_at"] == record["sweep_at"]:
                    change = {**change, "sweep_at": change["sweep_at"] - A_MOMENT}
                return self._written(world, table, record, change, Updated(1, int(change != record)))
        if not upsert:
            return world, Updated(0, 0)
        return self._written(world, table, None, updated(dict(condition), update, inserted=True), Updated(0, 0))

    def _find_one_and_update(self, world: World, table: str, condition: Record, update: Record) -> tuple[World, Any]:
        for record in getattr(world, table).values():
            if matches(record, condition):
                after, outcome = self._written(world, table, record, updated(record, update), None)
                return after, outcome or getattr(after, table)[record["_id"]]
        return world, None

    def _replace(self, world: World, table: str, records: Iterable[Record], fence: Record) -> tuple[World, Any]:
        """Each record in the place of the one of its id, if that meets the fence; MongoDB says which do not."""
        refused = []
        for record in records:
            known = getattr(world, table).get(record["_id"], {})
            if known and not matches(known, fence):
                refused.append({"code": DUPLICATE_KEY})
            else:
                world, _ = self._written(world, table, known, record, None)
        if refused and table == "chunks":
            return world, Raised(BulkWriteError({"writeErrors": refused}))
        return world, None

    def _delete_many(self, world: World, table: str, condition: Record) -> tuple[World, Any]:
        kept = [record for record in getattr(world, table).values() if not matches(record, condition)]
        return self._changed(world, **{table: self._table(kept)}), None

    def _objects_exists(self, world: World, key: str) -> tuple[World, Any]:
        return world, key in world.objects

    def _objects_put(self, world: World, key: str) -> tuple[World, Any]:
        return self._changed(world, objects=world.objects | {key}), key not in world.objects

    def _objects_keys(self, world: World, prefix: str) -> tuple[World, Any]:
        return world, tuple(sorted(key for key in world.objects if key.startswith(prefix)))

    def _objects_delete(self, world: World, key: str) -> tuple[World, Any]:
        return self._changed(world, objects=world.objects - {key}), None

    def _engine_make(self, world: World, makes: str, needs: str) -> tuple[World, Any]:
        if makes in world.objects:
            return world, None
        if needs not in world.objects:
            return world, Raised(ObjectMissing(f"Object {needs} is gone."))
        return self._changed(world, objects=world.objects | {makes}), None

    def _engine_read(self, world: World, *needs: str) -> tuple[World, Any]:
        missing = [key for key in needs if key not in world.objects]
        return world, Raised(ObjectMissing(f"Object {missing[0]} is gone.")) if missing else None

    def _user_waits(self, world: World) -> tuple[World, Any]:
        return world, None

    def _user_new_id(self, world: World) -> tuple[World, Any]:
        return world, f"job-{len(world.jobs) + 1}"

    def _written(
        self, world: World, table: str, before: Record | None, after: Record, outcome: Any
    ) -> tuple[World, Any]:
        """One record in the place of another, if the unique indexes allow it. No `before`: it must be new."""
        known: Table = getattr(world, table)
        record = self._record(_kept(after))
        others = [one for one in known.values() if one["_id"] != record["_id"]]
        if (before is None and record["_id"] in known) or any(
            applies(record) and applies(one) and all(value_at(one, path) == value_at(record, path) for path in paths)
            for applies, paths in UNIQUE[table]
            for one in others
        ):
            return world, Raised(DuplicateKeyError("E11000 duplicate key error"))
        return self._changed(world, **{table: self._table([*others, record])}), outcome

    def _changed(self, world: World, **changes: Any) -> World:
        return self._world(**({name: getattr(world, name) for name in World.__slots__} | changes))

    def _world(self, **parts: Any) -> World:
        key = tuple(parts[name] for name in World.__slots__)
        known = self._worlds.get(key)
        if known is None:
            known = self._worlds[key] = World(**parts)
        return known

    def _table(self, records: list[Record]) -> Table:
        key = frozenset(map(id, records))
        if key not in self._tables:
            self._tables[key] = Table((record["_id"], record) for record in sorted(records, key=lambda one: one["_id"]))
        return self._tables[key]

    def _record(self, record: Record) -> Record:
        return self._records.setdefault(frozen(record), record)


def _names(world: World) -> frozenset[str]:
    return world.objects | world.chunks.keys() | {f"point {key}" for key in world.points}


def _written_by(call: Call) -> frozenset[str]:
    if call.method == "replace":
        return frozenset(f"point {row['_id']}" if call.target == "points" else row["_id"] for row in call.args[0])
    return frozenset(call.args[:1]) if call.method == "make" else frozenset()


def frozen(value: Any) -> Any:
    """The value as something that can be hashed."""
    if isinstance(value, dict):
        return tuple((name, frozen(value[name])) for name in sorted(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    return value


def _kept(value: Any) -> Any:
    """The value as it is stored: instants that are only shown lose what tells them apart."""
    if isinstance(value, dict):
        return {
            str(name): SHOWN_ONLY[name] if name in SHOWN_ONLY and one is not None else _kept(one)
            for name, one in value.items()
        }
    return [_kept(one) for one in value] if isinstance(value, list) else value
