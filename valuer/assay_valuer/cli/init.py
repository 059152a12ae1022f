"""`assay-valuer init`: makes the state folder, or brings an old store to this version."""

from __future__ import annotations

import argparse

from assay_valuer.cli.common import OK, Commands, add_command, config_of, now_ms, say
from assay_valuer.state import create


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "init",
        "make the state folder, keys, certificate authority and store; or migrate an older store",
        "assay-valuer init --config /etc/assay-valuer/valuer.yaml",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Nothing that exists is overwritten."""
    config = config_of(args)
    done = create(config, now_ms())
    for line in done:
        say(line)
    if not done:
        say(f"{config.state_dir} is complete and of this version; nothing was changed")
    return OK
