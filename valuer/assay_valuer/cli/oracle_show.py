"""`oracle show`: each loan's feed as the chain has it, beside what we last had to say.

A reading that is not fresh means that the value is unknown now, not that it is what it last was.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.table import Table

from assay_core.instants import format_instant
from assay_core.money import Usd
from assay_valuer.book import Loan
from assay_valuer.cli.common import FALSE, OK, now_ms, opened, print_json, say
from assay_valuer.cli.oracle_hub import chosen_loans, open_hub
from assay_valuer.oracle.hub import Hub, HubRefused, Reading
from assay_valuer.oracle.outbox import Post
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.report import DECIMALS, Flag, Report

UNKNOWN = "UNKNOWN"
LTV_BPS_MAX = 0xFFFF


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a round says: amounts in micro-dollars, times in UTC seconds."""

    round: int
    olv_micros: int
    nolv_micros: int
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    assurance: int
    flags: tuple[str, ...]
    observed_at_s: int
    valid_until_s: int


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """The newest round in the outbox, and how far it has come."""

    state: str
    updated_ms: int
    detail: str
    report: Said


class FeedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One loan's feed. Where `fresh` is false the value is unknown, and `why` says why."""

    loan: str
    feed_id: str
    registered: bool
    fresh: bool
    why: str
    chain: Said | None
    posted_at_s: int | None
    outbox: Planned | None


@dataclass(frozen=True, slots=True)
class _OnChain:
    registered: bool
    reading: Reading | None


def run(args: argparse.Namespace) -> int:
    """0 where every feed shown is fresh, 1 where one is not."""
    with opened(args) as state:
        loans = chosen_loans(state, args.loans)
        hub = open_hub(state.config, args.rpc)
        outbox = SqlOutbox(state.database)
        try:
            rows = [_row(hub, loan, outbox.newest(hub.domain, loan.feed_id)) for loan in loans]
        finally:
            hub.rpc.close()
    if args.json:
        print_json({"chain_id": hub.domain.chain_id, "hub": hub.domain.hub, "feeds": rows})
    elif rows:
        console = Console()
        for row in rows:
            _print(console, row)
    else:
        say("no loan is registered; register one with: assay-valuer loan import FILE")
    return OK if all(row.fresh for row in rows) else FALSE


# ------------------------------------------------------------------------------- reading


def _row(hub: Hub, loan: Loan, post: Post | None) -> FeedRow:
    shown = _read(hub, loan.feed_id)
    why = _why_unknown(shown, loan.file.id, now_ms())
    reading = shown.reading
    return FeedRow(
        loan=loan.file.id,
        feed_id=f"0x{loan.feed_id.hex()}",
        registered=shown.registered,
        fresh=not why,
        why=why,
        chain=None if reading is None else _said_on_chain(reading),
        posted_at_s=None if reading is None else reading.posted_at_s,
        outbox=None if post is None else _planned(post),
    )


def _read(hub: Hub, feed_id: bytes) -> _OnChain:
    try:
        return _OnChain(True, hub.latest(feed_id))
    except HubRefused as error:
        if error.name == "UnknownFeed":
            return _OnChain(False, None)
        if error.name == "NoReport":
            return _OnChain(True, None)
        raise


def _why_unknown(shown: _OnChain, loan_id: str, now: int) -> str:
    """Why the value is unknown; empty where it may be used."""
    reading = shown.reading
    if not shown.registered:
        return f"the feed is not registered: assay-valuer oracle register {loan_id}"
    if reading is None:
        return "the feed has no round yet"
    if Flag.RIPCORD in reading.flags:
        return "the ripcord is pulled"
    if reading.coverage_bps == 0:
        return "nothing pledged is counted"
    if not reading.fresh or reading.valid_until_s * 1000 < now:
        # The chain's clock stands still between its blocks; ours does not.
        return f"its validity ended {_time(reading.valid_until_s)}"
    return ""


def _said_on_chain(reading: Reading) -> Said:
    # Our hub's feeds have the 18 decimals that `Usd` converts; another number is scaled to them.
    scale = 10 ** (DECIMALS - reading.decimals)
    return Said(
        round=reading.round,
        olv_micros=Usd.from_wad_down(reading.olv_wad * scale).micros,
        nolv_micros=Usd.from_wad_down(reading.nolv_wad * scale).micros,
        ltv_gross_bps=reading.ltv_gross_bps,
        ltv_net_bps=reading.ltv_net_bps,
        coverage_bps=reading.coverage_bps,
        assurance=reading.assurance,
        flags=_flags(reading.flags),
        observed_at_s=reading.observed_at_s,
        valid_until_s=reading.valid_until_s,
    )


def _planned(post: Post) -> Planned:
    return Planned(
        state=post.state.value,
        updated_ms=post.updated_ms,
        detail=post.detail,
        report=_said_in_report(post.report),
    )


def _said_in_report(report: Report) -> Said:
    return Said(
        round=report.round,
        olv_micros=report.olv.micros,
        nolv_micros=report.nolv.micros,
        ltv_gross_bps=report.ltv_gross_bps,
        ltv_net_bps=report.ltv_net_bps,
        coverage_bps=report.coverage_bps,
        assurance=report.assurance,
        flags=_flags(report.flags),
        observed_at_s=report.observed_at_s,
        valid_until_s=report.valid_until_s,
    )


def _flags(flags: Flag) -> tuple[str, ...]:
    return tuple(flag.name.lower() for flag in Flag if flag in flags and flag.name)


# ------------------------------------------------------------------------------- printing


def _print(console: Console, row: FeedRow) -> None:
    """One feed: the chain's words and ours side by side."""
    state = "fresh" if row.fresh else f"{UNKNOWN}: {row.why}"
    table = Table("", "on the chain", "in the outbox", title=f"{row.loan}  {row.feed_id}")
    table.title_justify = "left"
    planned = row.outbox
    chain = _cells(row.chain, usable=row.fresh)
    outbox = _cells(None if planned is None else planned.report, usable=True)
    table.add_row("state", state, "nothing" if planned is None else _words(planned))
    for name in chain:
        table.add_row(name, chain[name], outbox[name])
    console.print(table)


def _words(planned: Planned) -> str:
    return f"{planned.state}: {planned.detail}" if planned.detail else planned.state


def _cells(said: Said | None, *, usable: bool) -> dict[str, str]:
    names = ("round", "OLV", "NOLV", "LTV gross", "LTV net", "coverage", "assurance", "flags")
    if said is None:
        return dict.fromkeys((*names, "observed", "valid until"), "")
    amounts = [str(Usd(said.olv_micros)), str(Usd(said.nolv_micros))]
    ratios = [_ltv(said.ltv_gross_bps), _ltv(said.ltv_net_bps)]
    if not usable:
        amounts, ratios = ([f"{UNKNOWN} (was {one})" for one in many] for many in (amounts, ratios))
    words = (
        str(said.round),
        *amounts,
        *ratios,
        _percent(said.coverage_bps),
        str(said.assurance),
        ", ".join(said.flags) or "none",
        _time(said.observed_at_s),
        _time(said.valid_until_s),
    )
    return dict(zip((*names, "observed", "valid until"), words, strict=True))


def _ltv(bps: int) -> str:
    """The contract has 16 bits for it: the highest value stands for whatever is above."""
    return _percent(bps) + (" or more" if bps == LTV_BPS_MAX else "")


def _percent(bps: int) -> str:
    return f"{bps / 100:.2f}%"


def _time(at_s: int) -> str:
    return format_instant(at_s * 1000)
