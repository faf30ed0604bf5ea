"""The `fanfold up` of a data directory: at most one, found by the lock it holds, stopped by a signal."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingest.errors import Conflict

STOP_POLL_S = 0.1


def _lock_path(home: Path) -> Path:
    return home / "up.lock"


@contextmanager
def only_instance(home: Path) -> Iterator[None]:
    """Hold the data directory for this process. Raises `Conflict` when another one has it.

    The lock is the operating system's, so it ends with the process, however it dies.
    """
    home.mkdir(parents=True, exist_ok=True)
    with _lock_path(home).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("Fanfold runs here already. Stop it with: fanfold down") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def stop_instance(home: Path, *, timeout_s: float) -> bool:
    """Ask the running instance to stop, and wait until it has; False when none runs.

    Raises `Conflict` when it takes longer than `timeout_s`.
    """
    path = _lock_path(home)
    if not path.exists():
        return False
    with path.open("r+") as file:
        give_up_at = time.monotonic() + timeout_s
        asked = False
        while not _try_lock(file.fileno()):
            if not asked:
                os.kill(int(file.read()), signal.SIGTERM)
                asked = True
            if time.monotonic() > give_up_at:
                raise Conflict(f"Fanfold has not stopped after {timeout_s:g} seconds.")
            time.sleep(STOP_POLL_S)
        return asked


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
