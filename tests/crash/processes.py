"""The processes of the Ray cluster that this test process has started: found by what Ray calls them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import ray
from ray.util.state import list_actors

from cluster.embedded import NAMESPACE
from cluster.nodes import cluster_cpus
from tests.clusters import ray_address

PATIENCE_S = 120


def until(holds: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as it holds; an AssertionError when it does not come to that."""
    give_up_at = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


def titled(title: str) -> list[psutil.Process]:
    """Those of our processes to which Ray has given a title that begins so: `ray::ocr`."""
    return [process for process in psutil.Process().children(recursive=True) if title_of(process).startswith(title)]


def busy(title: str, computed_s: float = 0.1) -> psutil.Process:
    """One that is in the middle of its work: it has computed for so long under this title."""
    since: dict[psutil.Process, tuple[str, float]] = {}

    working: list[psutil.Process] = []

    def look() -> bool:
        for process in titled(title):
            name, spent = title_of(process), _cpu_s(process)
            if since.setdefault(process, (name, spent))[0] != name:
                since[process] = (name, spent)
            if spent - since[process][1] >= computed_s:
                working.append(process)
        return bool(working)

    until(look)
    return working[0]


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; a zombie that nobody has waited for yet counts."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@contextmanager
def frozen(process: psutil.Process) -> Iterator[psutil.Process]:
    """Stopped by SIGSTOP for the length of the block, then let go on, if it still exists."""
    process.suspend()
    try:
        yield process
    finally:
        if not is_gone(process):
            process.resume()


def actor_pid(name: str) -> int:
    """The process of one of Fanfold's named actors."""
    [actor] = list_actors(address=ray_address(), filters=[("name", "=", name), ("state", "=", "ALIVE")])
    assert actor.ray_namespace == NAMESPACE
    assert actor.pid is not None
    return int(actor.pid)


def kill_actor(name: str) -> None:
    """SIGKILL the process of a named actor."""
    os.kill(actor_pid(name), signal.SIGKILL)


def every_cpu_is_free() -> bool:
    """Whether no task holds one any more."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray ships it untyped
    return free.get("CPU", 0) == cluster_cpus()


def title_of(process: psutil.Process) -> str:
    """What it is called now; nothing when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
