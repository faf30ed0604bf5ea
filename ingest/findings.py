"""What fsck can find wrong between the stores, and what it can do about it."""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What can be wrong between the stores."""

    INCOMPLETE = "incomplete"  # a published revision is not what both stores hold
    STRAY_ROWS = "stray_rows"  # rows of a revision that is not shown and never will be
    ORPHAN_OBJECTS = "orphan_objects"  # checkpoints or a source that no job needs
    DEAD_LEASE = "dead_lease"  # an open job whose holder is gone, and nobody claims


REPAIRS = {
    FindingKind.INCOMPLETE: "Hide the document, and remove what is left of this revision from both stores.",
    FindingKind.STRAY_ROWS: "Remove this revision's rows from both stores.",
    FindingKind.ORPHAN_OBJECTS: "Remove these objects.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in the stores."""

    kind: FindingKind
    document_id: str
    revision: int | None
    detail: str  # for a person
    job_id: str | None  # the document's latest job
    keys: tuple[str, ...] = ()  # of orphan objects, a source last

    @property
    def repair(self) -> str | None:
        """What a repair will do; None where only a person can do something."""
        return REPAIRS.get(self.kind)
