"""`fanfold` as a user types it: a real process, real stores by address (MongoDB, Qdrant over HTTP, S3), real OCR."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import httpx
import psutil
import pytest
from moto.server import ThreadedMotoServer
from qdrant_client import QdrantClient

from cluster.embedded import EmbeddedMongoDB
from cluster.ports import free_port
from ingest import ids
from ingest.stores import mongo
from tests.clusters import Cluster, ray_address
from tests.integration.qdrant_server import QdrantServer
from tests.pdfs import encrypted_pdf, pdf_of

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
START_TIMEOUT_S = 200
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Shell:
    """A terminal with Fanfold's settings in its environment, and the `fanfold up` in another one."""

    environment: dict[str, str]
    service: subprocess.Popen[str]
    s3_url: str
    mongodb_uri: str
    qdrant: QdrantServer

    def fanfold(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        environment = os.environ | self.environment | settings
        return subprocess.run(
            [FANFOLD, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json`; what it printed."""
        return json.loads(self.fanfold(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """`fanfold up`, in a process group of its own, on stores that are not its own."""
    home = tmp_path_factory.mktemp("cli")
    mongodb = EmbeddedMongoDB(home / "external-mongodb")
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    mongodb.start()
    s3.start()
    host, port = s3.get_host_and_port()
    s3_url = f"http://{host}:{port}"
    with QdrantServer() as qdrant:
        environment = CREDENTIALS | {
            "FANFOLD_DATA_DIR": str(home / "data"),
            "FANFOLD_HTTP_PORT": str(free_port()),
            "FANFOLD_DASHBOARD_PORT": str(free_port()),
            "FANFOLD_RAY_ADDRESS": "local",
            "FANFOLD_MONGODB_URI": mongodb.uri,
            "FANFOLD_QDRANT_URL": qdrant.url,
            "FANFOLD_OBJECT_STORE_URL": "s3://documents/fanfold",
            "FANFOLD_S3_ENDPOINT_URL": s3_url,
        }
        fsspec.filesystem("s3", key="test", secret="test", endpoint_url=s3_url).mkdir("documents")
        service = subprocess.Popen(
            [FANFOLD, "up"], env=os.environ | environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        yield Shell(environment, service, s3_url, mongodb.uri, qdrant)
        if service.poll() is None:
            service.terminate()
            service.wait(60)
    s3.stop()
    mongodb.stop()


@pytest.fixture(scope="module")
def up(shell: Shell) -> Shell:
    """The same, once it is ready."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    url = f"http://127.0.0.1:{shell.environment['FANFOLD_HTTP_PORT']}/readyz"
    while time.monotonic() < give_up_at and shell.service.poll() is None:
        try:
            if httpx.get(url, timeout=10).is_success:
                return shell
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("fanfold up did not become ready")


@pytest.fixture(scope="module")
def pdfs(tmp_path_factory: pytest.TempPathFactory, sample_pdfs: Path) -> Path:
    """A directory with a text PDF, one with scanned pages, and one that needs a password."""
    directory = tmp_path_factory.mktemp("pdfs")
    (directory / "tides.pdf").write_bytes(pdf_of(["The spring tide follows the full moon by two days."]))
    (directory / "inventory.PDF").write_bytes((sample_pdfs / "inventory.pdf").read_bytes())
    (directory / "locked.pdf").write_bytes(encrypted_pdf())
    (directory / "notes.txt").write_text("not a PDF, and not named like one", encoding="utf-8")
    return directory


def test_without_a_service_every_command_says_how_to_start_one(shell: Shell) -> None:
    """One plain line, exit code 2, no traceback."""
    done = shell.fanfold("jobs", FANFOLD_HTTP_PORT=str(free_port()))
    assert done.returncode == 2
    assert "fanfold up" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"FANFOLD_HTTP_PORT": "abc"}, "FANFOLD_HTTP_PORT=abc", id="not a number"),
        pytest.param({"FANFOLD_RAY_ADDRESS": "127.0.0.1:9"}, "FANFOLD_RAY_ADDRESS", id="no Ray there"),
        pytest.param({"FANFOLD_MONGODB_URI": "mongodb://127.0.0.1:9"}, "FANFOLD_MONGODB_URI", id="no MongoDB there"),
        pytest.param({"FANFOLD_QDRANT_URL": "http://127.0.0.1:9"}, "FANFOLD_QDRANT_URL", id="no Qdrant there"),
        pytest.param({"FANFOLD_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, "FANFOLD_OBJECT_STORE_URL", id="no S3 there"),
        pytest.param({"FANFOLD_HTTP_HOST": "0.0.0.0"}, "everybody on the network", id="open to the network"),
        pytest.param({"FANFOLD_CHUNK_TOKENS": "9000"}, "FANFOLD_CHUNK_TOKENS", id="chunks longer than the model reads"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(shell: Shell, settings: dict[str, str], words: str, tmp_path: Path) -> None:
    """`fanfold up` explains what is wrong and starts nothing."""
    done = shell.fanfold("up", **{"FANFOLD_HTTP_PORT": str(free_port()), "FANFOLD_DATA_DIR": str(tmp_path)} | settings)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_ingest_reports_every_file_and_fails_if_one_did(up: Shell, pdfs: Path) -> None:
    """Exit code 1 with the reason of the bad one; without it, run again: exit code 0 and the same jobs."""
    first = up.fanfold("ingest", str(pdfs), "--json")
    outcomes = {Path(outcome["path"]).name: outcome for outcome in json.loads(first.stdout)}
    assert first.returncode == 1
    assert set(outcomes) == {"tides.pdf", "inventory.PDF", "locked.pdf"}
    assert outcomes["tides.pdf"]["job"]["state"] == outcomes["inventory.PDF"]["job"]["state"] == "succeeded"
    assert "password" in outcomes["locked.pdf"]["error"]
    again = up.fanfold("ingest", str(pdfs / "tides.pdf"), str(pdfs / "inventory.PDF"), "--json")
    assert again.returncode == 0
    assert {outcome["job"]["job_id"] for outcome in json.loads(again.stdout)} == {
        outcomes[name]["job"]["job_id"] for name in ("tides.pdf", "inventory.PDF")
    }


def test_ingest_says_for_people_what_happened(up: Shell, pdfs: Path) -> None:
    """A line a file with its pages and chunks, and a count at the end."""
    done = up.fanfold("ingest", str(pdfs))
    said = done.stdout + done.stderr
    assert "6 pages" in said
    assert "locked.pdf: The PDF is protected by a password." in " ".join(said.split())
    assert "1 of 3 documents failed." in said


def test_a_path_that_does_not_exist_is_named(up: Shell) -> None:
    """Exit code 2, and the path."""
    done = up.fanfold("ingest", "/nowhere/at/all.pdf")
    assert done.returncode == 2
    assert "/nowhere/at/all.pdf" in " ".join(done.stderr.split())


def test_jobs_and_job_show_what_the_service_knows(up: Shell) -> None:
    """Lists filter by state; one job shows its stages and attempts; an unknown one is said so."""
    [failed, *_] = up.json("jobs", "--state", "failed")
    assert {job["state"] for job in up.json("jobs", "--state", "succeeded")} == {"succeeded"}
    listed = up.fanfold("jobs", COLUMNS="160").stdout
    assert failed["job_id"] in listed
    assert "locked.pdf" in listed
    shown = up.fanfold("job", failed["job_id"]).stdout
    assert "password" in shown
    assert "extract" in shown
    unknown = up.fanfold("job", "unknown")
    assert (unknown.returncode, unknown.stderr.strip()) == (2, "fanfold: There is no job unknown.")


def test_search_finds_the_page_that_was_scanned(up: Shell) -> None:
    """Real OCR and the real model behind it: document, page, score and text, for people and programs."""
    query = "Which antique chronometers does the mansion possess and how accurate are they?"
    hit = up.json("search", query, "--limit", "1")[0]
    assert (hit["filename"], hit["first_page"]) == ("inventory.PDF", 2)
    assert "inventory.PDF, page" in up.fanfold("search", query).stdout


def test_the_stores_that_were_named_hold_exactly_the_documents(up: Shell) -> None:
    """Chunks in that MongoDB = points in that Qdrant; that S3 holds no working copy any more."""
    database = mongo.connect(up.mongodb_uri, "fanfold")
    chunks = {chunk["_id"] for chunk in database["chunks"].find()}
    manifests = [
        ids.chunk_ids(document["_id"], document["published_revision"], document["chunk_count"])
        for document in database["documents"].find({"published_revision": {"$ne": None}})
    ]
    qdrant = QdrantClient(url=up.qdrant.url)
    [collection] = qdrant.get_collections().collections
    points = {str(point.id) for point in qdrant.scroll(collection.name, limit=1_000)[0]}
    assert chunks == points == {chunk_id for manifest in manifests for chunk_id in manifest}
    s3 = fsspec.filesystem("s3", key="test", secret="test", endpoint_url=up.s3_url, skip_instance_cache=True)
    assert s3.find("documents/fanfold") == []


def test_cancel_and_retry_say_what_became_of_each_job(up: Shell) -> None:
    """A line a job, and exit code 1 where one was refused, with the reason."""
    jobs = {job["filename"]: job["job_id"] for job in up.json("jobs")}
    done = up.fanfold("cancel", jobs["locked.pdf"], jobs["tides.pdf"], "unknown")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("unknown", *jobs.values()))] == ["refused"] * 3
    assert "There is no job unknown." in done.stdout
    refused = up.fanfold("retry", jobs["locked.pdf"], "--json")
    assert refused.returncode == 1
    assert "password" in json.loads(refused.stdout)[0]["error"]
    assert up.json("cancel", "--state", "queued", "--yes") == []


def test_delete_removes_a_document(up: Shell) -> None:
    """It is hidden at once, its rows and objects go; ingested again, it is back."""
    [job] = [job for job in up.json("jobs") if job["filename"] == "inventory.PDF"]
    assert up.fanfold("delete", job["document_id"]).returncode == 0
    hits = up.json("search", "how is the cistern kept clean?", "--limit", "50")
    assert job["document_id"] not in {hit["document_id"] for hit in hits}
    assert up.fanfold("delete", "unknown").returncode == 1


def test_a_second_up_on_the_same_data_is_refused(up: Shell) -> None:
    """One instance a data directory."""
    done = up.fanfold("up", FANFOLD_HTTP_PORT=str(free_port()))
    assert done.returncode == 2
    assert "fanfold down" in done.stderr


def test_a_second_up_does_not_take_over_the_ray_of_the_first(cluster: Cluster, tmp_path: Path) -> None:
    """Joining a Ray cluster where Fanfold runs is refused, with what to do; the first one goes on."""
    settings = {
        "FANFOLD_RAY_ADDRESS": ray_address(),
        "FANFOLD_DATA_DIR": str(tmp_path),
        "FANFOLD_HTTP_PORT": str(free_port()),
    }
    environment = os.environ | settings | {"RAY_AUTH_MODE": "token"}
    done = subprocess.run([FANFOLD, "up"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "FANFOLD_RAY_ADDRESS=local" in done.stderr
    assert httpx.get(f"{cluster.settings.http_url}/readyz").is_success


def test_down_stops_everything_that_up_started(up: Shell) -> None:
    """`up` ends with 0, none of its processes is left, and a second `down` finds nothing to stop."""
    family = psutil.Process(up.service.pid).children(recursive=True)
    assert len(family) > 5
    assert "has stopped" in up.fanfold("down").stdout
    assert up.service.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert "was not running here." in up.fanfold("down").stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_it_starts_it_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """When Ray and MongoDB are there, and the rest is not: it ends as who is interrupted does, and says no more."""
    settings = {
        "FANFOLD_RAY_ADDRESS": "local",
        "FANFOLD_DATA_DIR": str(tmp_path),
        "FANFOLD_HTTP_PORT": str(free_port()),
        "FANFOLD_DASHBOARD_PORT": str(free_port()),
    }
    up = subprocess.Popen([FANFOLD, "up"], env=os.environ | settings, stderr=subprocess.PIPE, text=True)
    starting = psutil.Process(up.pid)
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not any("secantusd" in " ".join(child.cmdline()) for child in starting.children()):
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
    family = starting.children(recursive=True)
    up.send_signal(number)
    _, said = up.communicate(timeout=60)
    assert (up.returncode, said.strip()) == (128 + signal.SIGINT, "")
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
