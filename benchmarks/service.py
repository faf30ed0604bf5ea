"""What running Fanfold costs before it does anything: the time until it is ready, and its idle memory."""

import os
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.running import fanfold_up

SETTLE_S = 10.0


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory, fanfold_up(Path(directory, "home")) as service:
        time.sleep(SETTLE_S)
        idle_mib = _memory_mib(service.pid)
        start_s = service.start_s
    table = Table(title=f"{os.cpu_count()} cores")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_row("fanfold up, until /readyz says ready", f"{start_s:.0f} s")
    table.add_row("idle memory of everything it started (proportional set size)", f"{idle_mib / 1024:.1f} GiB")
    Console().print(table)


def _memory_mib(pid: int) -> float:
    """Proportional set size of a process and everything below it: shared pages are counted once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in family) / 1024**2)


if __name__ == "__main__":
    main()
