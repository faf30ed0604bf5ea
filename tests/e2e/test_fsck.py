"""`fanfold fsck` as a user types it, with embedded stores and no service running."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from cluster.instance import only_instance
from cluster.maintenance import maintenance_stores
from ingest import ids
from ingest.settings import Settings
from ingest.stores.vectors import VectorStore
from tests.builders import TENANT, a_document, a_revision, axis_vectors, make_visible, some_chunks

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data directory with one whole document, one that lost a chunk, and a checkpoint of nobody."""
    home = tmp_path / "home"
    home.mkdir()
    with closing(QdrantClient(path=str(home / "qdrant"))) as client:
        vectors = VectorStore(client, "fanfold-test-384")
        vectors.prepare(384)
        for document_id in ("whole", "damaged"):
            vectors.upsert(a_revision(document_id, 1), some_chunks(3), axis_vectors(3))
    with maintenance_stores(Settings(data_dir=home)) as stores:
        stores.jobs.prepare()
        stores.catalog.prepare()
        for document_id, stored in (("whole", 3), ("damaged", 2)):
            stores.catalog.register(a_document(document_id))
            stores.catalog.upsert_chunks(a_revision(document_id, 1), some_chunks(stored))
            make_visible(stores, document_id, chunk_count=3)
        stores.objects.put(ids.chunks_key("never was", "e" * 16), b"PAR1")
    return home


def fsck(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it, with the stores of that directory."""
    unset = {"FANFOLD_MONGODB_URI", "FANFOLD_QDRANT_URL", "FANFOLD_OBJECT_STORE_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    program = Path(sys.executable).with_name("fanfold")
    return subprocess.run(
        [program, "fsck", *options],
        env=environment | {"FANFOLD_DATA_DIR": str(home), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_fsck_finds_repairs_and_then_finds_nothing(home: Path) -> None:
    """1 while something is wrong, 0 once it is repaired; JSON for programs, a table for people."""
    done = fsck(home, "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert [(one["kind"], one["document_id"], one["repaired"]) for one in found] == [
        ("incomplete", "damaged", False),
        ("orphan_objects", "never was", False),
    ]
    repaired = fsck(home, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert repaired.stdout.strip().endswith("2 findings, 2 repaired.")
    clean = fsck(home)
    assert (clean.returncode, clean.stdout) == (0, "Nothing is wrong.\n")
    assert json.loads(fsck(home, "--repair", "--json").stdout) == []
    with maintenance_stores(Settings(data_dir=home)) as stores:
        assert stores.catalog.document(TENANT, "damaged").published_revision is None
        assert stores.catalog.chunk_ids("whole", 1) == set(ids.chunk_ids("whole", 1, 3))
        assert set(stores.vectors.collections_with("whole", 1)) == {"fanfold-test-384"}


def test_a_repair_is_not_taken_for_a_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fanfold up` says what it waits for, as does another fsck; and `fanfold down` ends no repair in its middle."""
    monkeypatch.setenv("FANFOLD_DATA_DIR", str(home))
    with maintenance_stores(Settings(data_dir=home)):
        for command in ("up", "down", "fsck"):
            program = Path(sys.executable).with_name("fanfold")
            done = subprocess.run([program, command], capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert "`fanfold fsck` is at work on this data directory." in done.stderr


def test_fsck_says_so_while_fanfold_starts(home: Path) -> None:
    """The directory is locked and nobody has said yet where the stores are: 2, and one line without a traceback."""
    with only_instance(home):
        done = fsck(home)
    assert done.returncode == 2
    assert "Try again in a moment" in done.stderr
    assert "Traceback" not in done.stderr
