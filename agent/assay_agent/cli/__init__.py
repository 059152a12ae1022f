"""`assay-agent`: the host's command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol, cast

from assay_agent import VERSION
from assay_agent.lean import without
from assay_core.errors import AssayError, FileError, ServiceError

_COMMANDS: Final = {
    "enroll": "enroll",
    "run": "run",
    "check": "check",
    "read": "read",
    "show-outgoing": "show_outgoing",
    "record": "record",
    "replay": "replay",
    "pause": "pause",
    "propose": "propose",
    "rotate": "rotate",
}
"""Each command and its module."""
_EXTRA: Final = ("grpc", "pynvml", "structlog", "rich")
"""What the extra `agent` brings."""


class _Command(Protocol):
    """What each command's module is."""

    def add_parser(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Declares the command."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Runs it, and returns the exit status."""
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. 0: well; 1: it does not hold; 2: bad use or file; 3: service unavailable."""
    parser = argparse.ArgumentParser(
        prog="assay-agent",
        description="Reads this host's GPUs, seals what it saw, and sends it to a valuer.",
        epilog="example: assay-agent check. Exit status 0: well; 1: something is amiss; 2: a wrong "
        "argument or file; 3: what is needed does not answer. Each command: COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"assay-agent {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = list(sys.argv[1:] if arguments is None else arguments)
    lacking = [name for name in _EXTRA if find_spec(name) is None]
    if lacking:
        print(
            f"assay-agent: not installed: {', '.join(lacking)}; install gpu-assay[agent]",
            file=sys.stderr,
        )
        return 3
    # Only the command that is asked for is loaded: the service carries nothing of the others.
    names = words[:1] if words[:1] and words[0] in _COMMANDS else list(_COMMANDS)
    if names == ["run"]:
        # A MiB on every host: gRPC has a TLS of its own, and so has the metrics port (metrics/tls.py).
        with without("ssl", "_ssl"):
            import_module("asyncio")
    modules = {name: _load(_COMMANDS[name]) for name in names}
    for module in modules.values():
        module.add_parser(commands)
    for command in commands.choices.values():
        _accept_config(command)
    args = parser.parse_args(words)
    args.config = _config(args.config)
    try:
        return modules[args.command].run(args)
    except AssayError as error:
        print(f"assay-agent: {error}", file=sys.stderr)
        return 2 if isinstance(error, FileError) else 3 if isinstance(error, ServiceError) else 1
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _load(name: str) -> _Command:
    return cast("_Command", import_module(f"assay_agent.cli.{name}"))


def _config(given: Path | None) -> Path | None:
    from assay_agent import config  # noqa: PLC0415 - only after what the service goes without

    return config.chosen(given, os.environ)


def _accept_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="agent.yaml; without it, $ASSAY_AGENT_CONFIG, or /etc/assay-agent/agent.yaml where there "
        "is one, or every default (state in /var/lib/assay-agent)",
    )
