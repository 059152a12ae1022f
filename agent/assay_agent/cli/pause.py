"""`assay-agent pause`: lets go of the GPUs for a while, and says so in a sealed window."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from assay_agent import config, control
from assay_agent.cli.durations import duration_ms


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "pause",
        help="close every device handle for a while, as maintenance",
        description="Tells the running agent to close every device handle, for a driver update or "
        "a reset, and to seal a maintenance window. It goes on by itself afterwards.",
        epilog="examples: assay-agent pause --for 30m; assay-agent pause --resume",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--for", dest="duration_ms", type=duration_ms, metavar="30m", help="how long")
    how.add_argument("--resume", action="store_true", help="end the pause now")


def run(args: argparse.Namespace) -> int:
    """Asks the running agent, and says what it did."""
    settings = config.load(args.config)
    request = control.Request(pause_ms=0 if args.resume else args.duration_ms)
    reply = control.ask(Path(settings.state_dir), request)
    print(reply.message, file=sys.stdout if reply.ok else sys.stderr)
    return 0 if reply.ok else 1
