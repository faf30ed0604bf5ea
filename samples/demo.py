"""`make demo`: what a new user would type, from an empty directory to a search with hits."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from cluster.instance import only_instance
from cluster.ports import free_port
from ingest.errors import Conflict
from samples.build import build

READY_TIMEOUT_S = 180.0
SEARCHES = ("How is the underground reservoir kept hygienic?", "What did the physician advise for altitude sickness?")
FANFOLD = str(Path(sys.executable).with_name("fanfold"))
ROOT = Path(__file__).parents[1]
HOME = ROOT / "build" / "demo"
GO_ON = """
The three documents are still there. To look at them, and at each hit on its page, in a browser:

  . .venv/bin/activate
  export FANFOLD_DATA_DIR={home} FANFOLD_KEEP_SOURCE=true
  fanfold up                          # then open http://127.0.0.1:8000

Without these two variables Fanfold starts empty, in ~/.fanfold. `rm -r {home}` removes the demonstration."""


def main() -> int:
    """Run the demonstration in a data directory of its own, from its beginning, and say how to go on."""
    pdfs = Path(__file__).parent / "pdf"
    build(pdfs)
    if HOME.exists():
        _refuse_running()
        shutil.rmtree(HOME)
    environment = own_settings(os.environ)
    _say("fanfold", "up")
    service = subprocess.Popen([FANFOLD, "up"], env=environment)  # noqa: S603  # our own program
    try:
        _wait_until_ready(service, environment)
        codes = [_run(environment, "ingest", str(pdfs))]
        codes += [_run(environment, "search", words, "--limit", "2") for words in SEARCHES]
    finally:
        _run(environment, "down")
        service.wait()
    print(GO_ON.format(home=HOME.relative_to(Path.cwd()) if HOME.is_relative_to(Path.cwd()) else HOME))
    return max(codes)


def own_settings(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment with the demonstration's settings and no others: the caller's may lead to stores that matter."""
    others = {name: value for name, value in inherited.items() if not name.upper().startswith("FANFOLD_")}
    return others | {
        "FANFOLD_DATA_DIR": str(HOME),
        "FANFOLD_KEEP_SOURCE": "true",  # the page shows hits on their pages
        "FANFOLD_HTTP_PORT": str(free_port()),
        "FANFOLD_RAY_ADDRESS": "local",
    }


def _refuse_running() -> None:
    """Nobody's running service loses its data: somebody may have gone on with the last demonstration."""
    try:
        with only_instance(HOME):
            pass
    except Conflict as error:
        raise SystemExit(f"{error} The demonstration's data are in use: FANFOLD_DATA_DIR={HOME}") from error


def _wait_until_ready(service: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{environment['FANFOLD_HTTP_PORT']}/readyz"
    give_up_at = time.monotonic() + READY_TIMEOUT_S
    while service.poll() is None and time.monotonic() < give_up_at:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
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
