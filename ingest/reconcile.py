"""Fsck: find, in every store, what the others do not know, and put it right.

A document that holds an open job is that job's business: nothing of it is reported or touched. All else is looked at
between two readings of the document's latest job. When both show the same closed job, no other job existed meanwhile
(revisions only rise): what was read in between is how the stores stand, not work on its way.

A repair asks the same question first. A submit may open a job right after the answer. That is harmless: the rows that
are removed are not those of the new job; a checkpoint that goes is made again; a source that goes is put back.
"""

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from ingest import ids
from ingest.collection import checkpoints_to_remove, kept_objects
from ingest.findings import Finding, FindingKind
from ingest.model import Document, Job, Keeping
from ingest.stores import Stores

SUBMIT_GRACE_S = 2.0  # a submit puts the source, then inserts the job: wait this long before calling a source an orphan
KEEP_ALL = Keeping(source=True, pages=True)  # of a document whose collection has not said what to keep
SOURCES, CHECKPOINTS = "sources/", "checkpoints/"


@dataclass(slots=True)
class _Tally:
    """A set of point ids, remembered as their number and exclusive or: enough to compare it with a manifest."""

    count: int = 0
    digest: int = 0

    def add(self, point_id: str) -> None:
        self.count += 1
        self.digest ^= UUID(point_id).int


_Revisions = dict[int, dict[str, _Tally]]  # revision -> Qdrant collection -> its points


def findings(stores: Stores) -> Iterator[Finding]:
    """Everything that is wrong, one document at a time; documents with an open job are left out.

    Memory is bounded by one document and a few numbers for each revision there is.
    """
    yield from _dead_leases(stores)
    submitted_before = time.monotonic()
    objects = {name.removesuffix(".pdf") for name in stores.objects.names(SOURCES) if name.endswith(".pdf")}
    objects.update(stores.objects.names(CHECKPOINTS))
    rows = _rows(stores)

    def check(document_id: str) -> list[Finding]:
        held, has_objects = rows.pop(document_id, {}), document_id in objects
        objects.discard(document_id)
        case = _Case.read(stores, document_id)
        if case is None:
            return []
        found = [*case.wrong_rows(held)]
        if has_objects:
            found += case.orphans(submitted_before)
        return found if found and _untouched(stores, document_id, case.job_id) else []

    for document_id in stores.catalog.document_ids():
        yield from check(document_id)
    for document_id in sorted(rows.keys() | objects):  # those that the catalog does not know
        yield from check(document_id)


def repair(stores: Stores, finding: Finding) -> bool:
    """Put it right; False when the document got another job meanwhile, or when this cannot be repaired from here.

    Repairing again what is repaired changes nothing.
    """
    if finding.repair is None or not _untouched(stores, finding.document_id, finding.job_id):
        return False
    if finding.revision is None:
        for key in finding.keys:
            _delete_object(stores, finding.document_id, key)
        return True
    if finding.kind is FindingKind.INCOMPLETE:
        stores.catalog.unpublish(finding.document_id, finding.revision)  # first: nobody must see it shrink
    stores.catalog.delete_revision(finding.document_id, finding.revision)
    stores.vectors.delete_revision(finding.document_id, finding.revision)
    return True


def _dead_leases(stores: Stores) -> Iterator[Finding]:
    """Jobs whose lease ended long ago. While anybody holds a live lease a supervisor works, and will come to them."""
    now = stores.jobs.now()
    dead = []
    for job in stores.jobs.open_jobs():
        if job.lease.holder is not None and job.lease.expires_at > now:
            return
        if job.lease.holder is not None and job.lease.expires_at + stores.jobs.lease_ttl < now:
            dead.append(job)
    for job in dead:
        detail = (
            f"Job {job.job_id} is {job.state}, its holder has been gone since {job.lease.expires_at:%Y-%m-%d %H:%M:%S} "
            "UTC, and nobody takes it over. Start a supervisor: fanfold up"
        )
        yield Finding(FindingKind.DEAD_LEASE, job.document_id, job.revision, detail, job.job_id)


def _rows(stores: Stores) -> defaultdict[str, _Revisions]:
    """A first look at both stores, by document; what looks wrong in it is looked at again."""
    rows: defaultdict[str, _Revisions] = defaultdict(dict)
    for document_id, revision in stores.catalog.revisions():
        rows[document_id].setdefault(revision, {})
    for point in stores.vectors.points():
        if point.document_id is not None and point.revision is not None:
            places = rows[point.document_id].setdefault(point.revision, {})
            places.setdefault(point.collection, _Tally()).add(point.point_id)
    return rows


@dataclass(frozen=True, slots=True)
class _Case:
    """A document that no job held when it was read."""

    stores: Stores
    document_id: str
    latest: Job | None
    document: Document | None  # None when it is unknown or deleted
    why_gone: str

    @classmethod
    def read(cls, stores: Stores, document_id: str) -> "_Case | None":
        latest = stores.jobs.latest(document_id)
        if latest is not None and latest.open:
            return None
        document = stores.catalog.known(document_id)
        if document is None:
            return cls(stores, document_id, latest, None, "the document is unknown")
        deleted = document.deleted_at is not None
        if deleted and latest is not None and latest.sweep_at is not None:
            return None  # its last job will be opened once more, to remove what is left
        return cls(stores, document_id, latest, None if deleted else document, "the document was deleted" * deleted)

    @property
    def job_id(self) -> str | None:
        return None if self.latest is None else self.latest.job_id

    def wrong_rows(self, seen: _Revisions) -> Iterator[Finding]:
        """The published revision, if it is not whole; every other revision that has rows."""
        shown = None if self.document is None else self.document.published_revision
        if self.document is not None and shown is not None:
            manifest = set(ids.chunk_ids(self.document_id, shown, self.document.chunk_count))
            chunks = self.stores.catalog.chunk_ids(self.document_id, shown)
            if chunks != manifest or not self._points_are(manifest, shown, seen.get(shown, {})):
                held = f"MongoDB holds {len(chunks)} of its {len(manifest)} chunks, Qdrant {self._points(shown)}"
                detail = f"{self.document.filename}: {held}. Send the file again."
                yield Finding(FindingKind.INCOMPLETE, self.document_id, shown, detail, self.job_id)
        why = self.why_gone or ("nothing is published" if shown is None else f"revision {shown} is published")
        for revision in sorted(seen.keys() - {shown}):
            chunk_count, points = len(self.stores.catalog.chunk_ids(self.document_id, revision)), self._points(revision)
            if chunk_count or points:
                detail = f"{chunk_count} chunks and {points} points: {why}."
                yield Finding(FindingKind.STRAY_ROWS, self.document_id, revision, detail, self.job_id)

    def orphans(self, submitted_before: float) -> Iterator[Finding]:
        """Checkpoints and source, if nobody needs them: what a collection was told to keep is no orphan."""
        for_retry = self.latest is not None and self.latest.sweep_at is not None
        keeping = self.latest.keeping if self.latest is not None else None
        kept = kept_objects(self.latest, self.document, keeping or KEEP_ALL, for_retry=for_retry)
        checkpoints = checkpoints_to_remove(self.stores, self.document_id, kept)
        source = []
        if not kept.source and self.stores.objects.exists(ids.source_key(self.document_id)):
            time.sleep(max(0.0, submitted_before + SUBMIT_GRACE_S - time.monotonic()))
            source = [ids.source_key(self.document_id)]
        if checkpoints or source:
            why = self.why_gone or _why_done(self.latest)
            detail = f"{len(checkpoints)} checkpoints{' and the source' * len(source)}: {why}."
            keys = (*checkpoints, *source)
            yield Finding(FindingKind.ORPHAN_OBJECTS, self.document_id, None, detail, self.job_id, keys)

    def _points(self, revision: int) -> int:
        return sum(map(len, self.stores.vectors.collections_with(self.document_id, revision).values()))

    def _points_are(self, manifest: set[str], revision: int, seen: dict[str, _Tally]) -> bool:
        """Whether the revision's points are the manifest, all in one collection.

        Any of ours will do: what was published under an earlier embedding model stays in that model's collection.
        """
        expected = _Tally()
        for point_id in manifest:
            expected.add(point_id)
        if list(seen.values()) == [expected] * bool(manifest):
            return True
        held = self.stores.vectors.collections_with(self.document_id, revision)
        return list(held.values()) == [manifest] * bool(manifest)


def _why_done(latest: Job | None) -> str:
    return "no job was accepted" if latest is None else f"the last job ended {latest.state}, and no retry needs them"


def _untouched(stores: Stores, document_id: str, job_id: str | None) -> bool:
    """Whether the document's latest job is still this one (None: there is still none), and closed."""
    latest = stores.jobs.latest(document_id)
    return job_id is None if latest is None else latest.job_id == job_id and not latest.open


def _delete_object(stores: Stores, document_id: str, key: str) -> None:
    """Delete one object; put a source back if a submit that saw it has opened a job meanwhile."""
    if not key.startswith(SOURCES) or not stores.objects.exists(key):
        stores.objects.delete(key)
        return
    with tempfile.NamedTemporaryFile(prefix="fanfold-") as copy, stores.objects.open(key) as source:
        shutil.copyfileobj(source, copy)
        copy.flush()
        stores.objects.delete(key)
        latest = stores.jobs.latest(document_id)
        if latest is not None and latest.open:
            stores.objects.put_file(key, Path(copy.name))
