"""What running Fanfold costs and brings: start-up time, idle memory, and scanned pages a minute.

The comparison is the loop that everybody writes first: one process, PaddleOCR as it comes, one page after the other,
with as many threads as the engine takes by itself.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pymupdf
from rich.console import Console
from rich.table import Table

from cluster.ports import free_port
from ingest.stages.models import ocr_model_dirs
from samples.build import build
from serve.client import Client

FANFOLD = str(Path(sys.executable).with_name("fanfold"))
SETTLE_S = 10.0
SCANS = 4  # copies of the scanned sample, each with other bytes
_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as directory:
        pdfs = Path(directory, "pdf")
        build(pdfs)
        scans = [_copy(pdfs / "letters.pdf", Path(directory, f"{number}.pdf")) for number in range(SCANS)]
        plain_rate = _plain_rate(scans[0], Path(directory, "models"))
        start_s, idle_mib, rate = _measure_service(scans, Path(directory, "home"))
    table = Table(title=f"{os.cpu_count()} cores")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_row("fanfold up, until /readyz says ready", f"{start_s:.0f} s")
    table.add_row("idle memory of everything it started (proportional set size)", f"{idle_mib / 1024:.1f} GiB")
    table.add_row("plain loop over PaddleOCR, models loaded", f"{plain_rate:.0f} scanned pages a minute")
    table.add_row("Fanfold, from upload to searchable", f"{rate:.0f} scanned pages a minute")
    table.add_row("ratio", f"{rate / plain_rate:.1f}")
    Console().print(table)


def _measure_service(scans: list[Path], home: Path) -> tuple[float, float, float]:
    port = free_port()
    settings = {"FANFOLD_DATA_DIR": str(home), "FANFOLD_HTTP_PORT": str(port), "FANFOLD_RAY_ADDRESS": "local"}
    started_at = time.monotonic()
    service = subprocess.Popen([FANFOLD, "up"], env=os.environ | settings, stdout=subprocess.DEVNULL)  # noqa: S603  # our own program
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            _wait_until_ready(port, service)
            start_s = time.monotonic() - started_at
            time.sleep(SETTLE_S)
            idle_mib = _memory_mib(service.pid)
            _ingest(client, scans[:1])  # loads the models
            return start_s, idle_mib, _ingest(client, scans[1:])
    finally:
        service.terminate()
        service.wait()


def _ingest(client: Client, scans: list[Path]) -> float:
    """Pages a minute, from the first upload to the last job's end."""
    started_at = time.monotonic()
    jobs = [client.submit(path).job_id for path in scans]
    pages = 0
    for job_id in jobs:
        while not (job := client.job(job_id, wait=10)).state.terminal:
            pass
        pages += job.progress.pages_done
    return 60 * pages / (time.monotonic() - started_at)


def _plain_rate(scan: Path, cache: Path) -> float:
    from paddleocr import PaddleOCR  # noqa: PLC0415  # takes seconds

    directories = ocr_model_dirs("PP-OCRv6_small", cache)
    assert directories is not None
    engine = PaddleOCR(
        text_detection_model_name="PP-OCRv6_small_det",
        text_detection_model_dir=str(directories[0]),
        text_recognition_model_name="PP-OCRv6_small_rec",
        text_recognition_model_dir=str(directories[1]),
        engine="onnxruntime",
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
    )
    document = _mupdf.open(scan)
    started_at = time.monotonic()
    for page in document:
        pixmap = page.get_pixmap(dpi=200)
        path = scan.with_suffix(".png")
        pixmap.save(path)
        engine.predict(str(path))
    return float(60 * len(document) / (time.monotonic() - started_at))


def _memory_mib(pid: int) -> float:
    """Proportional set size of a process and everything below it: shared pages are counted once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in family) / 1024**2)


def _wait_until_ready(port: int, service: subprocess.Popen[bytes]) -> None:
    while service.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise SystemExit("fanfold up has ended")


def _copy(scan: Path, target: Path) -> Path:
    target.write_bytes(scan.read_bytes() + f"\n% {target.name}\n".encode())
    return target


if __name__ == "__main__":
    main()
