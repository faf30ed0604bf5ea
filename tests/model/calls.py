"""One call to a store, and code that makes calls: it is stopped before each until somebody answers.

Synchronous code cannot be stopped in its middle. So it is run again from its start with the answers that it got so far,
and ends with `Unanswered` at the first call that has none. What it asks depends on nothing but those answers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """What an actor asks for. `target` is a table, or one of `clock`, `objects`, `engine`, `beat`, `user`."""

    target: str
    method: str
    args: tuple[Any, ...] = ()

    @property
    def takes_job(self) -> bool:
        """Whether this is a claim's compare-and-set."""
        return self.method == "find_one_and_update" and "lease" in self.args[1].get("$set", {})

    @property
    def fenced(self) -> bool:
        """Whether it is a holder's call about its job, whose answer becomes all that it knows of that job."""
        return self.target == "jobs" and bool(self.args) and "lease.holder" in self.args[0]

    def __str__(self) -> str:
        about = " ".join(sorted(self.args[1].get("$set", {}))) if self.method == "find_one_and_update" else ""
        return f"{self.target}.{self.method} {about}".strip()


@dataclass(frozen=True, slots=True)
class Raised:
    """The answer to a call that fails."""

    error: Exception


class Unanswered(BaseException):
    """The code has come to a call that has no answer yet. Not an `Exception`: nothing of ours may catch it."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.call = call


class Replay:
    """One run of an actor's code from its start, with the answers that are known."""

    running: ClassVar["Replay"]

    def __init__(self, answers: tuple[Any, ...]) -> None:
        self._answers = answers
        self._asked = 0
        self.clock = 0.0  # as of the last time that it was looked at
        self.held: Any = None  # the claimed job, if any was

    def run(self, code: Callable[[], T]) -> T:
        """What the code returns. Raises `Unanswered` when it does not come so far."""
        Replay.running = self
        return code()

    def answer(self, call: Call) -> Any:
        """The answer to the next call."""
        if self._asked == len(self._answers):
            raise Unanswered(call)
        answer = self._answers[self._asked]
        self._asked += 1
        if isinstance(answer, Raised):
            raise answer.error
        return answer


def ask(target: str, method: str, *args: Any) -> Any:
    """Make a call."""
    return Replay.running.answer(Call(target, method, args))
