"""`assay`: checks evidence offline, trusting nobody but the keys you give it and pinned roots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

from assay_audit.cli import evidence, sealed_evidence, window
from assay_core.errors import FileError

BAD_FILE: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="assay", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verify = verbs.add_parser("verify", help="check something against the signed bytes")
    things = verify.add_subparsers(dest="thing", required=True)
    window.add(things)
    sealed_evidence.add(things)
    evidence.add(verbs)
    args = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except FileError as error:
        print(f"assay: {error}", file=sys.stderr)
        return BAD_FILE
