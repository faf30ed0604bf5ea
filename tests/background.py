"""What goes on beside a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def again_and_again(call: Callable[[], object], *, pause_s: float) -> Iterator[None]:
    """Call it on a thread, with a pause before each time, for the length of the block; a call under way ends first."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(pause_s):
            call()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
