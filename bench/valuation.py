"""What one more GPU costs when the whole book is worked out anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from assay_core.evidence.ek import TPM_ROOTS
from assay_core.health import START, HealthState, Record
from assay_core.instants import DAY_MS, MINUTE_MS, parse_instant
from assay_core.leaves import IncidentKind, Severity
from assay_valuer.book import BookSnapshot, Loan, appraise
from assay_valuer.cases import day_of
from assay_valuer.credit.loan import Contract, Currency, LoanFile, Pledged, Repayment, Tranche
from assay_valuer.market.models import PRODUCTS, SPECS
from assay_valuer.market.prices import COLUMNS, PriceSnapshot, read_prices
from assay_valuer.policy import DEFAULT
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.trust import (
    NO_TRUST,
    AssetTrust,
    DeviceProof,
    HostProofs,
    TpmProof,
)
from assay_valuer.standing.types import Asset, Host, Track
from assay_valuer.valuation.case import Override
from assay_valuer.valuation.parameters import (
    ClassParameters,
    Level,
    Outlook,
    Parameters,
    ProductParameters,
    Reference,
)
from bench.row import Context, Measurement, MeasurementFailed, Row

FEW: Final = 10_000
MANY: Final = 100_000
ROUNDS: Final = 3
TARGET_US: Final = 20
GPUS_OF_HOST: Final = 8
GPUS_OF_LOAN: Final = 128
SICK_ONE_IN: Final = 40
"""One GPU in so many has a degraded incident."""
SILENT_ONE_IN: Final = 100
"""One host in so many has been silent for a day."""
PROVED_ONE_IN: Final = 2
"""One host in so many has a TPM that was quoted, and GPUs that answered for themselves."""
CONTRACTED_ONE_IN: Final = 4
"""One loan in so many has its GPUs let under a contract."""
PARTIAL_ONE_IN: Final = 10
"""One host in so many has a GPU that is pledged to nobody: its baseboard is not whole."""
OVERRIDDEN_ONE_IN: Final = 5_000
"""Of one GPU in so many two people signed the value."""
_SELLERS: Final = ("acme", "brook", "cedar", "delta", "elm")

_NOW_MS: Final = parse_instant("2026-11-01T12:00:00Z")
_MODELS: Final = ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200", "NVIDIA L40S")
_ADDRESS: Final = "0x" + "11" * 20
_CERTIFICATES: Final = ("ik", "ica", "identity")


def measure(context: Context) -> Sequence[Row]:
    """Appraises 10,000 and 100,000 GPUs in turn; the difference, for each GPU more."""
    prices = _prices()
    cpu_ns: dict[int, list[int]] = {}
    snapshots = {count: _snapshot(count, prices) for count in (FEW, MANY)}
    for number in range(ROUNDS):
        for count, snapshot in snapshots.items():
            context.say(f"round {number + 1} of {ROUNDS}: {count:,} GPUs")
            began_ns = time.thread_time_ns()
            book = appraise(snapshot, DEFAULT, _NOW_MS)
            cpu_ns.setdefault(count, []).append(time.thread_time_ns() - began_ns)
            if sum(line.counted for line in book.lines.values()) < count * 0.9:
                raise MeasurementFailed("the book counts hardly anything: not what was to be timed")
    few, many = (min(cpu_ns[count]) / 1e3 for count in (FEW, MANY))
    marginal_us = (many - few) / (MANY - FEW)
    return [
        Row(
            name="valuation_us_per_gpu",
            value=marginal_us,
            unit="us/GPU",
            bound=None,
            bound_is="no bound; the ratio is to the target",
            ratio=marginal_us / TARGET_US,
            target=TARGET_US,
            judged="value",
            better="lower",
            note=f"standing, value and loan position of {MANY:,} GPUs in {many / 1e6:.2f} s",
        )
    ]


def _snapshot(count: int, prices: PriceSnapshot) -> BookSnapshot:
    """A fleet of four models on hosts of 8, nearly all of it pledged, some of it sick or silent, valued
    by prices, a fit, contracts and what people signed.
    """
    hosts = {
        key: Host(
            key=key,
            host_id=f"spiffe://assay.bench/site/s{key % 50}/host/{key}",
            site=f"s{key % 50}",
            observed_ms=_NOW_MS - (DAY_MS if key % SILENT_ONE_IN == 7 else 2 * MINUTE_MS),
            revoked=False,
        )
        for key in range(count // GPUS_OF_HOST)
    }
    assets = {one: _asset(one, hosts[one // GPUS_OF_HOST]) for one in range(count)}
    loans = tuple(
        _loan([assets[one] for one in range(first, min(first + GPUS_OF_LOAN, count))])
        for first in range(0, count, GPUS_OF_LOAN)
    )
    overrides = {
        one: Override(
            micros=20_000_000_000 + one,
            reason="made up for a benchmark",
            until=day_of(_NOW_MS) + 7,
            signed_by=("lena", "luis"),
            position=one,
        )
        for one in range(OVERRIDDEN_ONE_IN // 2, count, OVERRIDDEN_ONE_IN)
    }
    uptime = merge([Span(_NOW_MS - 365 * DAY_MS, _NOW_MS)])
    proofs = {key: _tpm() for key in hosts if key % PROVED_ONE_IN == 0}
    answers = dict.fromkeys(_CERTIFICATES, Revocation(True, _NOW_MS, _NOW_MS + DAY_MS))
    return BookSnapshot(
        hosts,
        assets,
        loans,
        prices,
        uptime,
        {},
        {},
        proofs=proofs,
        revocations=answers,
        parameters=_parameters(),
        overrides=overrides,
    )


def _parameters() -> Parameters:
    """A fit of the four models, made up."""
    today = day_of(_NOW_MS)
    outlooks = tuple(
        Outlook(
            horizon_days=days,
            q025_e6=-4_000 * days,
            q10_e6=-2_500 * days,
            q50_e6=-500 * days,
            q90_e6=1_500 * days,
            q975_e6=3_000 * days,
        )
        for days in (30, 90, 180)
    )
    products = sorted((PRODUCTS[name] for name in _MODELS), key=str)
    return Parameters(
        made_day=today,
        snapshot_sha256="0" * 64,
        previous_sha256=None,
        code="made up",
        products=tuple(
            ProductParameters(
                product=str(product),
                asset_class=SPECS[product].asset_class,
                day=today,
                rental=_level(900_000, today),
                new_ask=_level(10_200_000, today),
                used_ask=_level(9_900_000, today),
                rental_outlook=outlooks,
                hardware_outlook=outlooks,
                daily_volatility_e6=11_000,
                shortfall_log_e6=400_000,
            )
            for product in products
        ),
        classes=(ClassParameters(asset_class=SPECS[products[0]].asset_class, sales=0),),
    )


def _level(log_e6: int, today: int) -> Level:
    return Level(
        log_e6=log_e6,
        error_e6=70_000,
        sellers=len(_SELLERS),
        quotes=60,
        newest_day=today - 1,
        basis="quotes",
        references=tuple(Reference(seller=name, log_e6=log_e6) for name in _SELLERS),
    )


def _tpm() -> HostProofs:
    """A TPM of a listed maker, quoted two and a half hours ago: it decays."""
    at_ms = _NOW_MS - 150 * MINUTE_MS
    quoted = TpmProof(
        at_ms=at_ms,
        received_ms=at_ms,
        position=1,
        ak_name="ak",
        clock_ms=1,
        reset_count=1,
        restart_count=0,
        pcr_digest="",
    )
    return HostProofs(ak_name="ak", ek_sha256="ek", root_sha256=next(iter(TPM_ROOTS)), tpm=quoted)


def _device(host_key: int) -> AssetTrust:
    """A GPU that answered an hour ago."""
    return AssetTrust(
        proof=DeviceProof(
            at_ms=_NOW_MS - 60 * MINUTE_MS,
            position=1,
            host_key=host_key,
            chip="GH100",
            driver="590.48.01",
            vbios="96.00.9F.00.01",
            feature="multi_gpu",
            origin="in_band_nvml",
            certificates=_CERTIFICATES,
            whole=False,
            simulated=False,
        )
    )


def _asset(number: int, host: Host) -> Asset:
    seen_ms = host.observed_ms
    begin_ms = _NOW_MS - 30 * MINUTE_MS
    sick = Record(
        kind=IncidentKind.XID,
        code=48,
        severity=Severity.DEGRADED,
        begin_ms=begin_ms,
        last_ms=_NOW_MS - 2 * MINUTE_MS,
        end_ms=None,
        count=3,
        windows=4,
        days=1,
        day_ms=begin_ms,
    )
    return Asset(
        id=number,
        serial=f"{1_650_000_000_000 + number}",
        board_part_number="692-2G520-0200-000",
        uuid=number.to_bytes(16, "big"),
        name=_MODELS[host.key % len(_MODELS)],
        host_key=host.key,
        simulated=False,
        track=Track(
            first_seen_ms=_NOW_MS - 90 * DAY_MS,
            seen_ms=seen_ms,
            position=number,
            health=HealthState(records=(sick,)) if number % SICK_ONE_IN == 0 else START,
        ),
        trust=_device(host.key) if host.key % PROVED_ONE_IN == 0 else NO_TRUST,
    )


def _loan(assets: Sequence[Asset]) -> Loan:
    first = assets[0].id
    pledged = [one for one in assets if not _spare(one)]
    file = LoanFile(
        id=f"loan-{first}",
        chain_id=42161,
        collateral_token=_ADDRESS,
        collateral_token_ids=(first,),
        currency=Currency(token=_ADDRESS, decimals=6),
        repayment=Repayment(total_duration_days=1_095, day=1),
        tranches=(Tranche(lender=_ADDRESS, amount=1_500_000 * 10**6, rate=4_756_468_797),),
        originated_at="2026-03-01T00:00:00Z",
        pledge=tuple(
            Pledged(serial=one.serial or "", board_part_number=one.board_part_number or "")
            for one in pledged
        ),
        contracts=(_CONTRACT,) if first // GPUS_OF_LOAN % CONTRACTED_ONE_IN == 0 else (),
    )
    return Loan(file, first.to_bytes(32, "big"), tuple(one.id for one in pledged))


_CONTRACT: Final = Contract(
    counterparty="made up",
    usd_per_gpu_hour="2.10",
    until="2028-03-31",
    default_bps_per_year=200,
    document_sha256="0" * 64,
)


def _spare(one: Asset) -> bool:
    """Whether it is pledged to nobody: the last GPU of some hosts."""
    last = one.id % GPUS_OF_HOST == GPUS_OF_HOST - 1
    return last and one.id // GPUS_OF_HOST % PARTIAL_ONE_IN == 0


def _prices() -> PriceSnapshot:
    """Made-up prices: what they are changes nothing here."""
    rows = [",".join(COLUMNS)]
    for name in _MODELS:
        product = PRODUCTS[name]
        where = f"{product.model},{product.form_factor},used"
        rows.append(f"{where},18000.00,21000.00,24000.00,2026-10-01,made up for a benchmark")
    return read_prices("\n".join(rows), "bench prices")


PER_GPU: Final = Measurement(
    ("valuation_us_per_gpu",), "appraising one GPU more, between 10,000 and 100,000", measure
)
