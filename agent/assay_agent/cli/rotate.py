"""`assay-agent rotate`: another sealing key takes this one's place."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from assay_agent import config, control, rotation, spool_file, switch
from assay_agent.control import Reply, Request
from assay_agent.keys import KeyStore


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "rotate",
        help="replace this host's sealing key by a new one",
        description="Makes a new sealing key, which the valuer takes by proof of the old one, and "
        "seals with it from the next window on. No window is lost, and the host stays who it is. "
        "The running agent does it, between two windows; where none runs, this command does. Run "
        "the same again where the reply was lost: the key is the same.",
        epilog="examples: assay-agent rotate; assay-agent rotate --to tpm, for a host that enrolled "
        "with a key in a file",
    )
    parser.add_argument(
        "--to",
        choices=("file", "tpm"),
        help="where the new key lives; without it, in the TPM that agent.yaml names, else in a file",
    )
    parser.add_argument(
        "--anew",
        action="store_true",
        help="make another key, where the valuer refused the one that a rotation was begun with",
    )


def run(args: argparse.Namespace) -> int:
    """Has the running agent do it, or does it."""
    settings = config.load(args.config)
    request = Request(rotate_to=args.to or "default", anew=args.anew)
    if control.listens(Path(settings.state_dir)):
        reply = control.ask(Path(settings.state_dir), request)
    else:
        keys = KeyStore.default(settings)
        keys.prepare()
        with spool_file.locked(keys.state_dir):
            switch.complete(keys)
            rotation.complete(keys)
            to = asyncio.run(rotation.ask(keys, settings.proxy, args.to, anew=args.anew))
            rotation.complete(keys)
            reply = Reply(message=rotation.told(to, keys.signer()), ok=True)
    print(reply.message, file=sys.stdout if reply.ok else sys.stderr)
    return 0 if reply.ok else 1
