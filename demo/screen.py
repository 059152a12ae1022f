"""What the demo shows: each GPU, its value and why, its loan's LTV, and the oracle's round."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sqlalchemy import select

from assay_core.money import Usd
from assay_valuer.cli.common import flowing
from assay_valuer.cli.gpu import assurance_of
from assay_valuer.oracle.hub import Hub, HubRefused, Reading
from assay_valuer.results import StoredLine, StoredPosition
from assay_valuer.standing.trust import HostProofs
from assay_valuer.store.database import Database
from assay_valuer.store.schema import (
    ASSET,
    HOST,
    HOST_TRUST,
    LOAN,
    LOAN_POSITION,
    PLEDGE,
    VALUATION,
)

BANNER = (
    "[bold]DEMO.[/] Everything marked [yellow]SIM[/] is simulated: no such GPU, loan or money "
    "exists, and prices are made up.\n"
    "Demo policy, not fit for money: 5 s windows, 5 s grace, no persistence rule, and credit for "
    "simulated hosts.\nA host at L0 signs with a software key: 10% of net value is lendable. One with a "
    "[yellow]simulated TPM[/] is L1 by this policy's word (25%): no real chip vouches for it."
)
SHORT_BANNER = (
    "[bold]DEMO.[/] [yellow]SIM[/]: no such GPU, loan or money exists. Prices are made up."
)
_HOST_ID = re.compile(r"spiffe://\S+/host/(\w+)")
WIDE = 140
"""Columns of a terminal that the full tables need."""


@dataclass(frozen=True, slots=True)
class FrozenRow:
    """One host that is frozen, and why."""

    host: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU as the valuer's store has it."""

    host: str
    loan: str | None
    line: StoredLine


@dataclass(frozen=True, slots=True)
class LoanRow:
    """One loan, with what the chain says of its feed; None: no round yet."""

    loan: str
    position: StoredPosition
    reading: Reading | None


@dataclass(frozen=True, slots=True)
class View:
    """One look at the store and the chain."""

    gpus: tuple[GpuRow, ...]
    loans: dict[str, LoanRow]
    frozen: tuple[FrozenRow, ...]


def look(database: Database, hub: Hub) -> View:
    """Reads the newest results from the store, and each feed from the chain."""
    query = (
        select(HOST.c.host_id, PLEDGE.c.loan_id, VALUATION.c.result)
        .select_from(VALUATION.join(ASSET, ASSET.c.id == VALUATION.c.asset_id))
        .outerjoin(HOST, HOST.c.key == ASSET.c.host_key)
        .outerjoin(PLEDGE, PLEDGE.c.asset_id == ASSET.c.id)
        .order_by(PLEDGE.c.loan_id, ASSET.c.id)
    )
    positions = select(LOAN.c.id, LOAN.c.feed_id, LOAN_POSITION.c.result).join(
        LOAN_POSITION, LOAN_POSITION.c.loan_id == LOAN.c.id
    )
    hosts = select(HOST.c.host_id, HOST_TRUST.c.trust).join(
        HOST, HOST.c.key == HOST_TRUST.c.host_key
    )
    gpus = database.read(lambda connection: connection.execute(query).all())
    proofs = database.read(lambda connection: connection.execute(hosts).all())
    loans = database.read(lambda connection: connection.execute(positions).all())
    return View(
        tuple(
            GpuRow(host or "", loan, msgspec.json.decode(result, type=StoredLine))
            for host, loan, result in gpus
        ),
        {
            loan: LoanRow(
                loan, msgspec.json.decode(result, type=StoredPosition), on_chain(hub, feed_id)
            )
            for loan, feed_id, result in loans
        },
        tuple(
            FrozenRow(host, tuple(one.detail for one in held.freezes))
            for host, held in (
                (host, msgspec.json.decode(trust, type=HostProofs)) for host, trust in proofs
            )
            if held.freezes
        ),
    )


def on_chain(hub: Hub, feed_id: bytes) -> Reading | None:
    """The feed as the contract shows it; None before its first round."""
    try:
        return hub.latest(feed_id)
    except HubRefused:
        return None


def render(console: Console, view: View) -> RenderableType:
    """The banner and both tables, as full as the console has room for."""
    wide = console.width >= WIDE
    banner = Panel(BANNER, box=box.SIMPLE)
    frozen = _frozen(view)
    loans = _loan_table(view, wide=wide)
    fullest = Group(banner, loans, _gpu_table(view, wide=wide, each=True), *frozen)
    if len(console.render_lines(fullest)) < console.height:
        return fullest
    gpus = _gpu_table(view, wide=wide, each=False)
    return Group(Text.from_markup(SHORT_BANNER), loans, gpus, *frozen)


def show(console: Console, view: View) -> None:
    """Prints both tables once."""
    wide = console.width >= WIDE
    console.print(_gpu_table(view, wide=wide, each=True))
    console.print(_loan_table(view, wide=wide))
    for line in _frozen(view):
        console.print(line)


def _frozen(view: View) -> list[Text]:
    """A line for each host that is frozen."""
    return [
        Text(_brief(f"FROZEN {row.host}: {'; '.join(row.reasons)}"), "red") for row in view.frozen
    ]


def _gpu_table(view: View, *, wide: bool, each: bool) -> Table:
    """A row a GPU; or where there is no room, a row for each lot of GPUs that are alike."""
    lots: dict[tuple[str, ...], list[GpuRow]] = {}
    for row in view.gpus:
        cells = _cells(row, view, wide=wide, short=not each)
        lots.setdefault((row.line.gpu, *cells) if each else cells, []).append(row)
    table = _table("GPUs", wide=wide)
    table.add_column("GPU", no_wrap=True)
    table.add_column("product", no_wrap=True)
    if wide:
        table.add_column("presence", no_wrap=True)
        table.add_column("assurance", no_wrap=True)
    heading = "OLV low / mid / high" if wide else "OLV"
    table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=1)
    if wide:
        table.add_column("loan", no_wrap=True)
        table.add_column("LTV", justify="right", no_wrap=True)
        table.add_column("round", justify="right", no_wrap=True)
    for key, rows in lots.items():
        line = rows[0].line
        name = line.gpu if len(rows) == 1 else f"{len(rows)} alike"
        table.add_row(
            Text(name + (" SIM" if line.simulated else ""), "yellow" if line.simulated else ""),
            *(key[1:] if each else key),
            style="" if line.counts else "red",
        )
    return table


def _table(title: str, *, wide: bool) -> Table:
    padding = (0, 1) if wide else (0, 1, 0, 0)
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=padding)


def _cells(row: GpuRow, view: View, *, wide: bool, short: bool) -> tuple[str, ...]:
    line, loan = row.line, view.loans.get(row.loan or "")
    reading = None if loan is None else loan.reading
    product, why = line.product or "unknown", _why(line, short=short)
    if not wide:
        return (product, _middle(line), why)
    return (
        product,
        line.presence,
        _assurance(line),
        _range(line),
        why,
        row.loan or "not pledged",
        "-" if loan is None else _percent(loan.position.ltv_gross_bps),
        "-" if reading is None else str(reading.round),
    )


def _assurance(line: StoredLine) -> str:
    """The level, and what is simulated of what it rests on."""
    if line.frozen:
        return "FROZEN"
    simulated = any(one.code == "assurance.simulated_tpm" for one in line.findings)
    return assurance_of(line.assurance) + (", simulated TPM" if simulated else "")


def _middle(line: StoredLine) -> str:
    """The middle value alone, in brackets where it does not count."""
    if line.values is None:
        return "unknown"
    text = _dollars(line.values.olv.mid_micros)
    return text if line.counts else f"({text})"


def _range(line: StoredLine) -> str:
    if line.values is None:
        return "unknown"
    olv = line.values.olv
    amounts = (olv.low_micros, olv.mid_micros, olv.high_micros)
    text = " / ".join(_dollars(micros) for micros in amounts)
    return text if line.counts else f"({text})"


def _why(line: StoredLine, *, short: bool) -> str:
    """What set it apart from its row in the price table; short: its presence, where that did."""
    shown = ("presence.", "count.", "frozen.", "incident.", "health.", "identity.", "price.missing")
    found = [one for one in line.findings if one.code.startswith(shown)]
    presence = [one for one in found if one.code.startswith("presence.")]
    reasons = [one.detail for one in (presence if short and presence else found)]
    return _brief(flowing(reasons)) or "counts in full"


def _brief(words: str) -> str:
    """Words with hosts by the last part of their ids: a whole id fills a narrow column by itself."""
    return _HOST_ID.sub(r"host \1", words)


def _loan_table(view: View, *, wide: bool) -> Table:
    table = _table("Loans, and the oracle", wide=wide)
    full = ("loan", "debt", "OLV", "LTV gross", "LTV net", "coverage", "lendable", "state")
    short = ("loan", "debt", "LTV", "counts", "state")
    for name in full if wide else short:
        table.add_column(
            name, justify="left" if name in ("loan", "state") else "right", no_wrap=True
        )
    for name in ("round", "on chain: OLV" if wide else "on chain", "fresh"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in view.loans.values():
        position, reading = row.position, row.reading
        olv = "unknown" if position.values is None else _dollars(position.values.olv.mid_micros)
        table.add_row(
            Text(row.loan + " SIM", "yellow"),
            _dollars(position.debt_micros),
            *((olv,) if wide else ()),
            _percent(position.ltv_gross_bps),
            *((_percent(position.ltv_net_bps),) if wide else ()),
            f"{position.counted}/{position.pledged}",
            *((_dollars(position.lendable_micros),) if wide else ()),
            Text(position.state, "green" if position.state == "CURRENT" else "red"),
            "-" if reading is None else str(reading.round),
            "-" if reading is None else _dollars(Usd.from_wad_down(reading.olv_wad).micros),
            "-" if reading is None else ("yes" if reading.fresh else "NO"),
        )
    return table


def _dollars(micros: int) -> str:
    return f"${micros // 1_000_000:,}"


def _percent(bps: int | None) -> str:
    return "unknown" if bps is None else f"{bps // 100}.{bps % 100:02d}%"
