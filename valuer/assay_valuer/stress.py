"""A book under named shocks: what each loan would come to if one of them were so today. Pure.

Each shock changes copies of pledges, and positions are worked out from those as they are from the
real ones. It is no forecast: a shock is something that has happened, or a stated judgement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from assay_core.leaves import Severity
from assay_core.money import ZERO
from assay_core.units import BPS, ratio_bps_down
from assay_valuer.book import Book, BookSnapshot, Line, Loan
from assay_valuer.cases import valued
from assay_valuer.credit.chain_state import ChainView
from assay_valuer.credit.covenant_position import covenant_position
from assay_valuer.credit.position import Pledge, Position, Remembered, position
from assay_valuer.credit.reach import reach
from assay_valuer.standing.assurance import CUSTODY, L0, L1
from assay_valuer.standing.types import Cause, Presence
from assay_valuer.valuation.value import Valuation, Values

OUTAGE_DAYS: Final = 90
RATE_BPS: Final = 300
Change = Callable[[Line, Pledge], Pledge]


@dataclass(frozen=True, slots=True)
class Shock:
    """What is supposed. `source`: where it comes from, to the rows; `judgement` where from nowhere.

    `of`: the classes of assets that it is of; None: all.
    """

    name: str
    what: str
    source: str
    change: Change
    judgement: bool = True
    of: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One loan under one shock. Micro-dollars and basis points; None is unknown.

    `covered_bps`: what the house would lend ÷ debt; `coverage_bps`: GPUs that count ÷ pledged.
    """

    loan: str
    shock: str
    debt_micros: int
    olv_micros: int | None
    ltv_gross_bps: int | None
    ltv_net_bps: int | None
    lendable_micros: int
    covered_bps: int | None
    coverage_bps: int
    covenant_ltv_bps: int | None
    covenant_at_once: str | None
    covenant_lasting: str | None
    lasting_after_hours: int | None


def run(book: Book, snapshot: BookSnapshot, shocks: Sequence[Shock]) -> tuple[Outcome, ...]:
    """Every loan as it is (shock `none`), and under each shock. Nothing of the book is changed."""
    return tuple(
        _outcome(book, snapshot, loan, shock)
        for loan in book.loans.values()
        for shock in (NOTHING, *shocks)
    )


def _outcome(book: Book, snapshot: BookSnapshot, loan: Loan, shock: Shock) -> Outcome:
    lines = [book.lines[one] for one in loan.asset_ids]
    kept = [book.remembered.get(one) for one in loan.asset_ids]
    pledges = [
        shock.change(line, Pledge(line.asset.label, line.standing, line.valuation, worth))
        for line, worth in zip(lines, kept, strict=True)
    ]
    name, now_ms = loan.file.id, book.at_ms
    view: ChainView | None = snapshot.chain.get(name)
    risk = position(loan.file, pledges, book.policy, now_ms, chain=view)
    held = book.covenants.get(name)
    if held is None:
        return _row(shock, risk, None, (None, None, None))
    state = snapshot.covenant_states.get(name)
    after = covenant_position(
        loan.file,
        pledges,
        risk,
        held.covenant,
        state=state,
        uptime=snapshot.uptime,
        now_ms=now_ms,
    )
    far = reach(state, after.inputs, held.covenant, now_ms)
    levels = (far.at_once.value, far.lasting.value, far.after_hours)
    return _row(shock, risk, after.inputs.ltv_bps, levels)


def _row(
    shock: Shock,
    risk: Position,
    covenant_ltv_bps: int | None,
    levels: tuple[str | None, str | None, int | None],
) -> Outcome:
    owed = risk.debt.micros
    return Outcome(
        loan=risk.loan_id,
        shock=shock.name,
        debt_micros=owed,
        olv_micros=None if risk.values is None else risk.values.olv.mid.micros,
        ltv_gross_bps=risk.ltv_gross_bps,
        ltv_net_bps=risk.ltv_net_bps,
        lendable_micros=risk.lendable.micros,
        covered_bps=ratio_bps_down(risk.lendable.micros, owed) if owed > 0 else None,
        coverage_bps=risk.coverage_bps,
        covenant_ltv_bps=covenant_ltv_bps,
        covenant_at_once=levels[0],
        covenant_lasting=levels[1],
        lasting_after_hours=levels[2],
    )


# ---------------------------------------------------------------------------- what shocks change


def _same(_line: Line, pledge: Pledge) -> Pledge:
    return pledge


NOTHING: Final = Shock("none", "As it is.", "the book", _same, judgement=False)


def fall(bps: int, asset_class: str | None, class_of: Callable[[Line], str | None]) -> Change:
    """Everything of a class worth so much less. What fell silent before goes on at what it was worth."""

    def change(line: Line, pledge: Pledge) -> Pledge:
        if asset_class is not None and class_of(line) != asset_class:
            return pledge
        return msgspec.structs.replace(pledge, valuation=scaled(pledge.valuation, BPS - bps))

    return change


def scaled(valuation: Valuation, keep_bps: int) -> Valuation:
    """A valuation of which so much is left; of so little that it rounds to nothing, none."""
    values, lending = valuation.values, valuation.lending
    if values is None:
        return valuation
    left = Values(
        values.fmv.times_down(keep_bps),
        values.olv.times_down(keep_bps),
        values.nolv.times_down(keep_bps),
        values.flv.times_down(keep_bps),
    )
    if left.olv.low <= ZERO:
        return replace(valuation, values=None, lending=None)
    return replace(
        valuation,
        values=left,
        lending=None if lending is None else lending.times_down(keep_bps, BPS),
    )


def later(book: Book, days: int) -> Change:
    """Every price as it is, and so many days older: the values are worked out for that day."""
    known: dict[str, Valuation] = {}

    def change(_line: Line, pledge: Pledge) -> Pledge:
        name = pledge.valuation.case_sha256
        case = None if name is None else book.cases.get(name)
        if name is None or case is None:
            return pledge
        if name not in known:
            known[name] = valued(msgspec.structs.replace(case, day=case.day + days))
        return msgspec.structs.replace(pledge, valuation=known[name])

    return change


def dearer(book: Book, bps: int) -> Change:
    """Capital that costs so much more a year, which only what GPUs earn is discounted by."""
    known: dict[str, Valuation] = {}

    def change(_line: Line, pledge: Pledge) -> Pledge:
        name = pledge.valuation.case_sha256
        case = None if name is None else book.cases.get(name)
        if name is None or case is None:
            return pledge
        if name not in known:
            income = case.policy.income
            rate = min(income.discount_bps_per_year + bps, BPS)
            policy = msgspec.structs.replace(
                case.policy, income=msgspec.structs.replace(income, discount_bps_per_year=rate)
            )
            known[name] = valued(msgspec.structs.replace(case, policy=policy))
        return msgspec.structs.replace(pledge, valuation=known[name])

    return change


def silent(of: Callable[[Line], bool], cause: Cause, now_ms: int) -> Change:
    """GPUs that fell silent beyond their grace: out of the count, remembered at what they are worth."""

    def change(line: Line, pledge: Pledge) -> Pledge:
        if not of(line) or not pledge.standing.counts:
            return pledge
        standing = replace(
            pledge.standing, presence=Presence.SILENT, counts=False, cause=cause, cap_bps=0
        )
        values = pledge.valuation.values
        kept = pledge.remembered
        if values is not None:
            kept = Remembered(values.olv.mid, values.nolv.mid, now_ms, values.fmv.mid)
        return msgspec.structs.replace(pledge, standing=standing, remembered=kept)

    return change


def broken(of: Callable[[Line], bool]) -> Change:
    """GPUs that are heard and out of service: worth nothing to either position."""

    def change(line: Line, pledge: Pledge) -> Pledge:
        if not of(line) or not pledge.standing.counts:
            return pledge
        standing = replace(pledge.standing, severity=Severity.IMPAIRED, counts=False, cap_bps=0)
        return msgspec.structs.replace(pledge, standing=standing)

    return change


def lapsed(book: Book, level: int) -> Change:
    """Proofs that lapsed to a level; custody counts from L1. Market value stays, what is lent does not."""

    def change(_line: Line, pledge: Pledge) -> Pledge:
        one = pledge.standing
        low = min(one.assurance & ~CUSTODY, level)
        low |= one.assurance & CUSTODY if low >= L1 else 0
        cap_bps = min(one.cap_bps, book.policy.assurance.cap_bps(low))
        return msgspec.structs.replace(
            pledge, standing=replace(one, assurance=low, cap_bps=cap_bps)
        )

    return change


# ---------------------------------------------------------------------------- the shocks that need no market


def standing_shocks(book: Book) -> tuple[Shock, ...]:
    """What may happen to the hardware, its proofs and its feeds, whatever prices do."""
    judged = "judgement: no data say how often"
    found = [
        Shock(
            "feeds-out-90d",
            f"No price comes for {OUTAGE_DAYS} days: values rest on what is there, {OUTAGE_DAYS} days "
            "older, and are unknown where it is too old.",
            judged,
            later(book, OUTAGE_DAYS),
        ),
        Shock(
            "rates-up-300bp",
            "Capital costs 3 points more a year: only what GPUs earn is discounted by it, and the "
            "loans' own rates are fixed.",
            judged,
            dearer(book, RATE_BPS),
        ),
        Shock(
            "proofs-lapse-l1",
            "Devices prove nothing any more: what is lent on falls to L1's cap.",
            judged,
            lapsed(book, L1),
        ),
        Shock(
            "proofs-lapse-l0",
            "Hosts prove nothing any more either: what is lent on falls to L0's cap.",
            judged,
            lapsed(book, L0),
        ),
    ]
    site, model = _largest(book, _site), _largest(book, _model)
    if site is not None:
        found.append(
            Shock(
                "site-silent",
                f"Every GPU at {site}, where most value stands, falls silent beyond its grace.",
                judged,
                silent(lambda line: _site(book, line) == site, Cause.SITE, book.at_ms),
            )
        )
    if model is not None:
        found.append(
            Shock(
                "model-out",
                f"Every {model}, of which there is most value, is out of service and due for return.",
                judged,
                broken(lambda line: _model(book, line) == model),
            )
        )
    return tuple(found)


def _site(book: Book, line: Line) -> str | None:
    host = None if line.asset.host_key is None else book.hosts.get(line.asset.host_key)
    return None if host is None else host.site


def _model(_book: Book, line: Line) -> str | None:
    product = line.valuation.product
    return None if product is None else str(product)


def _largest(book: Book, of: Callable[[Book, Line], str | None]) -> str | None:
    """Where most of the pledged value is that counts; the first by name of equals."""
    worth: defaultdict[str, int] = defaultdict(int)
    for line in book.lines.values():
        name, values = of(book, line), line.valuation.values
        if name is not None and values is not None and line.loan_id and line.standing.counts:
            worth[name] += values.olv.mid.micros
    return max(sorted(worth), key=lambda name: worth[name], default=None)
