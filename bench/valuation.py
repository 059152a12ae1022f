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
from assay_valuer.credit.loan import Currency, LoanFile, Pledged, Repayment, Tranche
from assay_valuer.market.models import PRODUCTS
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
    """A fleet of four models on hosts of 8, all of it pledged, some of it sick or silent."""
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
    uptime = merge([Span(_NOW_MS - 365 * DAY_MS, _NOW_MS)])
    proofs = {key: _tpm() for key in hosts if key % PROVED_ONE_IN == 0}
    answers = dict.fromkeys(_CERTIFICATES, Revocation(True, _NOW_MS, _NOW_MS + DAY_MS))
    return BookSnapshot(
        hosts, assets, loans, prices, uptime, {}, {}, proofs=proofs, revocations=answers
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
            for one in assets
        ),
    )
    return Loan(file, first.to_bytes(32, "big"), tuple(one.id for one in assets))


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
