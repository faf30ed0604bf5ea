"""What the command lines share: where they print, and how they end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from ingest.errors import FanfoldError
from ingest.settings import SECRET_SETTINGS, Settings
from serve.client import ServiceError

USAGE = 2  # exit code of what was typed, set or found wrong before any work; also when the service does not answer
STOPPED = 130  # exit code after a signal
UNBROKEN = 100_000  # columns where there is no terminal: what reads there wants whole lines, and Rich would assume 80
out = Console(emoji=False)  # `:name:` in a file name or a setting stays what it is
if not out.is_terminal:
    out.width = UNBROKEN
err = Console(stderr=True, emoji=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that say what to do are printed as one line, without a traceback; the process ends with `USAGE`."""
    try:
        yield
    except (ServiceError, FanfoldError, OSError) as error:
        err.print(f"[bold red]fanfold:[/] {escape(_words(error))}", soft_wrap=True)
        sys.exit(USAGE)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"])
            value = "" if name in SECRET_SETTINGS else f"={problem['input']}"
            given = f"FANFOLD_{name.upper()}{value}: " if name else ""
            err.print(f"[bold red]fanfold:[/] {escape(given + said(problem['msg']))}", soft_wrap=True)
        sys.exit(USAGE)


def _words(error: Exception) -> str:
    """What to tell the user; the operating system's own errors with the file first."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def said(message: str) -> str:
    """A validator's own words, without what pydantic puts before them."""
    return message.removeprefix("Value error, ")
