"""Named fault points: where a test can make a process die, a call fail, or a reply get lost.

Every call to a store and every submission to Ray carries a point's name (`@fault_point`). That is a mark and nothing
else: the method runs as it is written. Only in a process that calls `arm`, because `FANFOLD_FAULTS` names a plan, are
the marked methods replaced by ones that look into the plan before and after the call.

A plan is a JSON file, a list of `{"point": ..., "fault": ..., "hit": n, "argument": x, "process": t, "times": m}`: the
n-th call of that point in some process (1 unless given), with x among its arguments and t in the title that Ray has
given the process (any unless given), meets the fault. Each entry fires m times (1 unless given) in the whole cluster,
whoever comes first: a process that is started again after a crash does not meet the same crash. What has fired leaves a
file in the directory `PLAN.fired`.
"""

import asyncio
import ctypes
import functools
import inspect
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from ingest.errors import FanfoldError, StoreUnavailable

Call = TypeVar("Call", bound=Callable[..., Any])
MARK = "__fault_point__"
DELAY_S = 2.0


class Fault(StrEnum):
    """What can happen at a point."""

    CRASH_BEFORE = "crash_before"  # SIGKILL of this process, nothing was done
    CRASH_AFTER = "crash_after"  # SIGKILL of this process, it was done and nobody was told
    ERROR = "error"  # an error, nothing was done
    LOST_REPLY = "lost_reply"  # an error, although it was done
    DELAY = "delay"  # it takes DELAY_S longer
    SEGFAULT = "segfault"  # native code reads where it must not
    EXIT = "exit"  # this process ends itself without a word
    HOARD = "hoard"  # memory is taken until there is no more


AFTER = {Fault.CRASH_AFTER, Fault.LOST_REPLY}
HOARD_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class FaultPoint:
    """A marked method's name, and the error that a fault there looks like to its caller."""

    name: str
    error: type[FanfoldError]


def fault_point(name: str, *, error: type[FanfoldError] = StoreUnavailable) -> Callable[[Call], Call]:
    """Name a call. Changes nothing about it until `arm` is called in this process."""

    def mark(call: Call) -> Call:
        setattr(call, MARK, FaultPoint(name, error))
        return call

    return mark


def points_of(owner: type) -> Iterator[tuple[str, FaultPoint]]:
    """The marked methods of a class, with their points."""
    for attribute, member in vars(owner).items():
        point = getattr(member, MARK, None)
        if point is not None:
            yield attribute, point


def arm(plan: Path, owners: Iterable[type]) -> None:
    """From now on the marked methods of these classes follow the plan, in this process; arming twice is arming once."""
    armed = Armed(plan)
    for owner in owners:
        for attribute, point in list(points_of(owner)):
            setattr(owner, attribute, armed.wrap(getattr(owner, attribute), point))


class Armed:
    """The plan, as one process meets it."""

    def __init__(self, plan: Path) -> None:
        self._plan = plan
        self._fired = plan.with_name(plan.name + ".fired")
        self._hits: Counter[str] = Counter()

    def wrap(self, call: Callable[..., Any], point: FaultPoint) -> Callable[..., Any]:
        """The call as it is under the plan. The wrapper carries no mark, so that it is not wrapped again."""
        if inspect.iscoroutinefunction(call):

            async def under_plan_async(*args: Any, **kwargs: Any) -> Any:
                fault = self._due(point, args)
                if fault is Fault.DELAY:
                    await asyncio.sleep(DELAY_S)
                elif fault is not None and fault not in AFTER:
                    _strike(point, fault)
                result = await call(*args, **kwargs)
                if fault in AFTER:
                    _strike(point, fault)
                return result

            return _unmarked(under_plan_async, call)

        def under_plan(*args: Any, **kwargs: Any) -> Any:
            fault = self._due(point, args)
            if fault is Fault.DELAY:
                time.sleep(DELAY_S)
            elif fault is not None and fault not in AFTER:
                _strike(point, fault)
            result = call(*args, **kwargs)
            if fault in AFTER:
                _strike(point, fault)
            return result

        return _unmarked(under_plan, call)

    def _due(self, point: FaultPoint, arguments: tuple[Any, ...]) -> Fault | None:
        """The fault that this call meets, if the plan has one that has not been met often enough yet."""
        self._hits[point.name] += 1
        for entry in self._entries():
            meant = entry["point"] == point.name and entry.get("hit", 1) <= self._hits[point.name]
            meant = meant and ("argument" not in entry or entry["argument"] in arguments)
            if meant and ("process" not in entry or entry["process"] in _title()):
                fault = Fault(entry["fault"])
                name = f"{point.name}={fault}"
                again = (f"{name}.{number}" for number in range(2, entry.get("times", 1) + 1))
                if any(map(self._claim, (name, *again))):
                    return fault
        return None

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = json.loads(self._plan.read_text(encoding="utf-8"))
        except FileNotFoundError:  # no plan at the moment: nothing fails
            return []
        return entries

    def _claim(self, name: str) -> bool:
        self._fired.mkdir(exist_ok=True)
        try:
            (self._fired / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _title() -> str:
    """What Ray has named this process after: `ray::ocr`."""
    return Path("/proc/self/cmdline").read_text(encoding="utf-8", errors="replace")


def _strike(point: FaultPoint, fault: Fault) -> None:
    match fault:
        case Fault.CRASH_BEFORE | Fault.CRASH_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        case Fault.SEGFAULT:
            ctypes.string_at(0)
        case Fault.EXIT:
            os._exit(1)
        case Fault.HOARD:
            hoard = []
            while True:
                hoard.append(bytearray(HOARD_BYTES))
        case _:
            raise point.error(f"Fault at {point.name}: {fault}.")


def _unmarked(wrapper: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    functools.update_wrapper(wrapper, call)
    delattr(wrapper, MARK)
    return wrapper
