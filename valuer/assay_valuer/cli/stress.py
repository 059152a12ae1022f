"""`assay-valuer stress`: the loan book under named shocks, most of them its market's own history."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from assay_core.errors import FileError
from assay_core.instants import format_instant
from assay_core.money import Usd
from assay_valuer.book import Book, appraise
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_sentences,
    print_table,
    say,
)
from assay_valuer.credit.position import percent
from assay_valuer.market_store import newest_snapshot
from assay_valuer.pipeline import Pipeline
from assay_valuer.state import State
from assay_valuer.stress import Outcome, Shock, run, standing_shocks

HEADINGS = (
    "loan",
    "shock",
    "OLV",
    "LTV gross / net",
    "counts",
    "covenant LTV",
    "covenant at once",
    "if it lasts",
    "lendable",
    "of the debt",
)


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "stress",
        "show what every loan would come to under named shocks; nothing is written, nothing foretold",
        "assay-valuer stress --shock site-silent",
    )
    parser.add_argument(
        "--shock", metavar="NAME", action="append", help="this one alone; may be given again"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run_stress)


def run_stress(args: argparse.Namespace) -> int:
    """A row for each loan and shock, and what each shock is."""
    at_ms = now_ms()
    with opened(args) as state:
        policy = state.config.policy
        known = Pipeline(state.database, state.ledger_key, policy).known(at_ms)
        book = appraise(known, policy, at_ms)
        shocks = _chosen((*_priced(state, book), *standing_shocks(book)), args.shock)
    outcomes = run(book, known, shocks)
    if args.json:
        print_json({"at_ms": at_ms, "shocks": [_told(one) for one in shocks], "loans": outcomes})
    else:
        print_table(HEADINGS, [_cells(one) for one in outcomes])
        for one in shocks:
            print_sentences(one.name, (one.what, f"From {one.source}."))
        say(
            f"of {format_instant(at_ms)}, as far as the running service has followed; no forecast: each "
            "shock is what has happened once, or a judgement that is called one"
        )
    if outcomes:
        return OK
    say("no loan is registered; see `assay-valuer loan import`")
    return FALSE


def _priced(state: State, book: Book) -> tuple[Shock, ...]:
    """The market's own worst falls; where it has no history, the policy's judgement."""
    try:
        from assay_valuer.stress_market import judged_shocks, market_shocks  # noqa: PLC0415 - numpy
    except ModuleNotFoundError as error:
        say(
            f"falls of prices need the extra `valuation` ({error.name} is not installed): in a clone of "
            "this project, pip install '.[valuer,valuation]'; the shocks that need no prices follow"
        )
        return ()
    from assay_valuer.market.series import build_series  # noqa: PLC0415 - numpy
    from assay_valuer.market_desk import read_snapshot  # noqa: PLC0415 - the same

    stored = state.database.read(newest_snapshot)
    found: tuple[Shock, ...] = ()
    if stored is not None:
        snapshot = read_snapshot(state.database, stored)
        series = [build_series(one) for one in (snapshot.rental, snapshot.resale)]
        found = market_shocks(book, series[0], series[1], snapshot.sha256)
    return found or judged_shocks(state.config.policy.stress.falls_bps)


def _chosen(shocks: Sequence[Shock], names: Sequence[str] | None) -> tuple[Shock, ...]:
    if names is None:
        return tuple(shocks)
    known = {one.name: one for one in shocks}
    for name in names:
        if name not in known:
            raise FileError(f"--shock {name}: there is none; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _told(shock: Shock) -> dict[str, object]:
    return {
        "name": shock.name,
        "what": shock.what,
        "source": shock.source,
        "judgement": shock.judgement,
        "asset_class": shock.of,
    }


def _cells(one: Outcome) -> tuple[str, ...]:
    lasting = one.covenant_lasting
    if lasting is not None and one.lasting_after_hours:
        lasting = f"{lasting} in {one.lasting_after_hours} h"
    return (
        one.loan,
        one.shock,
        "unknown" if one.olv_micros is None else str(Usd(one.olv_micros)),
        f"{_ratio(one.ltv_gross_bps)} / {_ratio(one.ltv_net_bps)}",
        percent(one.coverage_bps),
        _ratio(one.covenant_ltv_bps),
        one.covenant_at_once or "no file",
        lasting or "",
        str(Usd(one.lendable_micros)),
        "" if one.covered_bps is None else percent(one.covered_bps),
    )


def _ratio(bps: int | None) -> str:
    return "unknown" if bps is None else percent(bps)
