"""`assay verify prices` and `assay verify price`: a market's rows, or one of them, against its name."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from assay_audit.cli.window import DOES_NOT_HOLD, HOLDS
from assay_audit.prices import LINE_BYTES_MAX, LINES_MAX, Row, examine, examine_proof
from assay_core.disclosure import Step
from assay_core.errors import FileError
from assay_core.price_proof import FORMAT, Proof
from assay_core.printable import printable

PROOF_BYTES_MAX: Final = 65_536
_NAME_MAX: Final = 60

_ROWS_EPILOG: Final = """\
example:
  assay verify prices rows.jsonl --root 5f3c…

The file is what `assay-valuer market export` wrote: every price row that counted, one a line. The root
is the snapshot's SHA-256: `parameters.snapshot_sha256` in the case that `assay-valuer explain GPU
--export` writes, or the ledger's signed record. Have it from someone other than whoever gave you the
rows. What holds is that these rows, no more and no fewer, are what was fitted to; whether any seller
asked such a price, no file can say.

exit status: 0 all steps hold, 1 one does not, 2 a file or an argument cannot be read
"""
_PROOF_EPILOG: Final = """\
example:
  assay verify price proof.json --root 5f3c…

The file is what `assay-valuer market prove ROW` printed. The root is the snapshot's SHA-256; the one
that the proof itself names counts for nothing. What holds is that this row is among those that counted.

exit status: 0 all steps hold, 1 one does not, 2 a file or an argument cannot be read
"""


def add(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both commands to `assay verify`."""
    rows = things.add_parser(
        "prices",
        help="every price row of a market's snapshot",
        description="Checks that price rows are a snapshot of the market, whole, offline.",
        epilog=_ROWS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rows.add_argument("file", type=Path, metavar="FILE", help="the rows, one a line")
    _add_common(rows)
    rows.set_defaults(run=run_rows)
    one = things.add_parser(
        "price",
        help="the proof of one price row in a market's snapshot",
        description="Checks that a price row stands in a snapshot of the market, offline.",
        epilog=_PROOF_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("file", type=Path, metavar="FILE", help="the proof")
    _add_common(one)
    one.set_defaults(run=run_proof)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", required=True, metavar="HEX", help="the snapshot's SHA-256, 64 digits"
    )
    parser.add_argument("--json", action="store_true", help="print for machines")


def run_rows(args: argparse.Namespace) -> int:
    """The command; returns its exit status. Raises FileError."""
    root = _root(args.root)
    examined = examine(_lines(args.file), root)
    if args.json:
        more = {
            "rows": examined.counts,
            "first_day": examined.first_day,
            "last_day": examined.last_day,
        }
        print(json.dumps(_as_json(examined.steps, root) | more, indent=1))
    else:
        _print(examined.steps)
    return HOLDS if examined.holds else DOES_NOT_HOLD


def run_proof(args: argparse.Namespace) -> int:
    """The command; returns its exit status. Raises FileError."""
    root = _root(args.root)
    steps, row = examine_proof(_proof(args.file), root)
    if args.json:
        print(json.dumps(_as_json(steps, root) | {"row": _row_json(row)}, indent=1))
    else:
        _print(steps)
        if row is not None:
            names = ", ".join(printable(name, _NAME_MAX) for name in row.names if name)
            print(f"{row.day}  {row.market}  ${row.usd}  {names}")
    return DOES_NOT_HOLD if row is None else HOLDS


def _root(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise FileError("--root: a snapshot's SHA-256 has 64 hexadecimal digits")
    return text.lower()


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines without their ends, one at a time. Raises FileError."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if not line.endswith(b"\n"):
                    why = (
                        f"has over {LINE_BYTES_MAX} bytes: no price row has"
                        if len(line) > LINE_BYTES_MAX
                        else "has no end: the file was cut short"
                    )
                    raise FileError(f"{path}: line {number} {why}")
                if number > LINES_MAX:
                    raise FileError(f"{path}: more than {LINES_MAX} lines")
                yield line[:-1]
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def _proof(path: Path) -> Proof:
    try:
        with path.open("rb") as file:
            data = file.read(PROOF_BYTES_MAX + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > PROOF_BYTES_MAX:
        raise FileError(f"{path}: over {PROOF_BYTES_MAX} bytes: no proof of a row has so many")
    try:
        proof = msgspec.json.decode(data, type=Proof)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FileError(
            f"{path}: {printable(str(error), 256)}. Is it what `assay-valuer market prove` printed?"
        ) from error
    if proof.format != FORMAT:
        raise FileError(
            f"{path}: format is {printable(proof.format, 64)!r}; this version reads {FORMAT!r}"
        )
    return proof


def _print(steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps, start=1):
        mark = "holds" if step.holds else "FAILS"
        print(f"{number}. {step.name:<10} {mark}  {step.detail}")
    if all(step.holds for step in steps):
        print("All steps hold.")
    else:
        print("The file does not hold: do not rely on anything in it.")


def _as_json(steps: Sequence[Step], root: str) -> dict[str, object]:
    return {
        "verified": all(step.holds for step in steps),
        "root": root,
        "steps": [
            {"name": step.name, "holds": step.holds, "detail": step.detail} for step in steps
        ],
    }


def _row_json(row: Row | None) -> dict[str, object] | None:
    if row is None:
        return None
    return {"market": row.market, "day": row.day, "usd": row.usd, "names": list(row.names)}
