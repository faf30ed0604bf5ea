"""The time limit of a worker holds against code that never returns to Python."""

import subprocess
import sys
import textwrap
import time

import pytest

LIMIT_S = 1.0
LATEST_S = 12.0


@pytest.mark.parametrize(
    "stuck",
    [
        pytest.param("while True: pass", id="a Python loop"),
        pytest.param("time.sleep(60)", id="sleep"),
        pytest.param("ctypes.PyDLL(None).sleep(60)", id="native code that holds the GIL"),
        pytest.param(
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); ctypes.PyDLL(None).sleep(60)",
            id="native code that ignores signals",
        ),
    ],
)
def test_a_stuck_worker_ends_itself(stuck: str) -> None:
    """The process is gone soon after its limit, whatever it is stuck in, and says where."""
    program = textwrap.dedent(
        f"""
        import ctypes, signal, time
        from cluster.tasks import watchdog
        print("started", flush=True)
        with watchdog({LIMIT_S}):
            {stuck}
        """
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"started\n"
    started_at = time.monotonic()
    _, trace = worker.communicate(timeout=LATEST_S)
    assert worker.returncode == 1
    assert LIMIT_S * 0.9 <= time.monotonic() - started_at <= LATEST_S
    assert b"Timeout" in trace


def test_a_worker_that_is_in_time_lives_on() -> None:
    """Leaving the block disarms the limit; winding it up again counts from there."""
    program = (
        "import time\nfrom cluster.tasks import watchdog\n"
        "with watchdog(0.4) as wind:\n    time.sleep(0.3); wind(0.4); time.sleep(0.3)\n"
        "time.sleep(0.5); print('alive')"
    )
    worker = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (worker.returncode, worker.stdout) == (0, b"alive\n")
