"""Logs go to standard error: for people at a terminal, as JSON elsewhere."""

from __future__ import annotations

import logging
import os
import sys

import structlog


def configure() -> None:
    """Sets up logging for this process; $ASSAY_LOG names the level (info)."""
    name = os.environ.get("ASSAY_LOG", "info").upper()
    level = logging.getLevelNamesMapping().get(name, logging.INFO)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
