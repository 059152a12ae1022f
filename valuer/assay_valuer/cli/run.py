"""`assay-valuer run`: the service."""

from __future__ import annotations

import argparse

from assay_valuer import service
from assay_valuer.cli.common import OK, Commands, add_command, opened
from assay_valuer.cli.tasks import TASKS


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "run",
        "serve enrolment and attestation, value, and publish, until stopped",
        "assay-valuer run --config /etc/assay-valuer/valuer.yaml",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    with opened(args) as state:
        service.run(state, TASKS)
    return OK
