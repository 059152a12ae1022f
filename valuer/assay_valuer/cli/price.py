"""`assay-valuer price import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_core.errors import FileError
from assay_core.instants import DAY_MS, format_instant
from assay_valuer.cli.common import OK, Commands, add_command, now_ms, opened, read_text, say
from assay_valuer.market.models import PRODUCTS
from assay_valuer.market.prices import read_prices
from assay_valuer.registry import import_prices


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    group = commands.add_parser("price", help="price tables").add_subparsers(required=True)
    importing = add_command(
        group,
        "import",
        "make a price table the one in use",
        "assay-valuer price import prices.csv",
    )
    importing.add_argument("file", metavar="FILE", type=Path, help="CSV; see docs/collateral.md")
    importing.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """Reads the whole table before anything is written."""
    snapshot = read_prices(read_text(args.file), str(args.file))
    now = now_ms()
    if snapshot.as_of_ms > now + DAY_MS:
        # Such a row would never be too old.
        raise FileError(f"{args.file}: as_of: {format_instant(snapshot.as_of_ms)} is yet to come")
    with opened(args) as state:
        state.database.write(lambda c: import_prices(c, snapshot, state.ledger_key, now))
    count = len(snapshot.rows)
    are = "price is" if count == 1 else "prices are"
    say(f"{count} {are} in use: snapshot {snapshot.sha256}")
    for product in sorted({product for product, _ in snapshot.rows} - set(PRODUCTS.values())):
        say(f"warning: {product}: no GPU is matched with this name, so nothing has this price")
    return OK
