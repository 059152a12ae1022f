"""Cases as hypothesis draws them: plausible ones of an H100's market, and any that can be read at all."""

from __future__ import annotations

from hypothesis import strategies as st
from msgspec.structs import replace

from assay_core.covenant import Premise
from assay_valuer.policy import (
    DEFAULT,
    Cost,
    Factors,
    Health,
    Income,
    Lending,
    Market,
    Reconciliation,
)
from assay_valuer.valuation.case import Appraisal, Board, CasePolicy, Contract, Override, TablePrice
from assay_valuer.valuation.parameters import Equivalent, Level
from tests.fakes.valuing import CLASS, DAY, H100, case, case_policy, learned, of_subject, parameters

ZEROS = "0" * 64
DAY_MAX = 3_652_059
LEVELS = ("rental", "new_ask", "used_ask", "sold")


@st.composite
def around(draw, log_e6: int, spread_e6: int = 700_000) -> Level:
    """A level around a log price."""
    return Level(
        log_e6=log_e6 + draw(st.integers(-spread_e6, spread_e6)),
        error_e6=draw(st.integers(10_000, 400_000) | st.integers(400_000, 1_700_000)),
        sellers=draw(st.integers(0, 6)),
        quotes=draw(st.integers(1, 100)),
        newest_day=DAY - draw(st.integers(0, 400)),
        basis=draw(st.sampled_from(["quotes", "quotes", "hedonic"])),
    )


def maybe(strategy):
    return st.none() | strategy


@st.composite
def products(draw):
    """Parameters of an H100 anywhere from 300 to 60,000 dollars, its margin from thin to fat."""
    hardware = draw(st.integers(5_700_000, 11_000_000))
    rental = hardware - 9_100_000 + draw(st.integers(-1_500_000, 800_000))
    rows = draw(st.lists(around(hardware + 900_000, 900_000), max_size=2))
    return parameters(
        day=DAY - draw(st.integers(0, 60)),
        rental=draw(maybe(around(rental))),
        new_ask=draw(maybe(around(hardware + 500_000))),
        used_ask=draw(maybe(around(hardware + 400_000))),
        sold=draw(maybe(around(hardware))),
        equivalents=tuple(
            Equivalent(
                product="B200 SXM6",
                new_ask=one,
                performance_log_e6=draw(st.integers(-1_000_000, 1_000_000)),
            )
            for one in rows
        ),
        committed_1y_log_e6=draw(maybe(st.integers(-900_000, -2_000))),
        committed_3y_log_e6=draw(maybe(st.integers(-1_500_000, -2_000))),
        drift_log_e6=draw(maybe(st.integers(-600_000, 100_000))),
        daily_volatility_e6=draw(maybe(st.integers(3_000, 30_000))),
        shortfall_log_e6=draw(maybe(st.integers(50_000, 1_300_000))),
        monthly_sales=draw(maybe(st.integers(0, 100_000))),
    )


errors = maybe(st.integers(80_000, 500_000))


@st.composite
def appraised(draw) -> Appraisal:
    return Appraisal(
        appraiser=draw(st.sampled_from(["one", "two"])),
        premise=draw(st.sampled_from(list(Premise))),
        micros=draw(st.integers(10**9, 10**11)),
        day=DAY - draw(st.integers(0, 500)),
        document_sha256=ZEROS,
    )


@st.composite
def rows(draw, condition: str) -> TablePrice:
    low = draw(st.integers(10**9, 3 * 10**10))
    mid = low + draw(st.integers(0, 10**10))
    return TablePrice(
        condition=condition,
        low_micros=low,
        mid_micros=mid,
        high_micros=mid + draw(st.integers(0, 10**10)),
        day=DAY - draw(st.integers(0, 220)),
        source="made up for tests",
    )


@st.composite
def contracts(draw) -> Contract:
    return Contract(
        counterparty="renter",
        micros_per_hour=draw(st.integers(100_000, 5_000_000)),
        until=DAY + draw(st.integers(0, 1_500)),
        default_bps_per_year=draw(st.integers(0, 4_000)),
        document_sha256=ZEROS,
    )


@st.composite
def plausible(draw, *, fitted_alone: bool = False):
    """A case of an H100 whose sources are such as a market shows; some have none that counts."""
    table = () if fitted_alone else (draw(maybe(rows("used"))), draw(maybe(rows("new"))))
    one = case(
        product=draw(products()),
        asset_class=draw(
            st.builds(
                learned,
                st.just(CLASS),
                st.sampled_from([0, 29, 30, 400]),
                ask_to_sold_log_e6=maybe(st.integers(-900_000, -2_000)),
                market_error_e6=errors,
                income_error_e6=errors,
                cost_error_e6=errors,
            )
        ),
        table=tuple(row for row in table if row is not None),
        appraisals=() if fitted_alone else tuple(draw(st.lists(appraised(), max_size=2))),
    )
    return of_subject(
        one,
        degraded=draw(st.booleans()),
        lot=draw(st.integers(1, 10_000)),
        board=draw(st.sampled_from(list(Board))),
        warranty_until=draw(maybe(st.integers(DAY - 100, DAY + 800))),
        contract=draw(maybe(contracts())),
    )


# Anything that can be read at all, at the ends of what fields take.

logs = st.integers(-60_000_000, 60_000_000) | st.sampled_from([-60_000_000, 0, 60_000_000])
wide_errors = st.integers(0, 60_000_000) | st.integers(0, 3_000_000)
counts = st.integers(0, 10_000_000) | st.integers(0, 5)
days = st.integers(1, DAY_MAX) | st.integers(DAY - 400, DAY + 400)
micros = st.integers(0, 10**15) | st.sampled_from([0, 1, 10**15])
positive = st.integers(1, 10**15) | st.sampled_from([1, 10**15])
names = st.text(min_size=1, max_size=40)
levels = st.builds(
    Level,
    log_e6=logs | st.integers(0, 14_000_000) | st.integers(-5_000_000, 6_000_000),
    error_e6=wide_errors,
    sellers=counts,
    quotes=counts,
    newest_day=days,
    basis=st.sampled_from(["quotes", "hedonic"]),
)
bps = st.integers(0, 10_000) | st.sampled_from([0, 1, 10_000])


def bounded(least: int, most: int):
    return st.integers(least, most) | st.sampled_from([least, most])


policies = st.builds(
    CasePolicy,
    health=st.builds(Health, degraded_bps=bps),
    market=st.builds(
        Market,
        used_of_new_bps=bps,
        olv_of_fmv_bps=bps,
        flv_of_olv_bps=bps,
        sale_cost_bps=bps,
        price_age_max_days=bounded(1, 36_500),
        ask_to_sold_bps=bps,
        sellers_min=bounded(1, 1_000),
    ),
    income=st.builds(
        Income,
        months=bounded(1, 120),
        utilisation_bps=bps,
        platform_fee_bps=bps,
        pue_bps=bounded(10_000, 30_000),
        energy_micros_per_kwh=bounded(0, 10_000_000),
        hosting_micros_per_kw_month=bounded(0, 10**10),
        host_share_bps=bounded(10_000, 40_000),
        operation_micros_per_month=bounded(0, 10**10),
        discount_bps_per_year=bps,
        hazard_bps_per_year=bps,
        committed_1y_bps=bps,
        committed_3y_bps=bps,
        leverage_error_e6=bounded(0, 3_000_000),
        far_e6=bounded(100_000, 3_000_000),
        residual_year_bps=bps,
        residual_least_bps=bounded(1_000, 10_000),
    ),
    cost=st.builds(
        Cost,
        performance_power_bps=bounded(0, 20_000),
        performance_least_bps=bounded(100, 10_000),
        performance_most_bps=bounded(10_000, 1_000_000),
    ),
    reconciliation=st.builds(
        Reconciliation,
        market_error_e6=bounded(10_000, 3_000_000),
        income_error_e6=bounded(10_000, 3_000_000),
        cost_error_e6=bounded(10_000, 3_000_000),
        appraisal_error_e6=bounded(10_000, 3_000_000),
        appraisal_age_max_days=bounded(1, 3_660),
        hedonic_error_e6=bounded(10_000, 3_000_000),
        thin_error_e6=bounded(0, 3_000_000),
        missing_e6=bounded(0, 3_000_000),
        sales_min=bounded(1, 100_000),
        disagreement_sigmas_bps=bounded(1, 100_000),
        daily_volatility_e6=bounded(0, 1_000_000),
    ),
    factors=st.builds(
        Factors,
        board_partial_bps=bps,
        export_bps=bps,
        warranty_bps=bounded(10_000, 15_000),
        warranty_days=bounded(1, 3_660),
        lot_free=bounded(1, 1_000_000),
        lot_free_of_sales_bps=bps,
        lot_doubling_bps=bps,
        lot_least_bps=bps,
    ),
    lending=st.builds(Lending, market_haircut_bps=bps, market_haircut_least_bps=bps),
)


@st.composite
def readable(draw):
    """Any case at all: extremes, contradictions, and another product's parameters."""
    fitted = parameters(
        draw(st.sampled_from(["H100 SXM5", "B200 SXM6", "?"])),
        draw(st.sampled_from([CLASS, "consumer", "?"])),
        day=draw(days),
        equivalents=tuple(
            draw(
                st.lists(
                    st.builds(Equivalent, product=names, new_ask=levels, performance_log_e6=logs),
                    max_size=2,
                )
            )
        ),
        monthly_sales=draw(maybe(counts)),
        **{name: draw(maybe(levels)) for name in LEVELS},
        **{
            name: draw(maybe(logs))
            for name in ("committed_1y_log_e6", "committed_3y_log_e6", "drift_log_e6")
        },
        **{name: draw(maybe(wide_errors)) for name in ("daily_volatility_e6", "shortfall_log_e6")},
    )
    classes = st.builds(
        learned,
        st.sampled_from([CLASS, "consumer"]),
        counts,
        ask_to_sold_log_e6=maybe(logs),
        market_error_e6=maybe(wide_errors),
        income_error_e6=maybe(wide_errors),
        cost_error_e6=maybe(wide_errors),
    )
    table = st.builds(
        TablePrice,
        condition=st.sampled_from(["new", "used", "for_parts"]),
        low_micros=micros,
        mid_micros=micros,
        high_micros=micros,
        day=days,
        source=st.text(max_size=20),
    )
    signed = st.builds(
        Appraisal,
        appraiser=names,
        premise=st.sampled_from(list(Premise)),
        micros=positive,
        day=days,
        document_sha256=st.just(ZEROS),
    )
    override = st.builds(
        Override,
        micros=positive,
        reason=names,
        until=days,
        signed_by=st.tuples(names, names),
        position=st.integers(0, 10**12),
    )
    contract = st.builds(
        Contract,
        counterparty=names,
        micros_per_hour=st.integers(1, 10**9),
        until=days,
        default_bps_per_year=bps,
        document_sha256=st.just(ZEROS),
    )
    one = case(
        draw(st.sampled_from([H100, H100, "NVIDIA GeForce RTX 3090", "NVIDIA H20", "?", None])),
        day=draw(days),
        policy=draw(st.just(case_policy(DEFAULT)) | policies),
        has_prices=draw(st.booleans()),
        product=draw(maybe(st.just(fitted))),
        asset_class=draw(maybe(classes)),
        table=tuple(draw(st.lists(table, max_size=4))),
        appraisals=tuple(draw(st.lists(signed, max_size=3))),
        override=draw(maybe(override)),
    )
    return of_subject(
        one,
        degraded=draw(st.booleans()),
        lot=draw(st.integers(1, 1_000_000)),
        board=draw(st.sampled_from(list(Board))),
        warranty_until=draw(maybe(days)),
        contract=draw(maybe(contract)),
    )


def with_levels(one, change):
    """The case with `change` made to each fitted level, in a fixed order: rental, new, used, sold,
    equivalents."""
    product = one.product
    moved = {
        name: None if getattr(product, name) is None else change(getattr(product, name))
        for name in LEVELS
    }
    equivalents = tuple(
        replace(other, new_ask=change(other.new_ask)) for other in product.equivalents
    )
    return replace(one, product=replace(product, equivalents=equivalents, **moved))
