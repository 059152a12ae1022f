"""The income approach: what a GPU earns over its remaining time of use, and what it then sells for.

V = Σ S_k·D_k·max(0, hours·u·P_k·(1−f) − cost) + S_K·D_K·RV, months k = 1..K, with S_k = e^(−λk/12) what
has survived, D_k = (1+r)^(−k/12) the discount, P_k the rental price on its path, RV the hardware's price
after K months. A month that would lose money earns nothing: its owner switches off. Contracted hours
come first, as far as their payer lives; what happens else is the market.

*The path.* A committed rate is paid for every hour of its term, and an owner who rents by the hour sells
u of them: so c_T = u·F at the middle of the term, where F is the price to come ÷ today's. F runs in
a line of its log from 1 today through c_1/u at 6 months and c_3/u at 18, and on at the mean slope of
these 18 months. It never rises: a committed rate above u says nothing of a boom.

*Contracts.* Nobody but the loan's own file says what one pays. So it raises what the approach says by
`CONTRACT_MOST_E6` above the dearer of what the market pays and what the hardware sells for at the very
most, and says nothing at all where neither is known.

*Thin margins.* Where costs take most of what is earned, a small move of prices is a large one of value:
whoever moves a rental level a little would move a loan a lot. So the approach is eased: it is the
least curve above the plain sum that climbs no faster than `POWER_E6` when rental and hardware prices
climb together: max over λ ≥ 1 of V(λ·prices)·λ^(−POWER). For the margins that data-centre GPUs had, that
is the plain sum; where it is more, a finding says by how much. The curve goes on where the plain sum is
nothing: there it is no value, but beside others it counts, as it did a step of prices above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_core.money import MICROS_PER_USD, Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import Specs
from assay_valuer.valuation.case import Case, Contract
from assay_valuer.valuation.estimate import (
    ERROR_MAX_E6,
    RENTAL_LOGS_E6,
    Estimate,
    Scope,
    approach_error_e6,
    bps_log_e6,
    level_errors_e6,
    said_of,
    usable,
)
from assay_valuer.valuation.fixed import E6, exp_e6, exp_scaled, ln_ratio, root, usd_of_log
from assay_valuer.valuation.parameters import Level

POWER_E6: Final = 1_650_000
"""Most by which the value climbs, in log, for each step of rental and hardware prices together.
Together with `reconcile.SCATTER_SHARE` it keeps what one seller can move within 5%."""
HOURS_PER_MONTH: Final = 730
E12: Final = 10**12
"""Amounts here are trillionths of a dollar, factors trillionths of one."""
LEAST_LOG_E6: Final = -27_631_021
"""A trillionth of a dollar: nothing here is reckoned finer."""
EFFECT_MAX_BPS: Final = 1_000_000
"""An effect beyond a factor of 100 is shown as that."""
CONTRACT_MOST_E6: Final = 262_364
"""ln 1.3. A contract worth more above the market than this is wrong, or ends with its payer. Judgement."""
RENTAL_POWER_E6: Final = 1_250_000
"""By how much an error of the rental level is one of the value: what a step of rental alone makes it
climb, of the products that are rented most. Judgement."""
COMMITTED_LEAST_E6: Final = -2_995_732
"""No committed rate is less than a twentieth of that on demand. Judgement."""


@dataclass(frozen=True, slots=True)
class _Month:
    """One month: what it earns on the market and costs, by how much it counts, and what is contracted.

    `spared_e12` is the part of the GPU's time that no contract takes, by its payer's survival.
    """

    earns: int
    spared_e12: int
    contracted: int
    discount_e12: int


@dataclass(frozen=True, slots=True)
class _Stream:
    """All months, what each costs, and what the hardware then is, discounted."""

    months: tuple[_Month, ...]
    cost: int
    residual: int


def income(
    case: Case,
    specs: Specs | None,
    hardware_log_e6: int | None,
    scope: Scope,
    findings: list[Finding],
) -> Estimate | None:
    """The income approach's estimate; None with the reasons among the findings.

    `hardware_log_e6`: what a used one sells for today, by whichever approach said it first.
    """
    asked = None if case.product is None else case.product.rental
    level, why_not = usable(asked, "rental", case, scope, RENTAL_LOGS_E6)
    findings += why_not
    contract = _contract(case, findings)
    if level is None and contract is None:
        return None
    if specs is None:
        detail = "What it draws is not known: what it earns cannot be worked out."
        findings.append(Finding("income.power_unknown", detail))
        return None
    stream = _stream(case, specs, level, contract, hardware_log_e6)
    bare = _stream(case, specs, level, None, hardware_log_e6)
    plain, nothing = _sum(stream), _sum(bare) <= 0
    if plain <= 0 and level is None:
        findings.append(_nothing())
        return None
    log_e6 = _eased_log_e6(stream, plain)
    if contract is not None:
        most_e6 = _contract_most_e6(bare, level, hardware_log_e6)
        findings += _contract_far(contract, log_e6, most_e6)
        if most_e6 is None:
            return None
        log_e6 = min(log_e6, most_e6)
    if nothing:
        findings.append(_nothing())
    found = [] if level is None else list(said_of(level, "rental, an hour", case))
    found += _said(case, stream, contract, plain, log_e6)
    own_e6 = approach_error_e6(case, "income")
    if hardware_log_e6 is None:
        detail = "No price of the hardware: nothing is left of it after its time of use."
        found.append(Finding("income.no_residual", detail))
    else:
        own_e6 = root(own_e6 * own_e6 + _leverage_e6(case, stream, hardware_log_e6) ** 2)
        far_e6 = case.policy.income.far_e6
        held_e6 = min(max(log_e6, hardware_log_e6 - far_e6), hardware_log_e6 + far_e6)
        if held_e6 != log_e6:
            detail = (
                f"It says {usd_of_log(log_e6)}, too far from the hardware's price: held nearer."
            )
            found.append(
                Finding("income.far", detail, min(exp_e6(held_e6 - log_e6) // 100, EFFECT_MAX_BPS))
            )
        log_e6 = held_e6
    errors = (
        (own_e6, own_e6) if level is None else level_errors_e6(case, level, own_e6, RENTAL_POWER_E6)
    )
    return Estimate(
        "income", log_e6, errors[0], errors[1], errors[1], tuple(found), nothing=nothing
    )


def _nothing() -> Finding:
    return Finding("income.nothing", "It earns no more than it costs: no value by that.")


def _contract_most_e6(
    bare: _Stream, level: Level | None, hardware_log_e6: int | None
) -> int | None:
    """The most that a contract lets the approach say; None where no market says anything.

    `bare`: what there is without it.
    """
    known = [] if hardware_log_e6 is None else [hardware_log_e6]
    if level is not None:
        known.append(_eased_log_e6(bare, _sum(bare)))
    return max(known) + CONTRACT_MOST_E6 if known else None


def _contract_far(contract: Contract, log_e6: int, most_e6: int | None) -> tuple[Finding, ...]:
    """What is to be said where a contract does not count in full."""
    who = contract.counterparty
    if most_e6 is None:
        detail = f"Nothing but the contract with {who} says what it is worth: that is no value."
        return (Finding("contract.alone", detail),)
    if log_e6 <= most_e6:
        return ()
    detail = (
        f"By the contract with {who} it is {usd_of_log(log_e6)}, far more than the market says: held "
        "nearer. Only its loan's file says that there is one."
    )
    return (Finding("contract.far", detail, exp_e6(most_e6 - log_e6) // 100),)


def _leverage_e6(case: Case, stream: _Stream, hardware_log_e6: int) -> int:
    """The error that costs bring which are large beside the hardware's price, micro-nats."""
    costs = sum(stream.cost * month.discount_e12 // E12 for month in stream.months)
    price = max(exp_scaled(hardware_log_e6, E12), 1)
    return min(case.policy.income.leverage_error_e6 * costs // price, ERROR_MAX_E6)


def _contract(case: Case, findings: list[Finding]) -> Contract | None:
    contract = case.subject.contract
    if contract is not None and contract.until < case.day:
        detail = f"The contract with {contract.counterparty} is over: it counts for nothing."
        findings.append(Finding("contract.over", detail))
        return None
    return contract


def _stream(
    case: Case,
    specs: Specs,
    level: Level | None,
    contract: Contract | None,
    hardware_log_e6: int | None,
) -> _Stream:
    policy = case.policy.income
    price = 0 if level is None else exp_scaled(level.log_e6, E12)
    kept_bps = BPS - policy.platform_fee_bps
    earns = price * HOURS_PER_MONTH * policy.utilisation_bps * kept_bps // (BPS * BPS)
    contracted = 0
    survives_e12 = E12
    if contract is not None:
        hourly = contract.micros_per_hour * (E12 // MICROS_PER_USD)
        contracted = hourly * HOURS_PER_MONTH * kept_bps // BPS
        yearly_e6 = bps_log_e6(BPS - contract.default_bps_per_year)
        survives_e12 = exp_scaled(yearly_e6 // 12, E12)
    cost = _monthly_cost(case, specs)
    fade_e12 = _monthly_fade_e12(case)
    path = _path_e12(case)
    discount_e12 = lives_e12 = E12
    months = []
    for month in range(1, policy.months + 1):
        discount_e12 = discount_e12 * fade_e12 // E12
        lives_e12 = lives_e12 * survives_e12 // E12
        taken_e12 = 0
        if contract is not None and month * 365 <= 12 * (contract.until - case.day):
            taken_e12 = lives_e12
        months.append(
            _Month(
                earns * path[month - 1] // E12,
                E12 - taken_e12,
                max(contracted - cost, 0) * taken_e12 // E12,
                discount_e12,
            )
        )
    residual = 0
    if hardware_log_e6 is not None:
        then_e6 = max(hardware_log_e6 + _drift_e6(case) * policy.months // 12, LEAST_LOG_E6)
        residual = exp_scaled(then_e6, E12) * discount_e12 // E12
    return _Stream(tuple(months), cost, residual)


def _monthly_cost(case: Case, specs: Specs) -> int:
    """Energy, hosting and operation for a month, at the most it can draw."""
    policy = case.policy.income
    # Watts of the server for this GPU, times 10,000.
    watts_bps = specs.power_max_w * policy.host_share_bps
    energy = watts_bps * HOURS_PER_MONTH * policy.pue_bps * policy.energy_micros_per_kwh // BPS
    hosting = watts_bps * policy.hosting_micros_per_kw_month
    micros_e3 = (energy + hosting) // BPS
    return micros_e3 * 1_000 + policy.operation_micros_per_month * (E12 // MICROS_PER_USD)


def _monthly_fade_e12(case: Case) -> int:
    """What of a month's money counts one month earlier: discount and survival."""
    policy = case.policy.income
    yearly_e6 = policy.hazard_bps_per_year * (E6 // BPS)
    yearly_e6 += ln_ratio(BPS + policy.discount_bps_per_year, BPS)
    return exp_scaled(-yearly_e6 // 12, E12)


def _path_e12(case: Case) -> list[int]:
    """The rental price of each month ÷ today's, in trillionths: the module says how."""
    policy, product = case.policy.income, case.product
    one = None if product is None else product.committed_1y_log_e6
    three = None if product is None else product.committed_3y_log_e6
    one = bps_log_e6(policy.committed_1y_bps) if one is None else one
    three = bps_log_e6(policy.committed_3y_bps) if three is None else three
    used_e6 = bps_log_e6(policy.utilisation_bps)
    at_6_e6 = min(max(one, COMMITTED_LEAST_E6) - used_e6, 0)
    at_18_e6 = min(max(three, COMMITTED_LEAST_E6) - used_e6, at_6_e6)
    steps = (
        exp_scaled(at_6_e6 // 6, E12),
        exp_scaled((at_18_e6 - at_6_e6) // 12, E12),
        exp_scaled(at_18_e6 // 18, E12),
    )
    factor_e12 = E12
    path = []
    for month in range(1, policy.months + 1):
        step = steps[0 if month <= 6 else 1 if month <= 18 else 2]
        factor_e12 = factor_e12 * step // E12
        path.append(factor_e12)
    return path


def _drift_e6(case: Case) -> int:
    """ln of what the hardware keeps of its price in a year."""
    policy = case.policy.income
    fitted = None if case.product is None else case.product.drift_log_e6
    if fitted is None:
        return bps_log_e6(policy.residual_year_bps)
    return min(max(fitted, bps_log_e6(policy.residual_least_bps)), 0)


def _sum(stream: _Stream) -> int:
    """The plain sum, at today's prices."""
    total = stream.residual
    for month in stream.months:
        market = max(month.earns - stream.cost, 0) * month.spared_e12 // E12
        total += (market + month.contracted) * month.discount_e12 // E12
    return total


def _eased_log_e6(stream: _Stream, plain: int) -> int:
    """ln of the eased value, micro-nats: of the plain one where that is steep nowhere above. Where that
    is nothing, of what a step of prices can make of it, at least of a trillionth.

    While the same months run, V(λ) = λ·s − c, and V(λ)·λ^(−p) is greatest at λ = p·c ÷ ((p−1)·s), where
    V = c ÷ (p−1). From one such stretch to the next V bends upward: nothing is greatest at a bend.
    """
    best = LEAST_LOG_E6 if plain <= 0 else max(ln_ratio(plain, E12), LEAST_LOG_E6)
    earned = stream.residual
    costs = -sum(month.contracted * month.discount_e12 // E12 for month in stream.months)
    for at, month in enumerate(stream.months):
        weight_e12 = month.spared_e12 * month.discount_e12 // E12
        earned += month.earns * weight_e12 // E12
        costs += stream.cost * weight_e12 // E12
        if costs <= 0 or earned <= 0:
            continue
        top, bottom = POWER_E6 * costs, (POWER_E6 - E6) * earned
        runs = month.earns * top >= stream.cost * bottom
        later = stream.months[at + 1].earns if at + 1 < len(stream.months) else 0
        if top <= bottom or not runs or later * top >= stream.cost * bottom:
            continue
        value = costs * E6 // (POWER_E6 - E6)
        log_e6 = ln_ratio(value, E12) - ln_ratio(top, bottom) * POWER_E6 // E6
        best = max(best, log_e6)
    return best


def _said(
    case: Case, stream: _Stream, contract: Contract | None, plain: int, log_e6: int
) -> list[Finding]:
    policy = case.policy.income
    idle = sum(month.earns <= stream.cost for month in stream.months)
    priced = any(month.earns for month in stream.months)
    found = [
        Finding(
            "income.model",
            f"{policy.months} months at {policy.utilisation_bps // 100}% of hours, "
            f"{_usd(stream.cost)} a month to run, {_usd(stream.residual)} for what is then left: the "
            "policy's numbers are judgement.",
        )
    ]
    if not priced:
        detail = "No rental price is known: nothing is earned but what the contract pays."
        found.append(Finding("income.unpriced", detail))
    elif idle:
        detail = (
            f"In {idle} of {policy.months} months the market pays less than it costs: switched off."
        )
        found.append(Finding("income.switched_off", detail))
    if contract is not None:
        rate = Usd(contract.micros_per_hour)
        detail = (
            f"{rate} an hour from {contract.counterparty}, as far as it survives"
            f"{', then the market' if priced else ''}."
        )
        found.append(Finding("income.contract", detail))
    eased = exp_scaled(log_e6, E12)
    if plain <= 0:
        detail = f"Beside others it counts all the same, as {_usd(eased)}."
        found.append(Finding("income.thin", detail))
    elif eased * BPS // plain > BPS + 1:
        effect = min(eased * BPS // plain, EFFECT_MAX_BPS)
        detail = f"Costs take most of what it earns: eased from {_usd(plain)} to {_usd(eased)}."
        found.append(Finding("income.thin", detail, effect))
    return found


def _usd(amount: int) -> Usd:
    return Usd(amount // (E12 // MICROS_PER_USD))
