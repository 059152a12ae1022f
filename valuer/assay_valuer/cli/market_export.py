"""`market export` and `market prove`: a snapshot's rows, and the proof of one, for whoever doubts them.

Both judge the store's rows anew, and give nothing where these no longer are the snapshot.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from assay_core.errors import AssayError, FileError
from assay_core.printable import printable
from assay_valuer.cli.common import FALSE, OK, Commands, add_command, opened, print_json, say
from assay_valuer.market.observations import Quote
from assay_valuer.market.snapshot import MarketSnapshot, canonical, prove
from assay_valuer.market_desk import judged, read_snapshot
from assay_valuer.market_store import (
    StoredSnapshot,
    load_row,
    load_snapshot,
    newest_snapshot,
)
from assay_valuer.state import State
from assay_valuer.store.database import Database

_WHY_MAX: Final = 512


def add_parsers(group: Commands) -> None:
    """Registers the two commands."""
    exporting = add_command(
        group,
        "export",
        "write every row that counted in a snapshot, one a line, as `assay verify prices` reads them",
        "assay-valuer market export --out rows.jsonl",
    )
    exporting.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the new file to write"
    )
    _add_snapshot(exporting)
    exporting.add_argument("--json", action="store_true", help="for machines")
    exporting.set_defaults(run=run_export)
    proving = add_command(
        group,
        "prove",
        "prove that a row stands in a snapshot, to whoever has that snapshot's SHA-256",
        "assay-valuer market prove 1204 > proof.json",
    )
    proving.add_argument("row", metavar="ROW", type=int, nargs="?", help="its number")
    proving.add_argument(
        "--line", metavar="LINE", help="instead of a number: its line, as `market export` writes it"
    )
    _add_snapshot(proving)
    proving.set_defaults(run=run_prove)


def _add_snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--snapshot", metavar="SHA256", help="which snapshot; the newest without it"
    )


def run_export(args: argparse.Namespace) -> int:
    """Writes the rows; 1 where there is no such snapshot."""
    out: Path = args.out
    with opened(args) as state:
        stored = _stored(state, args.snapshot)
        if stored is None:
            return FALSE
        snapshot = _read(state.database, stored)
    _write(out, snapshot.lines)
    count = len(snapshot.lines)
    if args.json:
        print_json({"snapshot_sha256": snapshot.sha256, "rows": count, "file": str(out)})
    say(f"wrote {out}: the {count} rows that count in snapshot {snapshot.sha256}")
    say(f"check them with: assay verify prices {out} --root {snapshot.sha256}")
    return OK


def run_prove(args: argparse.Namespace) -> int:
    """The proof as JSON; 1 where the row does not count. Raises FileError, AssayError."""
    number: int | None = args.row
    line: str | None = args.line
    if (number is None) == (line is None):
        raise FileError("name one row: by its number, or by --line")
    with opened(args) as state:
        stored = _stored(state, args.snapshot)
        if stored is None:
            return FALSE
        wanted = _line_of(state, number, stored) if number is not None else _encoded(line or "")
        if wanted is None:
            return FALSE
        snapshot = _read(state.database, stored)
    proof = prove(snapshot, wanted)
    if proof is None:
        say(f"no row that counts in snapshot {stored.sha256} is so")
        return FALSE
    print(msgspec.json.format(msgspec.json.encode(proof), indent=1).decode())
    return OK


def _stored(state: State, wanted: str | None) -> StoredSnapshot | None:
    """The newest snapshot, or that of a name; None, having said so, where there is none."""
    if wanted is None:
        stored = state.database.read(newest_snapshot)
        missing = "there is no snapshot yet"
    else:
        name = wanted.lower()
        stored = state.database.read(lambda c: load_snapshot(c, name))
        missing = f"there is no snapshot {printable(wanted, 64)}; `market show` has the newest"
    if stored is None:
        say(missing)
    return stored


def _line_of(state: State, number: int, stored: StoredSnapshot) -> bytes | None:
    """The canonical line of a row by its number; None, having said why, where it cannot count."""
    row = state.database.read(lambda c: load_row(c, number))
    if row is None:
        say(f"there is no row {number}")
        return None
    read = judged(row, stored.summary.day)
    # What the store says of a row is of the newest snapshot: in an earlier one it may have counted.
    left_out = row.reason is not None and state.database.read(newest_snapshot) == stored
    if isinstance(read, Quote) and number <= stored.last_row and not left_out:
        return canonical(row.market, read)
    if not isinstance(read, Quote):
        why = read.detail
    else:
        why = row.detail or "" if left_out else "it is newer than the snapshot"
    said = printable(why, _WHY_MAX)
    say(f"row {number} is not in snapshot {stored.sha256}: {said}")
    return None


def _encoded(line: str) -> bytes:
    """A line as it was typed; what is no text at all stands in no snapshot."""
    return line.strip().encode("utf-8", "replace")


def _read(database: Database, stored: StoredSnapshot) -> MarketSnapshot:
    """A stored snapshot's rows. Raises AssayError where the store's rows are no longer those."""
    with progress() as bar:
        task = bar.add_task("rows", total=stored.last_row)
        snapshot = read_snapshot(database, stored, lambda last: bar.update(task, completed=last))
    if snapshot.sha256 != stored.sha256:
        raise AssayError(
            f"the rows in the store give snapshot {snapshot.sha256}, not {stored.sha256}: the store "
            "was changed, or the gate's rules were; `assay-valuer market refresh` makes a new snapshot "
            "as soon as a row comes or a day begins"
        )
    return snapshot


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """A new file of lines, whole or none at all. Raises AssayError; none is overwritten."""
    try:
        with path.open("xb") as file:
            try:
                file.writelines(line + b"\n" for line in lines)
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise AssayError(f"{path}: exists already; name another file") from error
    except OSError as error:
        raise AssayError(f"{path}: cannot be written: {error.strerror}") from error


def progress() -> Progress:
    """A bar on standard error, which goes when it is done."""
    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
