"""Logs to standard error: one line an event, JSON unless a person is reading it in a terminal."""

from __future__ import annotations

import logging
import sys

from assay_agent import lean

# structlog loads rich where there is one, for tracebacks in a terminal. The agent's would be
# 2.5 MiB resident on every host for that.
with lean.without("rich"):
    import structlog


def to_stderr() -> None:
    """Sets up logging for this process."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
