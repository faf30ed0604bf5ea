"""Backup and restore as docs/operations.md describes them: what `fanfold fsck` makes of copies of the three stores."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.maintenance import maintenance_stores
from ingest.model import Job
from ingest.settings import Settings
from ingest.stores import Stores
from tests.builders import TENANT, an_upload, pipeline_named
from tests.checks import assert_invariants
from tests.conftest import DIMENSION
from tests.e2e.test_fsck import fsck
from tests.integration.test_reconcile import publish

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
MONGODB, OTHERS = ("mongodb",), ("qdrant", "objects")


@dataclass(frozen=True)
class Home:
    """A data directory of embedded stores, of which copies are made and put back while nothing runs."""

    path: Path
    papers: Path

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        """The stores, prepared."""
        with maintenance_stores(Settings(data_dir=self.path)) as stores:
            stores.jobs.prepare()
            stores.catalog.prepare()
            stores.vectors.prepare(DIMENSION)
            yield stores

    def published(self, stores: Stores, name: str, pipeline: str = "p") -> Job:
        """A document of this name, of four chunks, sent and published."""
        return publish(stores, an_upload(self.papers, b"%PDF-1.7 " + name.encode()), pipeline=pipeline_named(pipeline))

    def back_up(self, copy: Path, *parts: str) -> None:
        """Copy these stores."""
        for part in parts:
            shutil.copytree(self.path / part, copy / part)

    def restore(self, copy: Path) -> None:
        """Put back what was copied, in the place of what is there."""
        for part in (*MONGODB, *OTHERS):
            shutil.rmtree(self.path / part)
            shutil.copytree(copy / part, self.path / part)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty one."""
    home = Home(tmp_path / "home", tmp_path / "papers")
    home.path.mkdir()
    home.papers.mkdir()
    return home


def test_a_backup_of_a_stopped_fanfold_is_exact(home: Home, tmp_path: Path) -> None:
    """What was published then is there again, whole; what came later is not, and is missed by nobody."""
    with home.stores() as stores:
        kept = home.published(stores, "kept")
    home.back_up(tmp_path / "copy", *MONGODB, *OTHERS)
    with home.stores() as stores:
        later = home.published(stores, "later")
        stores.catalog.delete_revision(kept.document_id, kept.revision)
    home.restore(tmp_path / "copy")
    done = fsck(home.path)
    assert (done.returncode, done.stdout) == (0, "Nothing is wrong.\n")
    with home.stores() as stores:
        assert_invariants(stores)
        assert stores.catalog.document(TENANT, kept.document_id).published_revision == kept.revision
        assert stores.catalog.known(later.document_id) is None


def test_of_a_backup_of_a_running_fanfold_fsck_makes_an_exact_one(home: Home, tmp_path: Path) -> None:
    """MongoDB first: later rows are removed; those replaced or deleted meanwhile are hidden, and named."""
    with home.stores() as stores:
        kept, replaced, deleted = (home.published(stores, name) for name in ("kept", "replaced", "deleted"))
    home.back_up(tmp_path / "copy", *MONGODB)
    with home.stores() as stores:
        later = home.published(stores, "later")
        assert home.published(stores, "replaced", pipeline="q").revision > replaced.revision
        stores.vectors.delete_revision(deleted.document_id, deleted.revision)
    home.back_up(tmp_path / "copy", *OTHERS)
    home.restore(tmp_path / "copy")
    repaired = fsck(home.path, "--repair", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert {(one["kind"], one["document_id"], one["repaired"]) for one in json.loads(repaired.stdout)} == {
        ("stray_rows", later.document_id, True),
        ("stray_rows", replaced.document_id, True),
        ("incomplete", replaced.document_id, True),
        ("incomplete", deleted.document_id, True),
    }
    assert fsck(home.path).stdout == "Nothing is wrong.\n"
    with home.stores() as stores:
        shown = [stores.catalog.document(TENANT, one.document_id) for one in (kept, replaced, deleted)]
        assert [one.published_revision for one in shown] == [kept.revision, None, None]
        again = home.published(stores, "replaced")  # sent again
        assert again.revision > replaced.revision
        assert stores.vectors.point_ids(again.document_id, again.revision)
    assert fsck(home.path).stdout == "Nothing is wrong.\n"
