"""Makes the golden case: python -m tests.golden.make_valuation. Run it only for a new method.

`worth` works the case's values out from its JSON alone, by the formulas of docs/valuation.md in
decimal arithmetic of 60 digits. It shares no code with the product.
"""

from __future__ import annotations

import json
from decimal import Decimal, getcontext
from itertools import combinations
from pathlib import Path

from assay_core.covenant import Premise
from assay_valuer.valuation.case import Appraisal, Board, Case, Contract, to_json
from assay_valuer.valuation.parameters import Equivalent
from tests.fakes.valuing import CLASS, DAY, case, learned, level, of_subject, parameters, row

HERE = Path(__file__).parent
FILE = "valuation_case_v1.json"
Z10 = Decimal("1.2815515655446004")
WATTS = 700  # NVIDIA's data sheet of the H100 SXM5
getcontext().prec = 60


def golden() -> Case:
    """An H100 of which everything is known: all approaches speak, all factors but one apply."""
    one = case(
        policy_sha256="ef" * 32,
        product=parameters(
            day=DAY - 12,
            rental=level("2.31", error_e6=60_000, sellers=9),
            committed_1y_log_e6=-415_000,
            committed_3y_log_e6=-860_000,
            new_ask=level("30500", error_e6=110_000, sellers=4),
            used_ask=level("27250", error_e6=140_000, sellers=2),
            equivalents=(
                Equivalent(
                    product="B200 SXM6",
                    new_ask=level("44000", error_e6=90_000, sellers=5),
                    performance_log_e6=821_000,
                ),
            ),
            drift_log_e6=-260_000,
            daily_volatility_e6=9_500,
            shortfall_log_e6=310_000,
            monthly_sales=900,
        ),
        asset_class=learned(
            CLASS,
            64,
            ask_to_sold_log_e6=-350_000,
            market_error_e6=230_000,
            income_error_e6=340_000,
            cost_error_e6=None,
        ),
        table=(row("used", 15_500, 18_250, 22_000, days=40),),
        appraisals=(
            Appraisal(
                appraiser="appraiser",
                premise=Premise.OLV,
                micros=16_400_000_000,
                day=DAY - 75,
                document_sha256="ab" * 32,
            ),
        ),
    )
    return of_subject(
        one,
        degraded=True,
        lot=260,
        board=Board.PARTIAL,
        warranty_until=DAY + 400,
        contract=Contract(
            counterparty="renter",
            micros_per_hour=1_950_000,
            until=DAY + 500,
            default_bps_per_year=600,
            document_sha256="cd" * 32,
        ),
    )


def e6(number: int) -> Decimal:
    return Decimal(number) / 1_000_000


def bps(number: int) -> Decimal:
    return Decimal(number) / 10_000


def worth(tree: dict) -> dict[str, str]:
    """Every amount of the case's value, in dollars to a cent, from the tree of its JSON."""
    policy, subject, fit = tree["policy"], tree["subject"], tree["product"]
    market, income, judged = policy["market"], policy["income"], policy["reconciliation"]
    learnt = tree["asset_class"]
    day = tree["day"]
    daily = max(e6(fit["daily_volatility_e6"]), e6(judged["daily_volatility_e6"]) / 2)
    aged = daily**2 * (day - fit["day"])

    def tested(name: str) -> Decimal:
        return e6(learnt[name] if learnt[name] is not None else judged[name])

    def thin(one: dict) -> Decimal:
        lacking = max(market["sellers_min"] - one["sellers"], 0)
        return e6(judged["thin_error_e6"]) ** 2 * lacking / market["sellers_min"]

    # Market: no sales, so asking prices and what sales are of them.
    used = fit["used_ask"]
    base = tested("market_error_e6")
    x_market = e6(used["log_e6"]) + e6(learnt["ask_to_sold_log_e6"])
    s_market = (base**2 + e6(used["error_e6"]) ** 2 + aged + thin(used)).sqrt()
    says = [("market", x_market, s_market, base, base)]

    # The table's used row.
    used_row = tree["table"][0]
    spread = (Decimal(used_row["high_micros"]) / used_row["low_micros"]).ln() / (2 * Z10)
    own = max(spread, base)
    s_row = (own**2 + daily**2 * (day - used_row["day"])).sqrt()
    says.append(("table", (Decimal(used_row["mid_micros"]) / 10**6).ln(), s_row, own, own))

    # Cost: the cheaper of a new one and of what replaces it.
    other = fit["equivalents"][0]
    power = bps(policy["cost"]["performance_power_bps"])
    news = [
        (e6(fit["new_ask"]["log_e6"]), fit["new_ask"]),
        (
            e6(other["new_ask"]["log_e6"]) - power * e6(other["performance_log_e6"]),
            other["new_ask"],
        ),
    ]
    rcn = min(price for price, _ in news)
    base = tested("cost_error_e6")
    s_cost = max((base**2 + e6(one["error_e6"]) ** 2 + aged + thin(one)).sqrt() for _, one in news)
    x_cost = rcn + bps(market["used_of_new_bps"]).ln()

    # Income, month by month.
    hours = Decimal(730)
    kept = 1 - bps(income["platform_fee_bps"])
    utilised = bps(income["utilisation_bps"])
    kilowatts = Decimal(WATTS) / 1000 * bps(income["host_share_bps"])
    monthly = (
        hours * kilowatts * bps(income["pue_bps"]) * e6(income["energy_micros_per_kwh"])
        + kilowatts * e6(income["hosting_micros_per_kw_month"])
        + e6(income["operation_micros_per_month"])
    )
    price = e6(fit["rental"]["log_e6"]).exp()
    at_6 = min(e6(fit["committed_1y_log_e6"]) - utilised.ln(), Decimal(0))
    at_18 = min(e6(fit["committed_3y_log_e6"]) - utilised.ln(), at_6)
    fade = bps(income["hazard_bps_per_year"]) + (1 + bps(income["discount_bps_per_year"])).ln()
    contract = subject["contract"]
    lives = (1 - bps(contract["default_bps_per_year"])).ln()
    x_income_sum = all_costs = Decimal(0)
    for month in range(1, income["months"] + 1):
        if month <= 6:
            path = at_6 * month / 6
        elif month <= 18:
            path = at_6 + (at_18 - at_6) * (month - 6) / 12
        else:
            path = at_18 * month / 18
        counts = (-fade * month / 12).exp()
        earns = max(hours * utilised * price * path.exp() * kept - monthly, Decimal(0))
        let = Decimal(0)
        if Decimal(month) * 365 / 12 <= contract["until"] - day:
            let = (lives * month / 12).exp()
        agreed = max(hours * e6(contract["micros_per_hour"]) * kept - monthly, Decimal(0))
        x_income_sum += counts * (let * agreed + (1 - let) * earns)
        all_costs += counts * monthly
    years = Decimal(income["months"]) / 12
    residual = (x_market + e6(fit["drift_log_e6"]) * years - fade * years).exp()
    x_income = (x_income_sum + residual).ln()
    leverage = e6(income["leverage_error_e6"]) * all_costs / x_market.exp()
    base_income = (tested("income_error_e6") ** 2 + leverage**2).sqrt()
    of_rental = Decimal("1.25") * e6(fit["rental"]["error_e6"])
    s_income = (base_income**2 + of_rental**2 + aged + thin(fit["rental"])).sqrt()
    says.append(("income", x_income, s_income, base_income, base_income))
    says.append(("cost", x_cost, s_cost, base, base))

    # The appraisal, brought from OLV to FMV.
    signed = tree["appraisals"][0]
    x_signed = (Decimal(signed["micros"]) / 10**6).ln() - bps(market["olv_of_fmv_bps"]).ln()
    age = day - signed["day"]
    of_day = e6(judged["appraisal_error_e6"]) ** 2
    usual = e6(judged["daily_volatility_e6"]) ** 2
    says.append(
        (
            "appraisal",
            x_signed,
            (of_day + daily**2 * age).sqrt(),
            (of_day + usual * age).sqrt(),
            (of_day + usual * judged["appraisal_age_max_days"]).sqrt(),
        )
    )

    # Reconciled.
    weights = [1 / one[3] ** 2 for one in says]
    total = sum(weights)
    x = sum(w * one[1] for w, one in zip(weights, says, strict=True)) / total
    own2 = sum((w * one[2]) ** 2 for w, one in zip(weights, says, strict=True)) / total**2
    scatter2 = sum(w * (one[1] - x) ** 2 for w, one in zip(weights, says, strict=True)) / total
    sigma = (own2 + scatter2 / 2).sqrt()
    x = min(x, rcn)

    # Lent on: other weights, the lowest approach, and no error that costs more than its absence.
    fall = max(
        e6(fit["shortfall_log_e6"]), -(1 - bps(policy["lending"]["market_haircut_least_bps"])).ln()
    )
    parts = {name: 1 / tested(f"{name}_error_e6") ** 2 for name in ("market", "income", "cost")}
    charge = {name: e6(judged["missing_e6"]) * p / sum(parts.values()) for name, p in parts.items()}
    low = max(lent_log(says, sure, rcn, fall, charge) for sure in choices(says)).exp()

    factors = bps(policy["health"]["degraded_bps"]) * bps(policy["factors"]["board_partial_bps"])
    factors *= bps(policy["factors"]["warranty_bps"])
    free = Decimal(fit["monthly_sales"]) * bps(policy["factors"]["lot_free_of_sales_bps"])
    doublings = (Decimal(subject["lot"]) / free).ln() / Decimal(2).ln()
    lot = bps(policy["factors"]["lot_doubling_bps"]) ** doublings
    lot = max(lot, bps(policy["factors"]["lot_least_bps"]))
    orderly = bps(market["olv_of_fmv_bps"]) * lot
    net = 1 - bps(market["sale_cost_bps"])
    amounts = {}
    for name, step in (("low", -1), ("mid", 0), ("high", 1)):
        fair = (x + step * Z10 * sigma).exp() * factors
        amounts[f"fmv_{name}"] = fair
        amounts[f"olv_{name}"] = fair * orderly
        amounts[f"nolv_{name}"] = fair * orderly * net
        amounts[f"flv_{name}"] = fair * orderly * bps(market["flv_of_olv_bps"])
    amounts["lending"] = low * factors * orderly * net
    return {name: f"{amount:.2f}" for name, amount in amounts.items()}


def choices(says: list) -> list[list]:
    """Every choice of the approaches that has all appraisals in it."""
    signed = [one for one in says if one[0] == "appraisal"]
    others = [one for one in says if one[0] != "appraisal"]
    sizes = range(0 if signed else 1, len(others) + 1)
    return [[*some, *signed] for size in sizes for some in combinations(others, size)]


def lent_log(says: list, sure: list, rcn: Decimal, fall: Decimal, charge: dict) -> Decimal:
    """ln of what is lent on by the errors of those that are sure, before factors and sale."""

    def mean(some: list) -> Decimal:
        weights = [1 / one[4] ** 2 for one in some]
        return sum(w * one[1] for w, one in zip(weights, some, strict=True)) / sum(weights)

    total = sum(1 / one[4] ** 2 for one in sure)
    error = sum((one[2] / one[4] ** 2 / total) ** 2 for one in sure).sqrt()
    middle = min(mean(says), mean(sure), rcn) - ((Z10 * error) ** 2 + fall**2).sqrt()
    lowest = min(one[1] for one in says) - (((Z10 - 1) * error) ** 2 + fall**2).sqrt()
    said = {"market" if one[0] in ("table", "appraisal") else one[0] for one in sure}
    return min(middle, lowest) - sum(less for name, less in charge.items() if name not in said)


def text() -> str:
    """The file: the case, and what it is worth by `worth`."""
    tree = json.loads(to_json(golden()))
    return json.dumps({"case": tree, "usd": worth(tree)}, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    (HERE / FILE).write_text(text(), encoding="utf-8")
