"""`assay-agent enroll`: a token becomes this host's id and certificates."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from assay_agent import config, enroll
from assay_agent.keys import KeyStore
from assay_core.errors import FileError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "enroll",
        help="enrol this host with a lender's token",
        description="Makes this host's keys, and gets its id and certificates for the token. "
        "Run the same again where the reply was lost: nothing is used up twice.",
        epilog="example: assay-agent enroll --token-file /root/token",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token; without one it is read from standard input, never from an "
        "argument, where other users could see it",
    )


def run(args: argparse.Namespace) -> int:
    """Enrols, and says who the host is now."""
    settings = config.load(args.config)
    token = enroll.parse_token(_read(args.token_file))
    host = asyncio.run(enroll.enroll(KeyStore.default(settings.state_dir), token, settings.proxy))
    print(f"enrolled as {host.host_id}, incarnation {host.incarnation}")
    print(f"valuer at {host.attestation_endpoint}; start it: assay-agent run")
    return 0


def _read(path: Path | None) -> str:
    if path is None:
        if sys.stdin.isatty():
            print("paste the token, then press Enter and Ctrl-D:", file=sys.stderr)
        return sys.stdin.read()
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
