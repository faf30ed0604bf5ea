"""Every order of claim, renew, expire, publish, cancel, delete, requeue and sweep, with crashes: always exact.

Production's own transitions run; see the package's docstring. The deep scenarios belong to `make crash`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ingest.errors import TooManyFailedPages
from tests.builders import an_upload
from tests.model.calls import Call
from tests.model.explorer import Explorer, Left, Mutation, Scenario
from tests.model.invariants import Violation
from tests.model.programs import LEASE_TTL_S, RETRY_WINDOW_S, modelled

HALF_TTL_S = LEASE_TTL_S / 2
FATAL = TooManyFailedPages("Not today.")
CANCEL, DELETE, SUBMIT = ("cancel",), ("delete",), ("submit",)

TAKEOVER = Scenario("takeover after a crash or a pause", left=Left(ticks=1, crashes=1), fewest_states=10_000)
RENEWAL = Scenario("renewal against expiry", left=Left(ticks=2, beats=1), tick_s=HALF_TTL_S, fewest_states=15_000)
REQUEUE = Scenario("requeue", left=Left(ticks=1, errors=1), fewest_states=8_000)
FAILURE = Scenario("failure", left=Left(ticks=1, errors=1), error=FATAL, fewest_states=8_000)
CANCELLED = Scenario("cancel", users=(CANCEL,), left=Left(beats=1), fewest_states=5_000)
CANCELLED_TAKEOVER = Scenario("cancel and takeover", users=(CANCEL,), left=Left(ticks=1), fewest_states=40_000)
CANCELLED_RETRIED = Scenario("cancel, retry", users=(("cancel", "retry"),), fewest_states=3_000)
CANCELLED_REQUEUED = Scenario("cancel and requeue", users=(CANCEL,), left=Left(errors=1), fewest_states=4_000)
CANCELLED_FAILED = Scenario(
    "cancel and failure", users=(CANCEL,), left=Left(errors=1), error=FATAL, fewest_states=4_000
)
CANCELLED_SENT_AGAIN = Scenario(
    "cancel, submit, sweep",
    supervisors=1,
    users=(("cancel", "submit"),),
    sweeps=1,
    left=Left(ticks=1),
    tick_s=RETRY_WINDOW_S,
    fewest_states=8_000,
)
CANCELLED_DELETED_SENT_AGAIN = Scenario(
    "cancel against delete, submit",
    supervisors=1,
    users=(CANCEL, ("delete", "submit")),
    sweeps=1,
    fewest_states=70_000,
)
CANCELLED_SUBMITTED = Scenario("cancel against submit", users=(CANCEL, SUBMIT), fewest_states=35_000)
DELETED = Scenario("delete", users=(DELETE,), fewest_states=3_000)
DELETED_CANCELLED = Scenario("delete against cancel", users=(DELETE, CANCEL), fewest_states=15_000)
DELETED_SENT_AGAIN = Scenario("delete, submit", users=(("delete", "submit"),), sweeps=1, fewest_states=30_000)
DELETED_TAKEN_OVER = Scenario(
    "delete, submit, takeover", users=(("delete", "submit"),), left=Left(ticks=1), fewest_states=100_000
)
DELETED_SUBMITTED = Scenario("delete against submit", users=(DELETE, SUBMIT), sweeps=1, fewest_states=300_000)
QUICK = [
    TAKEOVER,
    RENEWAL,
    REQUEUE,
    FAILURE,
    CANCELLED,
    CANCELLED_TAKEOVER,
    CANCELLED_RETRIED,
    CANCELLED_REQUEUED,
    CANCELLED_FAILED,
    CANCELLED_SENT_AGAIN,
    CANCELLED_SUBMITTED,
    CANCELLED_DELETED_SENT_AGAIN,
    DELETED,
    DELETED_CANCELLED,
    DELETED_SENT_AGAIN,
]
DEEP = [
    DELETED_SUBMITTED,
    DELETED_TAKEN_OVER,
    Scenario("a long renewal", left=Left(ticks=3, beats=2), tick_s=HALF_TTL_S, fewest_states=150_000),
    Scenario("cancel, heartbeat, takeover", users=(CANCEL,), left=Left(ticks=1, beats=1), fewest_states=100_000),
    Scenario("cancel, crash, takeover", users=(CANCEL,), left=Left(ticks=1, crashes=1), fewest_states=50_000),
    Scenario("delete, crash, takeover", users=(DELETE,), left=Left(ticks=1, crashes=1), fewest_states=300_000),
    Scenario("delete, cancel, takeover", users=(DELETE, CANCEL), left=Left(ticks=1), fewest_states=300_000),
]


class Dropped(NamedTuple):
    """A condition of a transition, left out."""

    what: str
    target: str
    method: str
    beside: str  # the transition is the one whose filter has this field too
    fields: tuple[str, ...]
    noticed_in: Scenario

    def mutation(self) -> Mutation:
        """Make that transition without the condition."""

        def mutate(call: Call) -> Call:
            if (call.target, call.method) != (self.target, self.method) or self.beside not in call.args[0]:
                return call
            condition, *rest = call.args
            left = {name: wanted for name, wanted in condition.items() if name not in self.fields}
            return Call(call.target, call.method, (left, *rest))

        return mutate


UPDATE = "find_one_and_update"
HOLDER = "lease.holder"
EPOCH = ("lease.epoch",)
FENCE = (*EPOCH, HOLDER)
SEEN = ("state", "lease.epoch", "lease.expires_at")
CANCEL_REQUEST = "cancel_requested_at"
REQUESTED = (CANCEL_REQUEST,)
DECISION = ("stages.publish.status",)
ATTEMPT = ("latest_attempt.revision", "latest_attempt.epoch")
DROPPED = [
    Dropped("the fence", "jobs", UPDATE, HOLDER, FENCE, TAKEOVER),
    Dropped("the claim's compare-and-set", "jobs", UPDATE, "lease.expires_at", SEEN, TAKEOVER),
    Dropped("no publish after a cancel", "jobs", UPDATE, CANCEL_REQUEST, REQUESTED, CANCELLED),
    Dropped("no cancel after a publish", "jobs", "update_one", CANCEL_REQUEST, DECISION, CANCELLED),
    Dropped("no cancel at once of a claimed job", "jobs", "update_one", "lease.epoch", EPOCH, CANCELLED),
    Dropped("no cancel at once of a deleted one", "jobs", "update_one", "lease.epoch", REQUESTED, DELETED_CANCELLED),
    Dropped("no publish of what is deleted", "documents", "update_one", "latest_revision", ("deleted_at",), DELETED),
    Dropped("no late publish", "documents", "update_one", "latest_attempt.epoch", ATTEMPT, DELETED_TAKEN_OVER),
    Dropped("no close while a sweep is asked for", "jobs", UPDATE, "sweep_at", ("sweep_at",), DELETED),
    Dropped("no rollback of a later attempt's chunks", "chunks", "delete_many", "epoch", ("epoch",), FAILURE),
    Dropped("no rollback of a later attempt's points", "points", "delete_many", "epoch", ("epoch",), FAILURE),
]


@pytest.fixture(autouse=True)
def _modelled() -> Iterator[None]:
    with modelled():
        yield


def states_of(scenario: Scenario, directory: Path, mutation: Mutation = lambda call: call) -> int:
    """How many states an exploration meets."""
    explorer = Explorer(scenario, an_upload(directory), mutate=mutation)
    try:
        return explorer.run()
    finally:
        explorer.close()


@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.name)
def test_every_order_is_exact(scenario: Scenario, tmp_path: Path) -> None:
    """No order of the steps breaks an invariant, at any state or at the end."""
    assert states_of(scenario, tmp_path) >= scenario.fewest_states


@pytest.mark.slow
@pytest.mark.parametrize("scenario", DEEP, ids=lambda scenario: scenario.name)
def test_every_order_of_more_is_exact(scenario: Scenario, tmp_path: Path) -> None:
    """The same, with more going wrong at once."""
    assert states_of(scenario, tmp_path) >= scenario.fewest_states


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda dropped: dropped.what)
def test_every_condition_is_needed(dropped: Dropped, tmp_path: Path) -> None:
    """Without this condition in its filter some order of the steps breaks an invariant, and the check finds it."""
    with pytest.raises(Violation):
        states_of(dropped.noticed_in, tmp_path, dropped.mutation())
