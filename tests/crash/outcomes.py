"""What became of each schedule, kept on disk: a run that was interrupted, or met a busy machine, is gone on with.

Only runs of the same sources count together, and the report says which schedules were run more than once.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("ingest", "cluster", "serve")
KEPT = ROOT / "build" / "crash"


def sources() -> str:
    """A name for what is being tested: the same for the same sources, whatever else has changed."""
    digest = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in (ROOT / name).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(slots=True)
class Outcomes:
    """Every outcome of every schedule, in the order of the runs; each is written down at once."""

    path: Path
    _found: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        known = self.path.exists()
        self._found = json.loads(self.path.read_text(encoding="utf-8")) if known else {}

    def begin(self, schedule: str) -> None:
        """It is run; until `end` its outcome is the worst."""
        self._found.setdefault(schedule, []).append("VIOLATED")
        self._write()

    def end(self, schedule: str, outcome: str) -> None:
        """How this run of it ended."""
        self._found[schedule][-1] = outcome
        self._write()

    def last(self, schedule: str) -> str | None:
        """The outcome of its last run; None when it was never run."""
        return self._found[schedule][-1] if schedule in self._found else None

    def run_again(self) -> list[str]:
        """Those whose outcome changed from one run to the next, with all of them."""
        return [f"`{name}`: {', then '.join(runs)}" for name, runs in self._found.items() if len(set(runs)) > 1]

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        beside.rename(self.path)
