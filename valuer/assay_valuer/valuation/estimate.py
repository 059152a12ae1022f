"""What an approach makes of its sources: one log price, and two errors of it.

The *error* is how far off it may be today: the approach's own error and that of its source, grown by
what prices do as a source ages, and by few sellers. The *weight's error* is what its weight in a value
rests on: the approach's own alone, or that of an estimate where nobody quotes the product. It knows
neither what anybody quoted nor when, so that no quote moves a weight: one seller who could make an
approach look surer would move values by more than his price does. (The income approach's alone knows a
price: what its costs come to beside the hardware's; it moves by a step where that does.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.fixed import E6, ln_ratio, root, usd_of_log
from assay_valuer.valuation.parameters import ClassParameters, Level
from assay_valuer.valuation.worth import Range

Z10_E6: Final = 1_281_552
"""The normal's 90th percentile, in millionths: from an error to the 10th and the 90th."""
ERROR_MAX_E6: Final = 3 * E6
"""No error grows beyond a factor of e³ = 20: it says nothing any more."""
ERROR_USABLE_E6: Final = 2 * E6
"""A fitted level that may be off by more than e² = 7 times says nothing from the start."""
ERROR_LEAST_E6: Final = 50_000
"""No approach is known to be better than 5%, whatever a backtest's luck. Judgement."""
VOLATILITY_MAX_E6: Final = 100_000
"""Nothing here moves by more than a tenth a day, day by day."""
HARDWARE_LOGS_E6: Final = (0, 14_508_658)
"""From 1 to 2,000,000 dollars: what a GPU's price can be, as for rows of prices."""
RENTAL_LOGS_E6: Final = (-5_298_318, 6_907_756)
"""From 0.005 to 1,000 dollars an hour."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One approach's price of one GPU in good health, FMV, as a log of dollars in micro-nats.

    `lending_weight_error_e6` is the weight's error that lending takes (`reconcile.py`); `own` is the
    range of a single row of a table, which is shown as it stands where nothing is beside it. What is
    `nothing` is no value alone: it counts beside others, so that they do not stand for it.
    """

    approach: str
    log_e6: int
    error_e6: int
    weight_error_e6: int
    lending_weight_error_e6: int
    findings: tuple[Finding, ...]
    own: Range | None = None
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """How old sources may be to count, in days, by kind; None is however old."""

    fit: int | None
    used_row: int | None
    new_row: int | None
    appraisal: int | None


def young(day: int, days_max: int | None, case: Case) -> bool:
    """Whether a source of that day is young enough on the case's day."""
    return days_max is None or case.day - day <= days_max


def class_of(case: Case) -> ClassParameters | None:
    """What was learned of the product's class; another class's is never pooled with it."""
    product, learned = case.product, case.asset_class
    if product is None or learned is None or learned.asset_class != product.asset_class:
        return None
    return learned


def validated(case: Case) -> bool:
    """Whether the class has enough realised sales for its backtested errors to count."""
    learned = class_of(case)
    return learned is not None and learned.sales >= case.policy.reconciliation.sales_min


def approach_error_e6(case: Case, approach: str) -> int:
    """The approach's own error: backtested where the class is validated, else the policy's."""
    policy = case.policy.reconciliation
    learned = class_of(case) if validated(case) else None
    stated, tested = {
        "market": (policy.market_error_e6, learned.market_error_e6 if learned else None),
        "income": (policy.income_error_e6, learned.income_error_e6 if learned else None),
        "cost": (policy.cost_error_e6, learned.cost_error_e6 if learned else None),
    }[approach]
    return stated if tested is None else min(max(tested, ERROR_LEAST_E6), ERROR_MAX_E6)


def volatility_e6(case: Case) -> int:
    """Daily deviation by which errors grow: the fitted one, never below half of the policy's."""
    stated = case.policy.reconciliation.daily_volatility_e6
    fitted = case.product.daily_volatility_e6 if case.product else None
    return min(max(stated if fitted is None else fitted, stated >> 1), VOLATILITY_MAX_E6)


def grown_e6(error_e6: int, age_days: int, volatility: int, more_e12: int = 0) -> int:
    """An error after so many days, with a further variance, at most `ERROR_MAX_E6`."""
    variance = error_e6 * error_e6 + max(age_days, 0) * volatility * volatility + more_e12
    return min(root(variance), ERROR_MAX_E6)


def level_errors_e6(case: Case, level: Level, own_e6: int, power_e6: int = E6) -> tuple[int, int]:
    """Error and weight's error of an approach with this own error that rests on a fitted level.

    `power_e6` is by how much a change of the level can change the approach's price, in millionths.
    """
    policy = case.policy.reconciliation
    weighs = own_e6 if level.basis == "quotes" else max(own_e6, policy.hedonic_error_e6)
    least = case.policy.market.sellers_min
    lacking = max(least - level.sellers, 0)
    more_e12 = policy.thin_error_e6 * policy.thin_error_e6 * lacking // least
    more_e12 += (level.error_e6 * power_e6 // E6) ** 2
    return grown_e6(weighs, case.day - fitted_day(case), volatility_e6(case), more_e12), weighs


def fitted_day(case: Case) -> int:
    """The day that fitted levels are of; what happened since is not in their errors."""
    return case.day if case.product is None else case.product.day


def usable(
    level: Level | None, what: str, case: Case, scope: Scope, bounds: tuple[int, int]
) -> tuple[Level | None, tuple[Finding, ...]]:
    """The level if it is a price that counts, or the reason why it is none.

    The day of its newest row decides nothing: one seller's row could make it young.
    """
    if level is None:
        return None, ()
    if fitted_day(case) > case.day + 1:
        return None, (Finding("price.ahead", f"The level of {what} is dated in the future."),)
    if level.error_e6 > ERROR_USABLE_E6 or not bounds[0] <= level.log_e6 <= bounds[1]:
        detail = f"The level of {what} or its error is no price: it is left out."
        return None, (Finding("level.absurd", detail),)
    if not young(fitted_day(case), scope.fit, case):
        return None, (too_old(f"The level of {what}", fitted_day(case), case),)
    return level, ()


def said_of(level: Level, what: str, case: Case) -> tuple[Finding, ...]:
    """The level as a finding, with one more where few or none quote it."""
    price = usd_of_log(level.log_e6)
    row_days = max(case.day - level.newest_day, 0)
    detail = f"{what}: {price}; {level.sellers} sellers, {level.quotes} quotes, the newest {row_days} days old."
    found = [Finding("level." + level.basis, detail)]
    if level.sellers < case.policy.market.sellers_min:
        detail = f"{what}: {level.sellers} sellers stand behind it: its error is widened."
        found.append(Finding("level.thin", detail))
    return tuple(found)


def too_old(what: str, day: int, case: Case) -> Finding:
    """The finding of a source that no longer counts."""
    return Finding("price.old", f"{what} is {case.day - day} days old: too old to be a price.")


def bps_log_e6(bps: int) -> int:
    """ln of a factor in basis points; of nothing, of a ten-thousandth."""
    return ln_ratio(max(bps, 1), 10_000)
