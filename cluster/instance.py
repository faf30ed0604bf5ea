"""The `fanfold up` of a data directory: at most one, found by the lock it holds, stopped by a signal."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ingest.errors import ConfigurationError, Conflict

STOP_POLL_S = 0.1
UP = "up"  # the task of an instance


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the running instance has what only it knows: what was chosen at its start."""

    ray_address: str
    ray_auth_mode: str | None
    mongodb_uri: str | None  # of the embedded one


def _lock_path(home: Path) -> Path:
    return home / "up.lock"


def _addresses_path(home: Path) -> Path:
    return home / "up.json"


@contextmanager
def only_instance(home: Path, *, task: str = UP) -> Iterator[None]:
    """Hold the data directory for this process and its task. Raises `Conflict` when another one has it.

    The lock is the operating system's, so it ends with the process, however it dies.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"FANFOLD_DATA_DIR={home} cannot be created: {error.strerror}.") from error
    with _lock_path(home).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _instance(file)
            raise Conflict("Fanfold runs here already. Stop it with: fanfold down") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {task}")
        file.flush()
        _addresses_path(home).unlink(missing_ok=True)  # of one that was killed
        try:
            yield
        finally:
            _addresses_path(home).unlink(missing_ok=True)


def tell_addresses(home: Path, addresses: Addresses) -> None:
    """Leave them for the other commands of this user; only the holder of the lock may."""
    descriptor = os.open(_addresses_path(home), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(addresses), file)


def addresses_of_instance(home: Path) -> Addresses:
    """The running instance's addresses. Raises `Conflict` when it has none yet, or no more."""
    try:
        return Addresses(**json.loads(_addresses_path(home).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        if _lock_path(home).exists():
            with _lock_path(home).open(encoding="utf-8") as file:
                _instance(file)
        raise Conflict("Fanfold is just starting or stopping here. Try again in a moment.") from None


def adopt_ray_auth(home: Path) -> None:
    """Talk to Ray as the running instance does, if there is one. Has an effect only before Ray is imported."""
    if _addresses_path(home).exists():
        mode = addresses_of_instance(home).ray_auth_mode
        if mode is not None:
            os.environ.setdefault("RAY_AUTH_MODE", mode)


def stop_instance(home: Path, *, timeout_s: float) -> bool:
    """Ask the running instance to stop, and wait until it has; False when none runs.

    Raises `Conflict` when it takes longer than `timeout_s`, or when what holds the data directory is no instance.
    """
    path = _lock_path(home)
    if not path.exists():
        return False
    with path.open("r+") as file:
        give_up_at = time.monotonic() + timeout_s
        asked = False
        while not _try_lock(file.fileno()):
            pid = _instance(file)
            if pid is not None and not asked:
                os.kill(pid, signal.SIGTERM)
                asked = True
            if time.monotonic() > give_up_at:
                raise Conflict(f"Fanfold has not stopped after {timeout_s:g} seconds.")
            time.sleep(STOP_POLL_S)
        return asked


def _instance(lock: IO[str]) -> int | None:
    """The process that holds the lock; None while it has not said so. Raises `Conflict` when it is no instance."""
    lock.seek(0)
    pid, _, task = lock.read().partition(" ")
    if task and task != UP:
        raise Conflict(f"`fanfold {task}` is at work on this data directory. Wait until it has ended.")
    return int(pid) if pid else None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
