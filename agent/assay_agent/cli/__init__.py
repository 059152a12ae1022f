"""`assay-agent`: the host's command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from assay_agent import VERSION
from assay_agent.cli import check, enroll, pause, read, record, run, show_outgoing
from assay_core.errors import AssayError, FileError, ServiceError

_COMMANDS: Final[dict[str, ModuleType]] = {
    "enroll": enroll,
    "run": run,
    "check": check,
    "read": read,
    "show-outgoing": show_outgoing,
    "record": record,
    "pause": pause,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. 0: well; 1: it does not hold; 2: bad use or file; 3: service unavailable."""
    parser = argparse.ArgumentParser(
        prog="assay-agent",
        description="Reads this host's GPUs, seals what it saw, and sends it to a valuer.",
    )
    parser.add_argument("--version", action="version", version=f"assay-agent {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS.values():
        module.add_parser(commands)
    for command in commands.choices.values():
        _accept_config(command)
    args = parser.parse_args(arguments)
    try:
        return int(_COMMANDS[args.command].run(args))
    except AssayError as error:
        print(f"assay-agent: {error}", file=sys.stderr)
        return 2 if isinstance(error, FileError) else 3 if isinstance(error, ServiceError) else 1
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _accept_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="agent.yaml; without one, every default (state in /var/lib/assay-agent)",
    )
