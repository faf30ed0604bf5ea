"""Fault points: every call has one, they cost nothing when unset, and each fault does what its name says."""

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path

import pytest

from cluster.composition import STORE_CLASSES
from cluster.engine import RayEngine
from ingest import faults
from ingest.errors import StoreUnavailable, WorkerCrashed
from ingest.faults import Fault, FaultPoint, fault_point, points_of
from ingest.stores.jobs import JobStore

ROOT = Path(__file__).parents[2]
START_UP = {f"{store}.prepare" for store in ("JobStore", "Catalog", "ReceiptStore", "Roster", "VectorStore")}
HEALTH = {f"{store}.ping" for store in ("Catalog", "VectorStore", "DirectoryStore", "S3Store")}
OF_METRICS = {"JobStore.backlog"}
OF_FSCK = {"JobStore.open_jobs", "VectorStore.collections_with", "VectorStore.points", "DirectoryStore.names"}
OF_FSCK |= {"S3Store.names", "Catalog.document_ids", "Catalog.revisions", "Catalog.unpublish"}
IN_OTHERS = {"JobStore.write_held", "JobStore.read_held", "JobStore.renewal"}  # HeldJob's methods carry the points
EXEMPT = START_UP | HEALTH | OF_METRICS | OF_FSCK | IN_OTHERS | {"VectorStore.check_version", "RayEngine.at_hand"}
SUBMITS = {"remote"}
UNMARKED = {
    "embedders._run": "is `engine.embed`, which has a point",
    "embedders._start_actor": "an embedder that does not come is started again: tests/crash/test_frozen.py",
    "embedders._loading_of": "the same",
    "work.kill_process": "a worker that is not killed is said to be there: tests/unit/test_work.py",
    "flags.raise_flag": "a hint, on which nothing depends: tests/crash/test_cancel.py kills the actor",
    "flags.listen": "the same",
    "flags._flags_actor": "start-up",
    "embedded.start_embedded_qdrant": "start-up",
    "embedded.stop_embedded_qdrant": "the end",
    "embedded._call": "is under each `vectors.*` point",
    "supervisor.start_supervisors": "start-up",
    "supervisor._start": "the same; and the keeper tries again: tests/crash/test_processes.py",
    "keeper._run": "it tries again, as `supervisor._start` does",
    "keeper.start_keeper": "start-up",
    "keeper.stop_keeper": "the end",
    "supervisor.stop_supervisors": "the end",
    "supervisor.probe_supervisors": "health",
    "views._see": "a page's image for a reader, which writes nothing",
    "app.__init__": "a query's embedding for a reader, which writes nothing",
    "app.embed_query": "the same",
}


def counter() -> type:
    """A class like a store: one call, which counts."""

    class Counter:
        def __init__(self) -> None:
            self.calls = 0

        @fault_point("counter.add")
        def add(self) -> int:
            self.calls += 1
            return self.calls

        @fault_point("counter.add_later", error=WorkerCrashed)
        async def add_later(self) -> int:
            self.calls += 1
            return self.calls

    return Counter


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plan."""

    def write(*entries: dict[str, object]) -> Path:
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(entries), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("owner", [*STORE_CLASSES, RayEngine], ids=lambda owner: owner.__name__)
def test_every_public_call_has_a_point(owner: type) -> None:
    """A new store call or Ray submission without a fault point fails here, and so does one that is exempt no more."""
    calls = {name for name, member in vars(owner).items() if isfunction(member) and not name.startswith("_")}
    without = {f"{owner.__name__}.{name}" for name in calls - {name for name, _ in points_of(owner)}}
    assert without == {name for name in EXEMPT if name.startswith(f"{owner.__name__}.")}


def submissions() -> set[str]:
    """Every function that sends something to Ray: `module.function`."""
    found = set()
    for path in sorted(path for folder in ("cluster", "serve") for path in (ROOT / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = [node for statement in function.body for node in ast.walk(statement)]  # not its decorators
                if any(isinstance(node, ast.Attribute) and node.attr in SUBMITS for node in body):
                    found.add(f"{path.stem}.{function.name}")
    return found


def test_every_submission_to_ray_has_a_point_or_a_reason_for_none() -> None:
    """A document's work goes through the engine's marked methods; what is sent beside it is listed here."""
    marked = {f"engine.{name}" for name, _ in points_of(RayEngine)}
    assert submissions() - marked == UNMARKED.keys()


def test_a_name_is_one_call() -> None:
    """Within a class no two calls share a point; all are named after what they belong to."""
    for owner in (*STORE_CLASSES, RayEngine):
        names = [point.name for _, point in points_of(owner)]
        assert len(names) == len(set(names))
        assert all(
            name.split(".")[1] == attribute for (attribute, _), name in zip(points_of(owner), names, strict=True)
        )


def test_unarmed_a_mark_changes_nothing() -> None:
    """The decorated function is the function itself: no wrapper, no look at any plan."""

    def call() -> None: ...

    assert fault_point("a.call")(call) is call
    assert isinstance(vars(JobStore)["claim"].__fault_point__, FaultPoint)


@pytest.mark.parametrize(("fault", "applied"), [(Fault.ERROR, 0), (Fault.LOST_REPLY, 1)])
def test_an_error_is_met_once_before_or_after_the_call(plan: Callable[..., Path], fault: Fault, applied: int) -> None:
    """The caller sees the point's error; whether it was applied is the difference; the next call is as ever."""
    owner = counter()
    faults.arm(plan({"point": "counter.add", "fault": fault}), [owner])
    thing = owner()
    with pytest.raises(StoreUnavailable, match=r"counter\.add"):
        thing.add()
    assert thing.calls == applied
    assert thing.add() == applied + 1


async def test_an_async_call_meets_its_own_error(plan: Callable[..., Path]) -> None:
    """Coroutines follow the plan too, with the error that their caller knows."""
    owner = counter()
    faults.arm(plan({"point": "counter.add_later", "fault": "lost_reply", "hit": 2}), [owner])
    thing = owner()
    assert await thing.add_later() == 1
    with pytest.raises(WorkerCrashed):
        await thing.add_later()
    assert await thing.add_later() == 3


def test_a_delay_delays(plan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The call takes longer, and nothing else."""
    monkeypatch.setattr(faults, "DELAY_S", 0.2)
    owner = counter()
    faults.arm(plan({"point": "counter.add", "fault": "delay"}), [owner])
    started_at = time.monotonic()
    assert owner().add() == 1
    assert time.monotonic() - started_at >= 0.2


def test_arming_twice_is_arming_once(plan: Callable[..., Path]) -> None:
    """One fault, not two, however many tasks a process has run before."""
    owner = counter()
    path = plan({"point": "counter.add", "fault": "error"}, {"point": "counter.add", "fault": "lost_reply"})
    faults.arm(path, [owner])
    faults.arm(path, [owner])
    thing = owner()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            thing.add()
    assert thing.add() == 2


def test_a_fault_may_be_meant_for_one_kind_of_process(
    plan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by its title, which changes with what it does: until then the call is as ever."""
    title = "ray::cut 0123abcd r1"
    monkeypatch.setattr(faults, "_title", lambda: title)
    owner = counter()
    faults.arm(plan({"point": "counter.add", "fault": "error", "process": "ray::store"}), [owner])
    thing = owner()
    assert thing.add() == 1
    title = "ray::store 0123abcd r1 batch 0"
    with pytest.raises(StoreUnavailable):
        thing.add()
    assert thing.calls == 1


@pytest.mark.parametrize(("fault", "said"), [("crash_before", ""), ("crash_after", "applied\n")])
def test_a_crash_is_a_sigkill_that_only_the_first_process_meets(
    plan: Callable[..., Path], fault: str, said: str
) -> None:
    """The process dies without a word, before or after the call; the one started after it does not."""
    path = plan({"point": "a.call", "fault": fault})
    program = (
        "import sys\nfrom pathlib import Path\nfrom ingest.faults import arm, fault_point\n"
        "class A:\n    @fault_point('a.call')\n    def call(self):\n        print('applied', flush=True)\n"
        f"arm(Path({str(path)!r}), [A])\nA().call()\nprint('alive')"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False) for _ in range(2)
    )
    assert (first.returncode, first.stdout) == (-9, said)
    assert (second.returncode, second.stdout) == (0, "applied\nalive\n")
