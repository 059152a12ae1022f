"""The book: every GPU's standing and value and every loan's position at one instant. Pure.

`appraise` takes what is known, the policy and the time, and gives the whole book: no store, no clock,
no memory of its own, so that whoever has the same inputs gets the same book.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from assay_core import merkle
from assay_core.covenant import Covenant
from assay_core.leaves import Severity
from assay_core.money import ZERO
from assay_valuer.cases import NOTHING, Alike, Author, Basis, Kinds, Own, Spot, day_of, valued
from assay_valuer.credit.chain_state import ChainView
from assay_valuer.credit.concentration import Holding, concentrations
from assay_valuer.credit.covenant import CovenantState
from assay_valuer.credit.covenant_position import CovenantPosition, covenant_position
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.position import AWAY, Pledge, Position, Remembered, position
from assay_valuer.market.prices import PriceSnapshot
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.silence import Uptime
from assay_valuer.standing.stand import scene, stand
from assay_valuer.standing.trust import HostProofs
from assay_valuer.standing.types import Asset, Host, Presence, Standing
from assay_valuer.valuation.case import Appraisal, Case, Override
from assay_valuer.valuation.parameters import Parameters
from assay_valuer.valuation.value import METHOD, Valuation


@dataclass(frozen=True, slots=True)
class Loan:
    """A loan as registered: its file, the feed that values its collateral, the pledged assets.

    `successor_of` maps an asset to the pledged one that it takes the place of, once it is seen.
    """

    file: LoanFile
    feed_id: bytes
    asset_ids: tuple[int, ...]
    successor_of: Mapping[int, int] = field(default_factory=dict)

    def standing_in(self, assets: Mapping[int, Asset]) -> Loan:
        """The loan with each asset, or whichever of its successors has been seen in its place."""
        successors = {old: new for new, old in self.successor_of.items()}
        ids = [one for one in self.asset_ids if one not in self.successor_of]
        for place, one in enumerate(ids):
            # One that never came may have been replaced in its turn.
            while (after := successors.pop(one, None)) is not None:
                one = after
                if assets[one].track.seen_ms is not None:
                    ids[place] = one
        return replace(self, asset_ids=tuple(ids))


@dataclass(frozen=True, slots=True)
class BookSnapshot:
    """What is known at one instant.

    `remembered` is what assets were worth when last heard; `hashes` names, for each asset that
    was seen, the newest window that saw it; `proofs` what hosts have proved, by their keys, and
    `revocations` what was answered about certificates, by their SHA-256. `covenants` are the signed
    files of each loan that has any, in the order of their versions, and `covenant_states` the states
    that they had come to. `parameters` is the newest fit; `appraisals` and `overrides` are what people
    signed of single assets, the overrides those in force; `chain` is what loans' routers say of them,
    by the loan's id.
    """

    hosts: Mapping[int, Host]
    assets: Mapping[int, Asset]
    loans: Sequence[Loan]
    prices: PriceSnapshot | None
    uptime: Uptime
    remembered: Mapping[int, Remembered]
    hashes: Mapping[int, bytes]
    proofs: Mapping[int, HostProofs] = field(default_factory=dict)
    revocations: Mapping[str, Revocation] = field(default_factory=dict)
    covenants: Mapping[str, Sequence[Covenant]] = field(default_factory=dict)
    covenant_states: Mapping[str, CovenantState] = field(default_factory=dict)
    parameters: Parameters | None = None
    appraisals: Mapping[int, tuple[Appraisal, ...]] = field(default_factory=dict)
    overrides: Mapping[int, Override] = field(default_factory=dict)
    chain: Mapping[str, ChainView] = field(default_factory=dict)


class Line(msgspec.Struct, frozen=True, gc=False):
    """One GPU in the book. A struct, for there is one per GPU: made in a third of the time, and no
    cycle leads back to it that the garbage collector would have to look for.
    """

    asset: Asset
    standing: Standing
    valuation: Valuation
    loan_id: str | None

    @property
    def counted(self) -> bool:
        """Whether it counts and its value is known."""
        return self.standing.counts and self.valuation.values is not None

    @property
    def key(self) -> tuple[object, ...]:
        """What must change for the line to be worth recording anew."""
        one = self.standing
        return (
            one.presence,
            one.cause,
            one.counts,
            one.severity,
            one.assurance,
            one.cap_bps // CAP_STEP_BPS,
            tuple(each.code for each in one.findings if each.code.startswith(_TOLD)),
            one.simulated,
            one.disputed,
            one.frozen,
            tuple((note.code, note.first_ms) for note in one.notes) if one.notes else (),
            self.valuation.values,
            self.valuation.lending,
            self.loan_id,
        )


@dataclass(frozen=True, slots=True)
class Book:
    """Everything, at `at_ms`. `methodology` is the hash of policy, method, prices and fit, 32 bytes.

    `positions` are the house's risk view of every loan, `covenants` the position of each loan that
    has a covenant file in force; `cases` is what the values rest on, by their names.
    """

    at_ms: int
    policy: ValuerPolicy
    prices: PriceSnapshot | None
    methodology: bytes
    hosts: Mapping[int, Host]
    proofs: Mapping[int, HostProofs]
    lines: Mapping[int, Line]
    loans: Mapping[str, Loan]
    positions: Mapping[str, Position]
    remembered: Mapping[int, Remembered]
    hashes: Mapping[int, bytes]
    revocations: Mapping[str, Revocation]
    covenants: Mapping[str, CovenantPosition] = field(default_factory=dict)
    parameters: Parameters | None = None
    cases: Mapping[str, Case] = field(default_factory=dict)

    def evidence_root(self, loan_id: str) -> bytes:
        """RFC 6962 root over the hashes of the windows that what counts rests on, each once,
        ascending: a window of the host that was seen last, for each GPU counted.
        """
        counted = {
            self.hashes[asset_id]
            for asset_id in self.loans[loan_id].asset_ids
            if self.lines[asset_id].counted and asset_id in self.hashes
        }
        return merkle.root([merkle.leaf_hash(digest) for digest in sorted(counted)])


def appraise(snapshot: BookSnapshot, policy: ValuerPolicy, now_ms: int) -> Book:
    """The book at `now_ms`.

    GPUs of one kind share one case and one valuation: see `cases`.
    """
    around = scene(
        snapshot.hosts,
        snapshot.uptime,
        policy,
        now_ms,
        proofs=snapshot.proofs,
        revocations=snapshot.revocations,
    )
    pledged_to = {asset_id: loan.file.id for loan in snapshot.loans for asset_id in loan.asset_ids}
    loans = [loan.standing_in(snapshot.assets) for loan in snapshot.loans]
    basis = Basis(snapshot.prices, snapshot.parameters, snapshot.appraisals, snapshot.overrides)
    by_id = {loan.file.id: (loan.file, loan.asset_ids) for loan in loans}
    kinds = Kinds(snapshot.assets, by_id, basis)
    worth = _Worth(kinds, basis, policy, now_ms)
    shared: dict[tuple[object, ...], _Known] = {}
    remembered = dict(snapshot.remembered)
    lines: dict[int, Line] = {}
    for (asset_id, asset), spot in zip(snapshot.assets.items(), kinds.spots, strict=True):
        standing = stand(asset, around)
        own = kinds.own.get(asset_id)
        key = (spot, standing.severity, id(own))
        known = shared.get(key)
        if known is None:
            known = shared[key] = worth.of(spot, standing.severity, own)
        valuation, memory = known
        lines[asset_id] = Line(asset, standing, valuation, pledged_to.get(asset_id))
        if memory is not None and standing.counts:
            remembered[asset_id] = memory
        elif _heard_and_out(standing):
            remembered[asset_id] = Remembered(ZERO, ZERO, now_ms, ZERO)
    positions, covenants = _positions(
        snapshot, loans, lines, remembered, policy=policy, now_ms=now_ms
    )
    return Book(
        at_ms=now_ms,
        policy=policy,
        prices=snapshot.prices,
        methodology=methodology(policy, snapshot.prices, snapshot.parameters),
        hosts=snapshot.hosts,
        proofs=snapshot.proofs,
        lines=lines,
        loans={loan.file.id: loan for loan in loans},
        positions=positions,
        remembered=remembered,
        hashes=dict(snapshot.hashes),
        revocations=snapshot.revocations,
        covenants=covenants,
        parameters=snapshot.parameters,
        cases=worth.cases,
    )


def _positions(
    snapshot: BookSnapshot,
    loans: Sequence[Loan],
    lines: Mapping[int, Line],
    remembered: Mapping[int, Remembered],
    *,
    policy: ValuerPolicy,
    now_ms: int,
) -> tuple[dict[str, Position], dict[str, CovenantPosition]]:
    """Both positions of every loan, by its id: the house's, and the covenant's where one is in force."""
    positions: dict[str, Position] = {}
    covenants: dict[str, CovenantPosition] = {}
    for loan in loans:
        pledges = [_pledge(lines[one], remembered) for one in loan.asset_ids]
        name, covenant = loan.file.id, _in_force(snapshot.covenants.get(loan.file.id, ()), now_ms)
        held, seen = covenant is not None, snapshot.chain.get(name)
        risk = position(loan.file, pledges, policy, now_ms, covenanted=held, chain=seen)
        positions[name] = risk
        if covenant is not None:
            state = snapshot.covenant_states.get(name)
            covenants[name] = covenant_position(
                loan.file,
                pledges,
                risk,
                covenant,
                state=state,
                uptime=snapshot.uptime,
                now_ms=now_ms,
            )
    sales = _monthly_sales(snapshot.parameters)
    held_by = {loan.file.id: _holdings(loan, lines, snapshot.hosts) for loan in loans}
    for name, told in concentrations(held_by, policy.concentration, sales).items():
        positions[name] = replace(positions[name], findings=positions[name].findings + told)
    return positions, covenants


def _holdings(
    loan: Loan, lines: Mapping[int, Line], hosts: Mapping[int, Host]
) -> tuple[Holding, ...]:
    """What a loan has that counts, those that are alike together."""
    contracts = loan.file.contracts_by_serial() if loan.file.contracts else {}
    alike: dict[tuple[int, int | None, str | None], tuple[Line, int]] = {}
    for asset_id in loan.asset_ids:
        line = lines[asset_id]
        if line.counted:
            contract = contracts.get(line.asset.serial or "")
            offtaker = None if contract is None else contract.counterparty
            key = (id(line.valuation), line.asset.host_key, offtaker)
            alike[key] = (line, alike[key][1] + 1 if key in alike else 1)
    found = []
    for (_, host_key, offtaker), (line, count) in alike.items():
        values, product = line.valuation.values, line.valuation.product
        host = None if host_key is None else hosts.get(host_key)
        found.append(
            Holding(
                olv_micros=0 if values is None else values.olv.mid.micros * count,
                count=count,
                product=None if product is None else str(product),
                site=None if host is None else host.site,
                offtaker=offtaker,
            )
        )
    return tuple(found)


def _monthly_sales(parameters: Parameters | None) -> dict[str, int]:
    products = () if parameters is None else parameters.products
    return {one.product: one.monthly_sales for one in products if one.monthly_sales is not None}


_Known = tuple[Valuation, Remembered | None]
"""A value, and what is remembered of it while its GPU counts."""


class _Worth:
    """What the GPUs of one book are worth: worked out once for all that are alike."""

    def __init__(self, kinds: Kinds, basis: Basis, policy: ValuerPolicy, now_ms: int) -> None:
        self.cases: Final[dict[str, Case]] = {}
        self._kinds: Final = kinds
        self._author: Final = Author(basis, policy, day_of(now_ms))
        self._now_ms: Final = now_ms
        self._known: Final[dict[Alike, _Known]] = {}

    def of(self, spot: Spot, severity: Severity | None, own: Own | None) -> _Known:
        """What a GPU is worth."""
        alike = self._kinds.alike(spot, severity, own)
        known = self._known.get(alike)
        if known is None:
            case = self._author.case(self._kinds.subject(spot, severity, own), own or NOTHING)
            valuation = valued(case)
            self.cases[case.sha256] = case
            known = self._known[alike] = valuation, _remember(valuation, self._now_ms)
        return known


def _in_force(covenants: Sequence[Covenant], now_ms: int) -> Covenant | None:
    """The latest version that has taken effect."""
    effective = [one for one in covenants if one.effective_from_ms <= now_ms]
    return max(effective, key=lambda one: one.version, default=None)


def _heard_and_out(standing: Standing) -> bool:
    """Whether it is heard and does not count: going silent afterwards makes it worth no more."""
    away = standing.presence in AWAY or standing.presence is Presence.EXPECTED
    return not standing.counts and not away


def methodology(
    policy: ValuerPolicy, prices: PriceSnapshot | None, parameters: Parameters | None = None
) -> bytes:
    """SHA-256 over the method's name and the hashes of policy, price table and fit, line by line."""
    parts = (
        METHOD,
        policy.sha256,
        _NONE if prices is None else prices.sha256,
        _NONE if parameters is None else parameters.sha256,
    )
    return hashlib.sha256("\n".join(parts).encode()).digest()


CAP_STEP_BPS: Final = 500
"""A cap that decays is recorded anew when it passes another of these steps."""
_TOLD: Final = ("assurance.", "identity.")
"""Findings that say why a level is what it is: recorded anew when others come or go."""
_NONE: Final = "-"


def _remember(valuation: Valuation, now_ms: int) -> Remembered | None:
    values = valuation.values
    if values is None:
        return None
    return Remembered(values.olv.mid, values.nolv.mid, now_ms, values.fmv.mid)


def _pledge(line: Line, remembered: Mapping[int, Remembered]) -> Pledge:
    return Pledge(line.asset.label, line.standing, line.valuation, remembered.get(line.asset.id))
