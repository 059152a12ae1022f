"""`assay-valuer export`: files that anyone can check offline with `assay verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_core import disclosure
from assay_core.errors import AssayError, FileError
from assay_core.evidence import file as evidence_file
from assay_valuer.cli.common import OK, Commands, add_command, opened, say, write_file
from assay_valuer.hosts import list_trust
from assay_valuer.ledger.read import evidence_of, window


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser("export", help="files for others to verify").add_subparsers(
        required=True
    )
    one = add_command(
        group,
        "window",
        "write one sealed window, whole or with some of its leaves",
        "assay-valuer export window --host HOST_ID --sequence 7 --leaves 0,3 --out window.json",
    )
    one.add_argument(
        "--host", required=True, metavar="HOST_ID", help="as `assay-valuer host list` has it"
    )
    one.add_argument("--sequence", required=True, type=int, metavar="N", help="0 and up")
    one.add_argument("--incarnation", type=int, default=0, metavar="N", help="of the host (0)")
    one.add_argument("--leaves", help="indexes of the leaves to disclose, as 0,3; without: all")
    one.add_argument("--out", required=True, type=Path, metavar="FILE", help="the new file")
    one.set_defaults(run=run_window)
    evidence = add_command(
        group,
        "evidence",
        "write what a host's hardware answered to a challenge",
        "assay-valuer export evidence --host HOST_ID --out evidence.json",
    )
    evidence.add_argument(
        "--host", required=True, metavar="HOST_ID", help="as `assay-valuer host list` has it"
    )
    evidence.add_argument(
        "--position", type=int, metavar="N", help="in the ledger; without it, the newest"
    )
    evidence.add_argument("--out", required=True, type=Path, metavar="FILE", help="the new file")
    evidence.set_defaults(run=run_evidence)
    trust = add_command(
        group,
        "trust",
        "write which keys were enrolled for which hosts",
        "assay-valuer export trust --out trust.json",
    )
    trust.add_argument("--out", required=True, type=Path, metavar="FILE", help="the new file")
    trust.set_defaults(run=run_trust)


def run_window(args: argparse.Namespace) -> int:
    """The exact bytes that the host sealed."""
    with opened(args) as state:
        found = state.database.read(lambda c: window(c, args.host, args.incarnation, args.sequence))
    if found is None:
        raise AssayError(
            f"{args.host} has no window {args.sequence} in incarnation {args.incarnation}; "
            "see `assay-valuer host list`"
        )
    indexes = None if args.leaves is None else _indexes(args.leaves, len(found.sealed.leaves))
    write_file(args.out, disclosure.dump(disclosure.disclose(found.sealed, indexes)))
    say(f"wrote {args.out}; check it with: assay verify window {args.out} --trust TRUST_FILE")
    return OK


def run_evidence(args: argparse.Namespace) -> int:
    """The exact bytes that the host sealed, and that its hardware signed."""
    with opened(args) as state:
        found = state.database.read(lambda c: evidence_of(c, args.host, args.position))
    if found is None:
        where = "" if args.position is None else f" at position {args.position}"
        raise AssayError(f"{args.host} has no evidence{where}; see `assay-valuer host list`")
    file = evidence_file.EvidenceFile(
        found.position, found.asked_ms, found.received_ms, found.sealed
    )
    write_file(args.out, evidence_file.dump(file))
    say(f"wrote {args.out}; check it with: assay verify evidence {args.out} --trust TRUST_FILE")
    return OK


def run_trust(args: argparse.Namespace) -> int:
    """Whoever is handed this file must know who handed it to them."""
    with opened(args) as state:
        trusts = state.database.read(list_trust)
    write_file(args.out, disclosure.dump_trust(trusts))
    say(f"wrote {args.out}: {len(trusts)} keys")
    return OK


def _indexes(text: str, count: int) -> list[int]:
    try:
        indexes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise FileError(f"--leaves {text!r}: numbers with commas between, such as 0,3") from error
    if not all(0 <= index < count for index in indexes):
        raise FileError(f"--leaves {text!r}: the window has leaves 0 to {count - 1}")
    return indexes
