"""Builders of what the pure rooms take: assets, hosts, prices and loans, healthy unless told."""

from __future__ import annotations

from dataclasses import replace

from msgspec.structs import replace as replace_struct

from assay_core.header import Period
from assay_core.health import HealthState, Record, observe
from assay_core.instants import DAY_MS, HOUR_MS
from assay_core.leaves import (
    HOST,
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Group,
    Incident,
    IncidentKind,
    Reason,
    Severity,
    Tenancy,
)
from assay_valuer.book import Book, BookSnapshot, Loan, appraise
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.market.prices import PriceSnapshot, read_prices
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.trust import Claim, Verdict
from assay_valuer.standing.types import Asset, Condition, Host, Leaves, Sight, Track

NOW = 1_795_000_000_000  # 2026-11-18T10:26:40Z
PART = "692-2G520-0200-000"

PRICES = """\
model,form_factor,condition,low_usd,mid_usd,high_usd,as_of,source
H100,SXM5,used,18000,22000.50,26000,2026-11-01,made up for tests
B200,SXM6,new,38000,42000,47000,2026-11-01,made up for tests
L40S,PCIe,used,4000,5000,6000,2025-01-01,made up for tests and old
"""


def prices(text: str = PRICES) -> PriceSnapshot:
    return read_prices(text, "prices.csv")


def host(key: int = 1, site: str = "lab", age_ms: int = 0, *, revoked: bool = False) -> Host:
    return Host(key, f"spiffe://assay.test/site/{site}/host/{key}", site, NOW - age_ms, revoked)


def asset(
    number: int = 1,
    *,
    age_ms: int = 0,
    host_key: int | None = 1,
    name: str | None = "NVIDIA H100 80GB HBM3",
    simulated: bool = False,
    seen: bool = True,
    incidents: tuple[Record, ...] = (),
    **track: object,
) -> Asset:
    seen_ms = NOW - age_ms
    shown = Track(
        first_seen_ms=seen_ms - DAY_MS,
        seen_ms=seen_ms,
        position=number,
        condition=Condition(boot_id="aa"),
        health=HealthState(records=incidents),
    )
    return Asset(
        id=number,
        serial=f"S{number:04d}",
        board_part_number=PART,
        uuid=number.to_bytes(16, "big") if seen else None,
        name=name if seen else None,
        host_key=host_key if seen else None,
        simulated=simulated,
        track=replace(shown, **track) if seen else Track(),  # type: ignore[arg-type]  # test data
    )


OTHER = "spiffe://assay.test/site/x/host/9"


def claimed(one: Asset, verdict: Verdict) -> Asset:
    """The asset, which another host shows too."""
    claim = Claim(
        host_key=9, host_id=OTHER, strength=0, since_ms=NOW, last_ms=NOW, uuid="", verdict=verdict
    )
    return replace(one, trust=replace_struct(one.trust, claims=(claim,)))


def record(
    severity: Severity = Severity.DEGRADED,
    kind: IncidentKind = IncidentKind.XID,
    code: int = 48,
    *,
    age_ms: int = HOUR_MS,
    end_ms: int | None = None,
    windows: int = 5,
) -> Record:
    """An incident as standing follows it: an hour old and confirmed, unless told."""
    begin_ms = NOW - age_ms
    return Record(kind, code, severity, begin_ms, NOW, end_ms, 1, windows, 1, begin_ms)


SUBJECT = b"\x01" * 16
"""The GPU that `sight` is of."""
WINDOW_MS = 1_000


def sight(
    at_ms: int,
    position: int,
    *,
    seen: bool = True,
    lost: bool = False,
    passed: bool = False,
    boot_id: str = "aa",
    driver: DriverState = DriverState.RUNNING,
    reset: bool = False,
    maintenance_until_ms: int | None = None,
    events: tuple[Event, ...] = (),
    told: tuple[Incident, ...] = (),
    condition: dict[str, int] | None = None,
    use: dict[str, object] | None = None,
    begin_ms: int | None = None,
    subject: bytes = SUBJECT,
    **health: int | Counter | Reason | None,
) -> Sight:
    """What a window of a healthy GPU says that ended at `at_ms`; None is a field without a value."""
    reload = (Event(EventKind.DRIVER_RELOADED, 0, at_ms, at_ms, 1),) if reset else ()
    host_leaf = Content(
        HOST,
        Group.HOST,
        {
            "driver_state": int(driver),
            "missing_gpus": (subject,) if lost else (),
            "events": reload,
            "hidden_gpus": (),
        },
    )
    told_of = {"remap_failed": 0, "remap_pending": 0, "recovery_action": 0, **health}
    rows = told_of.pop("rows_uncorrected", 0)
    rows_told = Counter(0, rows) if isinstance(rows, int) else Reason.NO_PERMISSION
    health_leaf = Content(
        subject,
        Group.HEALTH,
        {
            "polls": 60 if seen else Reason.NOT_SAMPLED,
            "events": events,
            "tenancy": int(Tenancy.PASSED_THROUGH if passed else Tenancy.HOST),
            "remapped_rows_uncorrected": rows_told,
            **{
                name: Reason.NO_PERMISSION if value is None else value
                for name, value in (told_of if seen else {}).items()
            },
        },
    )
    leaves = Leaves(
        health=health_leaf,
        use=None if use is None else Content(subject, Group.USE, use),  # type: ignore[arg-type]  # test data
        condition=None if condition is None else Content(subject, Group.CONDITION, condition),
    )
    begin = at_ms - WINDOW_MS if begin_ms is None else begin_ms
    action = told_of["recovery_action"]
    return Sight(
        observed_ms=at_ms,
        position=position,
        driver=driver,
        period=Period(begin, at_ms, begin, at_ms),
        health=observe(
            host_leaf,
            health_leaf,
            leaves.condition,
            at_ms=at_ms,
            boot_id=bytes.fromhex(boot_id),
            order=position,
        ),
        reset=reset,
        maintenance_until_ms=maintenance_until_ms,
        recovery_action=action if isinstance(action, int) else None,
        leaves=leaves,
        told=told,
    )


def loan_text(
    serials: list[str],
    *,
    loan_id: str = "loan-1",
    token_id: int = 7,
    amount: int = 100_000_000_000,
    originated_at: str = "2026-11-10T00:00:00Z",
    payments: str = "[]",
    extra: str = "",
) -> str:
    """100,000 dollars of a 6-decimal token at 12% a year, due on the 15th."""
    pledge = "".join(
        f"  - {{serial: {one!r}, board_part_number: {PART!r}}}\n".replace("'", '"')
        for one in serials
    )
    return f"""\
id: {loan_id}
chain_id: 42161
collateral_token: "0x1C2ED170de32846316784c4fd58A5e3C7563E12f"
collateral_token_ids: [{token_id}]
currency: {{token: "0x46850aD61C2B7d64d08c9C754F45254596696984", decimals: 6}}
repayment: {{total_duration_days: 1095, day: 15, timezone_offset_seconds: -18000}}
tranches:
  - lender: "0x0000000000000000000000000000000000000001"
    amount: {amount}
    rate: 3805175038
originated_at: "{originated_at}"
payments: {payments}
{extra}pledge:
{pledge}"""


def loan_file(serials: list[str], **changed: object) -> LoanFile:
    return read_loan(loan_text(serials, **changed), "loan.yaml")  # type: ignore[arg-type]  # test data


def snapshot(
    assets: list[Asset],
    *,
    hosts: list[Host] | None = None,
    loan: LoanFile | None = None,
    priced: PriceSnapshot | None = None,
    served: list[Span] | None = None,
) -> BookSnapshot:
    held = loan or loan_file([one.serial or "" for one in assets])
    return BookSnapshot(
        hosts={one.key: one for one in (hosts if hosts is not None else [host()])},
        assets={one.id: one for one in assets},
        loans=(Loan(held, bytes(32), tuple(one.id for one in assets)),),
        prices=priced if priced is not None else prices(),
        uptime=merge(served or [Span(NOW - 30 * DAY_MS, NOW + HOUR_MS)]),
        remembered={},
        hashes={one.id: one.id.to_bytes(32, "big") for one in assets},
    )


def book(assets: list[Asset], policy: ValuerPolicy | None = None, **changed: object) -> Book:
    return appraise(snapshot(assets, **changed), policy or ValuerPolicy(), NOW)  # type: ignore[arg-type]  # test data
