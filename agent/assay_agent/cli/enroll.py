"""`assay-agent enroll`: a token becomes this host's id and certificates."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from assay_agent import config, enroll
from assay_agent.keys import Host, KeyStore
from assay_core.errors import FileError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "enroll",
        help="enrol this host with a lender's token",
        description="Makes this host's keys, and gets its id and certificates for the token. "
        "Run the same again where the reply was lost: nothing is used up twice. With another token "
        "an enrolled host gets new keys and a new chain, and what it had is put aside; stop the "
        "agent for that.",
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
    keys = KeyStore.default(settings)
    done = asyncio.run(enroll.enroll(keys, token, settings.proxy))
    host = done.host
    if not done.changed:
        print(f"nothing changed: this token made this host {host.host_id}, {_at(host)}")
        return 0
    print(f"enrolled as {host.host_id}, {_at(host)}")
    if settings.tpm is not None and keys.host_tpm() is None:
        print("its sealing key is not in a TPM: assay-agent check says why", file=sys.stderr)
    if done.aside is not None:
        print(
            f"keys and spool from before are in {done.aside}: keep them, what was not sent yet is "
            "evidence"
        )
    if done.replaced is not None and done.replaced.host_id != host.host_id:
        old = done.replaced.host_id
        print(
            f"this is a new host to the valuer: the token was not made for {old}, where all that it "
            "knew stays, and which now falls silent. To go on as that one, enrol again with a token "
            f"from: assay-valuer token create --host {old}"
        )
    print(f"valuer at {host.attestation_endpoint}; start it: assay-agent run")
    return 0


def _at(host: Host) -> str:
    return f"incarnation {host.incarnation}"


def _read(path: Path | None) -> str:
    if path is None:
        if sys.stdin.isatty():
            print("paste the token, then press Enter and Ctrl-D:", file=sys.stderr)
        return sys.stdin.read()
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read: {why}") from error
