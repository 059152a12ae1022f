"""`assay-valuer replay`: works a recorded value out again, and says whether it comes out the same."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection

from assay_core.errors import AssayError, FileError
from assay_core.printable import printable
from assay_core.seal import PublicKey
from assay_valuer import replay
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    opened,
    print_json,
    say,
)
from assay_valuer.replay import Step
from assay_valuer.valuation.case import Case

_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_POSITION = re.compile(r"\d{1,18}")


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "replay",
        "work a recorded value out again, to the micro-dollar, and compare",
        "assay-valuer replay --file case.json",
    )
    parser.add_argument(
        "id",
        nargs="?",
        metavar="ID",
        help="a case by its SHA-256 or the first 8 digits of it or more; or, digits alone, the ledger "
        "position of a record of values",
    )
    parser.add_argument("gpu", nargs="?", metavar="GPU", help="of that record, this GPU alone")
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="what `explain --export` wrote: needs no store and no configuration",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="fit the market again too, from the rows in the store, and compare within a tolerance",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The steps that were checked; 0 where all hold, 1 where one does not."""
    path: Path | None = args.file
    wanted: str | None = args.id
    if (path is None) == (wanted is None):
        raise FileError("name a case, a ledger position, or a file with --file: one of them")
    if path is not None and args.refit:
        raise FileError("--refit needs the rows in the store: name the case instead of a file")
    steps = _from_file(path) if path is not None else _from_store(args, wanted or "")
    if args.json:
        print_json({"holds": _holds(steps), "steps": steps})
    else:
        _print(steps)
    return OK if _holds(steps) else FALSE


def _from_file(path: Path) -> list[Step]:
    try:
        with path.open("rb") as file:
            text = file.read(replay.FILE_BYTES_MAX + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    return list(replay.check_file(replay.load(text, str(path))))


def _from_store(args: argparse.Namespace, wanted: str) -> list[Step]:
    # What reads the store is not there for those who have a file alone.
    from assay_valuer.replay_store import by_name, by_position, refitted  # noqa: PLC0415

    gpu: str | None = args.gpu
    with opened(args) as state:
        key: PublicKey = state.ledger_key.public_key

        def job(connection: Connection) -> tuple[list[Step], list[Case]]:
            if _POSITION.fullmatch(wanted):
                steps, cases = by_position(connection, int(wanted), gpu, key)
            elif _PREFIX.fullmatch(wanted.lower()):
                steps, cases = by_name(connection, wanted.lower(), key)
            else:
                raise AssayError(
                    f"{printable(wanted, 80)}: neither 8 digits or more of a case's SHA-256 nor a "
                    "position in the ledger; see `assay-valuer explain`"
                )
            return steps, cases

        steps, cases = state.database.read(job)
        return [*steps, *(refitted(state.database, cases) if args.refit else ())]


def _holds(steps: Iterable[Step]) -> bool:
    return all(step.holds is not False for step in steps)


def _print(steps: list[Step]) -> None:
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step.name:<12} {_mark(step)}  {step.detail}")
    say("the same, to the micro-dollar" if _holds(steps) else "it does not come out the same")


def _mark(step: Step) -> str:
    return {True: "holds", False: "FAILS", None: "unchecked"}[step.holds]
