"""`make demo`: what a new user would type, from an empty directory to a search with hits."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from cluster.ports import free_port
from samples.build import build

READY_TIMEOUT_S = 180.0
SEARCHES = ("How is the underground reservoir kept hygienic?", "What did the physician advise for altitude sickness?")
FANFOLD = str(Path(sys.executable).with_name("fanfold"))


def main() -> int:
    """Run the demonstration in a data directory of its own, and leave nothing behind."""
    pdfs = Path(__file__).parent / "pdf"
    build(pdfs)
    home = Path(tempfile.mkdtemp(prefix="fanfold-demo-"))
    environment = os.environ | {
        "FANFOLD_DATA_DIR": str(home),
        "FANFOLD_HTTP_PORT": str(free_port()),
        "FANFOLD_RAY_ADDRESS": "local",
    }
    _say("fanfold", "up")
    service = subprocess.Popen([FANFOLD, "up"], env=environment)  # noqa: S603  # our own program
    try:
        _wait_until_ready(service, environment)
        codes = [_run(environment, "ingest", str(pdfs))]
        codes += [_run(environment, "search", words, "--limit", "2") for words in SEARCHES]
    finally:
        _run(environment, "down")
        service.wait()
        shutil.rmtree(home)
    return max(codes)


def _wait_until_ready(service: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{environment['FANFOLD_HTTP_PORT']}/readyz"
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while service.poll() is None and time.monotonic() < give_up_at:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.3)
    raise SystemExit("fanfold up did not become ready")


def _run(environment: dict[str, str], *arguments: str) -> int:
    _say("fanfold", *arguments)
    return subprocess.run([FANFOLD, *arguments], env=environment, check=False).returncode  # noqa: S603  # as above


def _say(*words: str) -> None:
    shown = [f'"{word}"' if " " in word else word for word in words]
    print(f"\n$ {' '.join(shown)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
