"""The error tree: every error crosses a process boundary unchanged, and the drawing is the tree."""

import inspect
import pickle
import re
from collections.abc import Iterator

import pytest

import serve.uploads  # noqa: F401  # so that the classes which HTTP adds to the tree are walked too
from ingest import errors
from ingest.errors import Category, FanfoldError, LeaseLost, StoreUnavailable, WorkTimeout
from ingest.failures import INTERNAL_MESSAGE, failed_page, failure_of
from ingest.model import PageFailure, Stage


def tree(root: type[FanfoldError]) -> Iterator[type[FanfoldError]]:
    """The class and everything derived from it."""
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


KINDS = sorted(set(tree(FanfoldError)), key=lambda kind: (kind.__module__, kind.__name__))


@pytest.mark.parametrize("page_number", [None, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_pickle(kind: type[FanfoldError], page_number: int | None) -> None:
    """Ray carries errors between processes by pickle: class, message, page, category and retryable arrive unchanged."""
    error = kind("What happened, and what to do: 100 % ü.", page_number=page_number)
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is kind
    assert arrived.message == str(arrived) == error.message == "What happened, and what to do: 100 % ü."
    assert arrived.page_number == page_number
    assert (arrived.category, arrived.retryable) == (kind.category, kind.retryable)
    assert arrived.args == error.args


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_what_it_means(kind: type[FanfoldError]) -> None:
    """Each class has a docstring of its own, a category of the closed list, and a definite answer to "retry?"."""
    assert kind.__dict__.get("__doc__")
    assert isinstance(kind.category, Category)
    assert kind.retryable in {True, False}


def test_the_drawing_names_exactly_the_classes_that_exist() -> None:
    """The tree in the module's docstring is the tree: same classes, same parents."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:│   |    )*)(├── |└── )?([A-Z]\w+)(?:  |$)", line)
        if match:
            depth = len(match[1]) // 4 + (match[2] is not None)
            path[depth:] = [match[3]]
            parents[match[3]] = path[depth - 1] if depth else None
    defined = {
        name: None if kind is FanfoldError else kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, FanfoldError) and kind.__module__ == errors.__name__
    }
    assert parents == defined


def test_a_purposeful_error_is_shown_as_it_is() -> None:
    """A job's `error` carries the public message, the category, the stage and the page of what was raised."""
    failure = failure_of(WorkTimeout("Page 3 took too long.", page_number=3), Stage.EXTRACT)
    assert (failure.category, failure.message, failure.retryable) == (Category.TIMEOUT, "Page 3 took too long.", True)
    assert (failure.stage, failure.page_number) == (Stage.EXTRACT, 3)


def test_an_unexpected_error_shows_no_detail() -> None:
    """What Fanfold did not raise on purpose may hold secrets: users see a fixed sentence, and a retry is allowed."""
    failure = failure_of(RuntimeError("mongodb://user:secret@host"), None)
    assert (failure.category, failure.message, failure.retryable) == (Category.INTERNAL, INTERNAL_MESSAGE, True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.WorkTimeout("t"), PageFailure.TIMEOUT),
        (errors.WorkerCrashed("c"), PageFailure.CRASH),
        (errors.OutOfMemory("m"), PageFailure.MEMORY),
        (errors.PageUnreadable("u"), PageFailure.UNREADABLE),
        (errors.WorkError("w"), PageFailure.UNREADABLE),
    ],
)
def test_a_failed_page_says_why(error: errors.WorkError, reason: PageFailure) -> None:
    """`failed_pages` names the page, the reason in one word and the message."""
    page = failed_page(4, error)
    assert (page.page_number, page.reason, page.message) == (4, reason, error.message)


def test_losing_a_lease_is_never_worth_a_retry_and_a_silent_store_always_is() -> None:
    """The two errors on which recovery turns: a loser stops for good, a store that does not answer is asked again."""
    assert not LeaseLost("x").retryable
    assert StoreUnavailable("x").retryable
