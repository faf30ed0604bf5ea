"""Structured logs: one event a line, with `job_id`, `attempt`, `stage` and `page_number` wherever they are known."""

import logging
import sys

import structlog

Log = structlog.stdlib.BoundLogger


def configure_logging(level: str) -> None:
    """Send every event to standard error: as JSON, or coloured for a person at a terminal. Called by entry points."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger() -> Log:
    """A logger; what is bound to the context by `structlog.contextvars` appears in every event."""
    logger: Log = structlog.get_logger()
    return logger
