"""The case that each GPU is valued by: GPUs that are alike in all that matters share one. Pure.

A fleet has few kinds of GPU and many GPUs. What decides the kind is read off once for each loan, host
and product, so that a GPU more costs one look-up; the case is built, and valued, once for its kind.
Values depend on the day (UTC) and not on the instant: the same day's books share their cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from assay_core.instants import DAY_MS
from assay_core.leaves import Severity
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.loan import LoanFile
from assay_valuer.market.models import SPECS, Product, product_of
from assay_valuer.market.prices import Condition, PriceSnapshot
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.types import Asset
from assay_valuer.valuation.case import (
    Appraisal,
    Board,
    Case,
    CasePolicy,
    Contract,
    Override,
    Subject,
    TablePrice,
)
from assay_valuer.valuation.parameters import Parameters
from assay_valuer.valuation.value import METHOD, Valuation, value_case

VALUED_MAX: Final = 4_096
"""Cases whose values are remembered: a fleet's kinds, for a day or two."""
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DEGRADED: Final = (Severity.DEGRADED, Severity.IMPAIRED)


@dataclass(frozen=True, slots=True)
class Basis:
    """What values rest on beside the GPUs themselves: prices, the fit, and what people signed, by the
    asset's id. `overrides` are those in force.
    """

    prices: PriceSnapshot | None = None
    parameters: Parameters | None = None
    appraisals: Mapping[int, tuple[Appraisal, ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    overrides: Mapping[int, Override] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Own:
    """What is known of one GPU alone, and of no other of its loan, host and product."""

    warranty_until: int | None = None
    contract: Contract | None = None
    appraisals: tuple[Appraisal, ...] = ()
    override: Override | None = None


NOTHING: Final = Own()
Spot = tuple[str | None, int | None, str | None]
"""A loan's id, a host's key and a driver's name: GPUs of one spot are alike, as far as it goes."""

Alike = tuple[str | None, bool, int, Board, int]
"""Name, degraded, lot, board, and which object of `Own`: what decides a case within one book."""


def day_of(at_ms: int) -> int:
    """The UTC day of an instant, as an ordinal."""
    return _EPOCH_DAY + at_ms // DAY_MS


def day_start_ms(day: int) -> int:
    """When a UTC day, as an ordinal, begins."""
    return (day - _EPOCH_DAY) * DAY_MS


@lru_cache(maxsize=VALUED_MAX)
def valued(case: Case) -> Valuation:
    """What `value_case` says of the case, remembered: the same case has the same value."""
    return value_case(case)


class Kinds:
    """The kinds of GPU in one book, and what each is. Made anew for each book.

    `loans` are the assets that each loan's pledge stands for now.
    """

    def __init__(
        self,
        assets: Mapping[int, Asset],
        loans: Mapping[str, tuple[LoanFile, Sequence[int]]],
        basis: Basis,
    ) -> None:
        self._assets: Final = assets
        self._pledged_to: Final = {one: name for name, (_, ids) in loans.items() for one in ids}
        self.spots: Final[Sequence[Spot]] = list(
            zip(
                map(self._pledged_to.get, assets),
                map(attrgetter("host_key"), assets.values()),
                map(attrgetter("name"), assets.values()),
                strict=True,
            )
        )
        """Where each asset is, in the order of `assets`."""
        self.own: Final = _own(assets, loans, basis)
        """What is known of single assets alone, those of whom nothing is left out: equal ones are
        the same object."""
        self._counts: Final = Counter(self.spots)
        self._lots: Final = _lots(self._counts)
        self._boards: Final[dict[Spot, Board]] = {}
        self._whose: dict[tuple[int | None, str | None], set[str | None]] | None = None

    def alike(self, spot: Spot, severity: Severity | None, own: Own | None) -> Alike:
        """What GPUs with one case have in common."""
        loan_id, _, name = spot
        lot = 1 if loan_id is None else self._lots[loan_id, product_of(name)]
        board = self._boards.get(spot)
        if board is None:
            board = self._boards[spot] = self._board(*spot)
        return name, severity in _DEGRADED, lot, board, id(own)

    def subject(self, spot: Spot, severity: Severity | None, own: Own | None) -> Subject:
        """The GPU as its case has it."""
        name, degraded, lot, board, _ = self.alike(spot, severity, own)
        own = own or NOTHING
        return Subject(
            name=name,
            degraded=degraded,
            lot=lot,
            board=board,
            warranty_until=own.warranty_until,
            contract=own.contract,
        )

    def _board(self, loan_id: str | None, host_key: int | None, name: str | None) -> Board:
        """Whether the loan has whole baseboards of this product on the GPU's host, and no GPU of it
        there is anybody else's. Which GPUs share a board is not told: of two boards, half of each
        pledged is none.
        """
        product = product_of(name)
        sizes = () if product is None else SPECS[product].boards
        if not sizes or host_key is None:
            return Board.NONE
        together = self._counts[loan_id, host_key, name]
        whole = any(together % size == 0 for size in sizes)
        alone = self._owners(host_key, name) <= {loan_id}
        return Board.WHOLE if whole and alone else Board.PARTIAL

    def _owners(self, host_key: int | None, name: str | None) -> set[str | None]:
        """The loans that GPUs of a name on a host are pledged to, None for those that are not; one
        that its host says is gone is nobody's.
        """
        if self._whose is None:
            whose: dict[tuple[int | None, str | None], set[str | None]] = {}
            for loan_id, key, called in self._counts:
                whose.setdefault((key, called), set()).add(loan_id)
            shared = {spot for spot, loans in whose.items() if len(loans) > 1}
            if shared:
                whose |= {spot: set() for spot in shared}
                for asset in self._assets.values():
                    spot = (asset.host_key, asset.name)
                    if spot in shared and asset.track.missing_since_ms is None:
                        whose[spot].add(self._pledged_to.get(asset.id))
            self._whose = whose
        return self._whose[host_key, name]


def _lots(spots: Mapping[Spot, int]) -> dict[tuple[str | None, Product | None], int]:
    """How many GPUs of a product each loan has."""
    lots: dict[tuple[str | None, Product | None], int] = {}
    for (loan_id, _, name), count in spots.items():
        key = (loan_id, product_of(name))
        lots[key] = lots.get(key, 0) + count
    return lots


def _own(
    assets: Mapping[int, Asset],
    loans: Mapping[str, tuple[LoanFile, Sequence[int]]],
    basis: Basis,
) -> dict[int, Own]:
    """What is known of single GPUs; equal ones are the same object."""
    found: dict[int, Own] = {}
    for file, ids in loans.values():
        warranties = {
            (gpu.serial, gpu.board_part_number): gpu.warranty_day
            for gpu in file.pledge
            if gpu.warranty_until is not None
        }
        contracts = file.contracts_by_serial() if file.contracts else {}
        # What takes the place of a pledged GPU earns by what was signed for all of them.
        for_all = next((one for one in reversed(file.contracts) if not one.gpus), None)
        if not warranties and not contracts:
            continue
        for one in ids:
            serial, part = assets[one].serial, assets[one].board_part_number
            contract = for_all if serial is None else contracts.get(serial, for_all)
            own = Own(
                None if serial is None or part is None else warranties.get((serial, part)),
                None if contract is None else _contract(contract),
            )
            if own != NOTHING:
                found[one] = own
    for one in {*basis.appraisals, *basis.overrides}:
        if one in assets:
            before = found.get(one, NOTHING)
            found[one] = Own(
                before.warranty_until,
                before.contract,
                tuple(sorted(basis.appraisals.get(one, ()), key=_order)),
                basis.overrides.get(one),
            )
    same: dict[Own, Own] = {}
    return {one: same.setdefault(own, own) for one, own in found.items()}


def _order(one: Appraisal) -> tuple[int, str, str, str, int]:
    return one.day, one.appraiser, one.document_sha256, one.premise.value, one.micros


@lru_cache(maxsize=VALUED_MAX)
def _contract(one: loan_file.Contract) -> Contract:
    return Contract(
        counterparty=one.counterparty,
        micros_per_hour=one.micros_per_hour,
        until=one.until_day,
        default_bps_per_year=one.default_bps_per_year,
        document_sha256=one.document_sha256,
    )


class Author:
    """Writes the cases of one day: what they have in common is worked out once."""

    def __init__(self, basis: Basis, policy: ValuerPolicy, day: int) -> None:
        self._basis: Final = basis
        self._day: Final = day
        self._policy: Final = case_policy(policy)
        self._policy_sha256: Final = policy.sha256
        fit = basis.parameters
        self._fit_sha256: Final = None if fit is None else fit.sha256
        self._products: Final = {} if fit is None else {one.product: one for one in fit.products}
        self._classes: Final = {} if fit is None else {one.asset_class: one for one in fit.classes}

    def case(self, subject: Subject, own: Own = NOTHING) -> Case:
        """The case of a GPU."""
        prices = self._basis.prices
        product = product_of(subject.name)
        fitted = None if product is None else self._products.get(str(product))
        return Case(
            method=METHOD,
            day=self._day,
            subject=subject,
            policy=self._policy,
            policy_sha256=self._policy_sha256,
            has_prices=prices is not None or self._fit_sha256 is not None,
            prices_sha256=None if prices is None else prices.sha256,
            table=() if prices is None or product is None else _table(prices, product),
            parameters_sha256=self._fit_sha256,
            product=fitted,
            asset_class=None if fitted is None else self._classes.get(fitted.asset_class),
            appraisals=own.appraisals,
            override=own.override,
        )


@lru_cache(maxsize=16)
def case_policy(policy: ValuerPolicy) -> CasePolicy:
    """The parts of a policy that values rest on."""
    return CasePolicy(
        health=policy.health,
        market=policy.market,
        income=policy.income,
        cost=policy.cost,
        reconciliation=policy.reconciliation,
        factors=policy.factors,
        lending=policy.lending,
    )


def _table(prices: PriceSnapshot, product: Product) -> tuple[TablePrice, ...]:
    rows = [prices.price(product, condition) for condition in sorted(Condition)]
    return tuple(
        TablePrice(
            condition=row.condition.value,
            low_micros=row.low.micros,
            mid_micros=row.mid.micros,
            high_micros=row.high.micros,
            day=day_of(row.as_of_ms),
            source=row.source,
        )
        for row in rows
        if row is not None
    )
