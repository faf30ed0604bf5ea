"""How much memory this process has mapped, which is what `RLIMIT_AS` bounds."""

import resource
from pathlib import Path


def mapped_bytes() -> int:
    """As of now. Source: statm, proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
