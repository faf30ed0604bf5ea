"""The README's snippets run as they stand, against a running Fanfold."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.apikeys import ApiKey, owner_of
from tests.clusters import Cluster

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language: str, containing: str) -> list[str]:
    """The fenced blocks of that language that contain the words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [block for block in blocks if containing in block]


@pytest.fixture(scope="module")
def checkout(sample_pdfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory in which `samples/pdf` is where the README says."""
    directory = tmp_path_factory.mktemp("readme")
    shutil.copytree(sample_pdfs, directory / "samples" / "pdf")
    return directory


def test_the_python_snippet_prints_a_hit(cluster: Cluster, checkout: Path) -> None:
    """The typed client, from submit to search."""
    [snippet] = snippets("python", "serve.client")
    program = snippet.replace("http://127.0.0.1:8000", cluster.settings.http_url)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, timeout=120, check=True
    )
    assert "letters.pdf, page 3" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    ("containing", "answers"),
    [
        pytest.param("/readyz", ('"job_id"', '"hits"', '"ready":true'), id="submit, list, search, readiness"),
        pytest.param("Idempotency-Key", ('"files":[{"filename":"letters.pdf"', '"created"'), id="ways to submit"),
    ],
)
def test_the_curl_snippets_get_answers(
    cluster: Cluster, checkout: Path, containing: str, answers: tuple[str, ...]
) -> None:
    """Every line answers without an error."""
    [snippet] = [block for block in snippets("bash", "curl") if containing in block]
    commands = snippet.replace("http://127.0.0.1:8000", cluster.settings.http_url)
    done = _bash(commands.replace("-sS", "-sS --fail-with-body"), checkout, {})
    assert [answer for answer in answers if answer not in done.stdout] == []


def test_the_key_snippet_sets_what_the_service_and_its_callers_need(tmp_path: Path) -> None:
    """What `fanfold key` prints can be read by a shell; the entry is that key's. Nobody else can read it."""
    [snippet] = snippets("bash", "fanfold key")
    show = f'{sys.executable} -c \'import os; print(os.environ["FANFOLD_API_KEY"], os.environ["FANFOLD_API_KEYS"])\''
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    key, entry = _bash(f"{snippet}\n{show}", tmp_path, {"PATH": path}).stdout.split()
    assert owner_of(key, [ApiKey.parse(entry)]) == "acme"
    assert (tmp_path / "acme.key").stat().st_mode & 0o077 == 0


def test_the_command_line_snippet_runs(cluster: Cluster, checkout: Path) -> None:
    """Ingest, search, list and show, as typed."""
    [snippet] = snippets("bash", "fanfold ingest")
    [job] = cluster.client.jobs(limit=1)
    commands = snippet.replace("JOB_ID", job.job_id).replace("fanfold drain", "").replace("fanfold down", "")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = _bash(commands, checkout, {"FANFOLD_HTTP_PORT": str(cluster.settings.http_port), "PATH": path})
    assert "3 documents done." in done.stdout
    assert "inventory.pdf" in done.stdout


def test_the_stopping_snippet_runs(cluster: Cluster, checkout: Path) -> None:
    """Cancel, retry and delete, as typed, each when the one before is done."""
    [snippet] = snippets("bash", "fanfold cancel")
    path = checkout / "samples" / "pdf" / "letters.pdf"
    path.write_bytes(path.read_bytes() + b"\n% to be cancelled\n")
    job = cluster.submit(path)
    environment = {
        "FANFOLD_HTTP_PORT": str(cluster.settings.http_port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    job_id, said = job.job_id, []
    for line in snippet.replace("DOCUMENT_ID", job.document_id).splitlines():
        said.append(_bash(line.replace("JOB_ID", job_id), checkout, environment).stdout)
        job_id = next(cluster.client.jobs(limit=1)).job_id
        cluster.finish(job_id)
    expected = ("cancell", "queued", "deleted")  # cancelled, if nobody had begun with it
    assert all(word in output for word, output in zip(expected, said, strict=True)), said


def test_every_make_target_that_the_readme_names_exists() -> None:
    """`make demo`, `make install`, ... are targets of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", README))
    assert named
    assert named <= targets


def _bash(commands: str, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", commands],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
