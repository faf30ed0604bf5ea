"""What `make crash` goes through: every point, in the processes that come to it, times every fault; and its report."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from ingest.faults import Fault
from tests.crash.faulty import NOT_HERE, POINTS, Entry
from tests.crash.outcomes import Outcomes, sources

REPORT = Path(__file__).parents[2] / "docs" / "crash-report.md"
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.ERROR, Fault.LOST_REPLY)


class Way(StrEnum):
    """What becomes of the schedule's document."""

    PUBLISHED = "published"
    REFUSED = "refused"  # it cannot be read: rolled back, nothing kept
    CANCELLED = "cancelled"  # when all its rows are written; then retried, and published
    UNCLAIMED = "cancelled unclaimed"  # and its retry too, whose retry is published
    DELETED = "deleted"  # after it was published
    PARTIAL = "published in part"  # one of its pages is broken
    RESTARTED = "published after a restart"  # of the supervisor, when all its rows are written
    REPLACED = "published anew"  # by another pipeline than before; somebody reads it all the time


OTHER_WAYS = {
    "catalog.advance": (Way.PUBLISHED, Way.REPLACED),
    "catalog.delete_other_revisions": (Way.REPLACED, Way.DELETED),
    "catalog.delete_revision": (Way.CANCELLED,),
    "catalog.publish": (Way.PUBLISHED, Way.REPLACED),
    "catalog.tombstone": (Way.DELETED,),
    "jobs.cancel_unclaimed": (Way.UNCLAIMED,),
    "jobs.record_failed_pages": (Way.PARTIAL,),
    "jobs.release": (Way.RESTARTED,),
    "jobs.repin": (Way.RESTARTED,),
    "jobs.close": (Way.PUBLISHED, Way.REPLACED, Way.REFUSED, Way.CANCELLED, Way.DELETED),
    "jobs.decide_publish": (Way.PUBLISHED, Way.REPLACED),
    "jobs.reopen_due": (Way.DELETED,),
    "jobs.request_cancel": (Way.CANCELLED,),
    "jobs.request_sweep": (Way.DELETED,),
    "jobs.settle": (Way.PUBLISHED, Way.REPLACED, Way.REFUSED, Way.CANCELLED),
    "jobs.was_worked_on": (Way.UNCLAIMED,),
    "roster.leave": (Way.RESTARTED,),
    "objects.delete": (Way.PUBLISHED, Way.REPLACED, Way.CANCELLED, Way.DELETED),
    "vectors.delete_other_revisions": (Way.REPLACED, Way.DELETED),
    "vectors.delete_revision": (Way.CANCELLED,),
    "vectors.upsert": (Way.PUBLISHED, Way.REPLACED),
}
DETOURS = {  # what must happen before the point is reached
    "jobs.requeue": {"point": "ray.cut", "fault": Fault.ERROR},
    "jobs.renew": {"point": "ray.cut", "fault": Fault.DELAY},
    "jobs.look": {"point": "ray.cut", "fault": Fault.DELAY},
}
HINTED = {"jobs.look", "jobs.claim_ending"}
IN_PROCESS = {  # whose title Ray has begun so; everywhere else whichever process comes first meets the fault
    ("objects.exists", "embedder"): "ray::embed",  # until the call waits for the first time
    ("objects.open", "embedder"): "ray::embed",
    ("objects.put", "embedder"): "ray::EmbedderActor",
    ("objects.put", "page's worker"): "ray::ocr",
    ("objects.put", "chunker"): "ray::cut",
    ("objects.get", "writer"): "ray::store",
}


@dataclass(frozen=True)
class Schedule:
    """One fault at one point, on a document's way."""

    point: str
    fault: Fault
    way: Way = Way.PUBLISHED
    process: str = ""
    on_s3: bool = False

    @property
    def name(self) -> str:
        """Tells it from all others."""
        where = f"-{self.process}" if self.process else "-s3" if self.on_s3 else ""
        return f"{self.point}{where}-{self.way}-{self.fault}"

    @property
    def row(self) -> tuple[str, str]:
        """Of the report: the point, and what becomes of the document."""
        where = f" in the {self.process}" if self.process else " on S3" if self.on_s3 else ""
        return f"`{self.point}`{where}", self.way

    @property
    def entry(self) -> Entry:
        """Of the plan."""
        meant = {"process": IN_PROCESS[self.point, self.process]} if self.process else {}
        return {"point": self.point, "fault": self.fault, **meant}


def schedules(*, on_s3: bool | None = None) -> list[Schedule]:
    """All of them, or those where the objects are on S3, or those where they are in a directory."""
    anywhere = [(point, way) for point in POINTS for way in OTHER_WAYS.get(point, (Way.PUBLISHED,))]
    found = [Schedule(point, fault, way) for point, way in anywhere for fault in FAULTS]
    found += [Schedule(point, fault, process=process) for point, process in IN_PROCESS for fault in FAULTS]
    found += [replace(one, on_s3=True) for one in found if one.point.startswith("objects.") and not one.process]
    return [one for one in found if on_s3 in {None, one.on_s3}]


def report(outcomes: Outcomes) -> str:
    """The table, when each schedule has an outcome."""
    last = {schedule: outcomes.last(schedule.name) for schedule in schedules()}
    ran = [outcome for outcome in last.values() if outcome != "not reached"]
    again = outcomes.run_again()
    lines = [
        "# Crash report",
        "",
        "Written by `make crash`: each row is a fault point on a document's way, each column a fault. One real run",
        "each, in a running cluster: the process that meets the fault is killed with SIGKILL, refused, or not",
        "answered; then the document goes on to its end, and the invariants are checked, of every document so far.",
        "",
        "*published*: MongoDB's chunk ids = Qdrant's point ids = the manifest, every text is word for word that of an",
        "undisturbed run, nothing is left over. *refused*: no row, no object. *cancelled*, when all rows are written:",
        "no row, no checkpoint, and its retry is published. *cancelled unclaimed*: at once, twice in a row, then",
        "published. *deleted*: hidden at once, swept. *published in part*: but for a broken page. *published after a",
        "restart*: its supervisor is stopped when all rows are written, for `jobs.repin` by one with other settings.",
        "*published anew*: an earlier version, of other settings, is read whole until the new one is.",
        "",
        f"{len(ran)} schedules run, {ran.count('VIOLATED')} violations. The sources: `{sources()}`, a hash over them.",
        "",
        *(["Run again, with another outcome:", "", *(f"- {one}" for one in again), ""] if again else []),
        "| point | the document is | " + " | ".join(FAULTS) + " |",
        "|---|---|" + "---|" * len(FAULTS),
    ]
    rows: dict[tuple[str, str], list[str]] = {}
    for schedule, outcome in last.items():
        rows.setdefault(schedule.row, []).append(str(outcome))
    lines += [f"| {where} | {way} | " + " | ".join(cells) + " |" for (where, way), cells in rows.items()]
    lines += ["", "Elsewhere:", "", *(f"- `{point}` {why}" for point, why in NOT_HERE.items()), ""]
    return "\n".join(lines)
