"""An actor's local states, each reached by the answers that it got.

Two histories of answers that leave the code at the same place with the same knowledge are one local state: the same
line in every function that is being run, the same variables there, the same record of the claimed job.
"""

from dataclasses import fields, is_dataclass
from datetime import datetime
from traceback import walk_tb
from types import FrameType, NoneType
from typing import Any

from pydantic import BaseModel

from ingest.model import Job
from tests.model.calls import Call, Raised, Replay, Unanswered
from tests.model.programs import Program

OURS = ("ingest.", "tests.model.programs")


class Node:
    """A local state: before the call that it makes next, or at its end."""

    def __init__(
        self,
        actor: "ActorStates",
        answers: tuple[Any, ...],
        call: Call | None,
        *,
        result: Any = None,
        epoch: int | None = None,
    ) -> None:
        self._actor = actor
        self._answers = answers
        self.call = call
        self.result = result
        self.epoch = epoch  # of the job that it holds
        self._next: dict[Any, Node] = {}

    @property
    def done(self) -> bool:
        """Whether its code has come to its end."""
        return self.call is None

    def after(self, answer: Any) -> "Node":
        """The local state that this answer leads to."""
        key = heard(answer)
        if key not in self._next:
            self._next[key] = self._actor.reached((*self._answers, answer))
        return self._next[key]


class ActorStates:
    """Every local state of one program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[Any, Node] = {}
        self.first = self.reached(())

    def __len__(self) -> int:
        return len(self._nodes)

    def reached(self, answers: tuple[Any, ...]) -> Node:
        """Run the code with these answers; where it stands then."""
        replay = Replay(answers)
        try:
            result = replay.run(self._program)
        except Unanswered as stopped:
            held = replay.held
            knows = replay.clock, None if held is None else (id(held.job), held.renewed_at)
            epoch = None if held is None else held.job.lease.epoch
            place = tuple(_place(frame, line) for frame, line in walk_tb(stopped.__traceback__))
            return self._nodes.setdefault((place, knows), Node(self, answers, stopped.call, epoch=epoch))
        return self._nodes.setdefault(result, Node(self, answers, None, result=result))


def _place(frame: FrameType, line: int) -> Any:
    """Where one function stands; with its variables, if it is one of ours."""
    ours = frame.f_globals.get("__name__", "").startswith(OURS)
    return frame.f_code, line, _value(frame.f_locals) if ours else None


def _value(value: Any) -> Any:  # noqa: PLR0911  # one line a type
    """A variable's value as something that can be hashed; of what has none, its type."""
    if isinstance(value, Job):
        return _seen(value)
    if isinstance(value, dict):
        return tuple((name, _value(one)) for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_value(one) for one in value)
    if isinstance(value, (str, int, float, datetime, frozenset, NoneType)):
        return value
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, BaseException):
        return type(value), value.args
    if is_dataclass(value) and not isinstance(value, type):
        return type(value), tuple(_value(getattr(value, field.name)) for field in fields(value))
    return value.model_dump_json() if isinstance(value, BaseModel) else type(value)


def _seen(job: Job) -> Any:
    """What code that does not hold a job looks at in its record."""
    cancelled, decided = job.cancel_requested_at is not None, job.publish_decided
    return job.job_id, job.revision, job.state, cancelled, decided, job.retryable, job.open, job.sweep_at


def heard(answer: Any) -> Any:
    """An answer, compared as cheaply as can be: equal records are the same object."""
    if isinstance(answer, dict):
        return id(answer)
    if isinstance(answer, list):
        return tuple(map(id, answer))
    if isinstance(answer, Raised):
        return type(answer.error), answer.error.args
    return answer
