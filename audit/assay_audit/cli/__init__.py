"""`assay`: checks evidence offline, trusting nobody but the keys you give it and pinned roots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

from assay_audit import VERSION
from assay_audit.cli import evidence, prices, sealed_evidence, window
from assay_core.errors import AssayError, FileError

BAD_FILE: Final = 2
LACKING: Final = 3
"""What the command needs is not installed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="assay",
        description="Checks evidence offline, trusting nobody but the keys you give it and pinned "
        "roots.",
        epilog="examples: assay verify window --help; assay evidence verify --help. Exit status 0: "
        "all of it holds; 1: something does not; 2: a wrong argument or file; 3: a part of this "
        "program is not installed.",
    )
    parser.add_argument("--version", action="version", version=f"assay {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verify = verbs.add_parser(
        "verify",
        help="check a file that a valuer exported: a window, evidence, or price rows",
        description="Checks a file that a valuer wrote, against signed bytes or a hash that you have.",
    )
    things = verify.add_subparsers(dest="thing", required=True, metavar="WHAT")
    window.add(things)
    sealed_evidence.add(things)
    prices.add(things)
    evidence.add(verbs)
    args = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except FileError as error:
        print(f"assay: {error}", file=sys.stderr)
        return BAD_FILE
    except AssayError as error:
        print(f"assay: {error}", file=sys.stderr)
        return LACKING
