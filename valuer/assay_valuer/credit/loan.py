"""Loan files: a loan as its parties wrote it, in the shape of USD.AI's LoanTermsV2.

Amounts are in the currency token's own units (PYUSD: 6 decimals) and rates per second with 18
decimals, as on chain. What the chain keeps beside the terms (origination, payments, status) and
the pledged GPUs stand in the same file. One loan token is one dollar: a stated assumption.
"""

from __future__ import annotations

import enum
import json
from datetime import date
from typing import Annotated, Final

import msgspec

from assay_core.asset_events import HostId, Site
from assay_core.errors import FileError
from assay_core.instants import DAY_MS, parse_instant
from assay_core.money import Usd, total

WAD: Final = 10**18
PAYMENTS_MAX: Final = 4_000
RATE_MAX: Final = WAD
"""A rate above 1 per second is refused on chain, and here."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Date = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
"""A day as ISO 8601 has it."""
Dollars = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
"""Decimal text: what YAML takes for a number with a fraction may not be the one that was written."""

Reference = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class LoanStatus(enum.StrEnum):
    """As `ILoanRouterV2.LoanStatus`, without Uninitialized."""

    ACTIVE = "active"
    REPAID = "repaid"
    BREACHED = "breached"
    LIQUIDATED = "liquidated"
    COLLATERAL_LIQUIDATED = "collateral_liquidated"


class Currency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The token the loan is in."""

    token: Address
    decimals: Annotated[int, msgspec.Meta(ge=0, le=18)]


class Repayment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When payments are due: on a day of each month at midnight of the loan's own offset."""

    total_duration_days: Annotated[int, msgspec.Meta(ge=1, le=4_000)]
    day: Annotated[int, msgspec.Meta(ge=1, le=31)]
    timezone_offset_seconds: Annotated[int, msgspec.Meta(ge=-43_200, le=50_400)] = 0


class Tranche(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who lent how much (token units) at which rate (per second, 18 decimals). Senior first."""

    lender: Address
    amount: int
    rate: int


class Payment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A payment that was made: when (RFC 3339), and how much in token units.

    `reference` names it among the loan's payments, where it came in by the API.
    """

    at: str
    amount: int
    reference: Reference | None = None


class Pledged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pledged GPU by what stands on its board; and who alone may show it, where that is agreed."""

    serial: Text
    board_part_number: Text
    site: Site | None = None
    host: HostId | None = None
    warranty_until: Date | None = None
    """The last day of its maker's warranty; None where none is known."""

    @property
    def warranty_day(self) -> int | None:
        """That day as an ordinal, as `datetime.date.toordinal` counts."""
        return None if self.warranty_until is None else _ordinal(self.warranty_until)


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An offtake contract that pledged GPUs earn under, as the parties say.

    `default_bps_per_year` is how likely they hold the counterparty to fail in a year; `gpus` are the
    serials of those it rents, none named: every pledged one.
    """

    counterparty: Text
    usd_per_gpu_hour: Dollars
    until: Date
    default_bps_per_year: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    document_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    gpus: Annotated[tuple[Text, ...], msgspec.Meta(max_length=100_000)] = ()

    @property
    def micros_per_hour(self) -> int:
        """Micro-dollars for one GPU and hour."""
        return Usd.parse(self.usd_per_gpu_hour).micros

    @property
    def until_day(self) -> int:
        """The last day as an ordinal."""
        return _ordinal(self.until)


class Reserve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What comes before the loan out of a sale: a prior lien, a landlord's claim, and why."""

    usd: Dollars
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

    @property
    def amount(self) -> Usd:
        """In micro-dollars."""
        return Usd.parse(self.usd)


class Instalment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A payment as the parties' own schedule has it: on which day of the loan's own offset, in token
    units.
    """

    due: Date
    principal: int
    interest: int


class Router(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the loan lives on `chain_id`: a loan router V2, and the hash of the terms it knows."""

    address: Address
    loan_terms_hash: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{64}$")]


class LoanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file. `chain_id` and `collateral_token` are where the document of title lives."""

    id: Name
    chain_id: Annotated[int, msgspec.Meta(ge=1)]
    collateral_token: Address
    collateral_token_ids: tuple[int, ...]
    borrower: Address | None = None
    currency: Currency
    repayment: Repayment
    tranches: Annotated[tuple[Tranche, ...], msgspec.Meta(min_length=1, max_length=32)]
    originated_at: str
    payments: Annotated[tuple[Payment, ...], msgspec.Meta(max_length=PAYMENTS_MAX)] = ()
    status: LoanStatus = LoanStatus.ACTIVE
    site: Site | None = None
    host: HostId | None = None
    """Who alone may show its GPUs, unless a GPU says otherwise."""
    pledge: Annotated[tuple[Pledged, ...], msgspec.Meta(min_length=1, max_length=100_000)]
    sellers: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()
    """Names under which the borrower and its affiliates quote prices: such quotes count for nobody."""
    contracts: Annotated[tuple[Contract, ...], msgspec.Meta(max_length=256)] = ()
    reserves: Annotated[tuple[Reserve, ...], msgspec.Meta(max_length=64)] = ()
    schedule: Annotated[tuple[Instalment, ...], msgspec.Meta(max_length=400)] = ()
    """As the parties wrote it; none: the level payments that the terms foresee."""
    router: Router | None = None

    def contracts_by_serial(self) -> dict[str, Contract]:
        """The contract that each pledged GPU earns under, those that earn under none left out."""
        return {
            serial: contract
            for contract in self.contracts
            for serial in contract.gpus or [gpu.serial for gpu in self.pledge]
        }

    @property
    def reserved(self) -> Usd:
        """What comes before the loan, together."""
        return total([one.amount for one in self.reserves])

    def reserved_for(self, gpu: Pledged) -> tuple[str | None, str | None]:
        """The site, or the host by its id, that alone may show a pledged GPU: its own, or the loan's."""
        if gpu.site is not None or gpu.host is not None:
            return gpu.site, gpu.host
        return self.site, self.host

    @property
    def originated_ms(self) -> int:
        """When interest began, UTC ms."""
        return parse_instant(self.originated_at)

    @property
    def matures_floor_ms(self) -> int:
        """The last payment falls on the first due day at or after this."""
        return self.originated_ms + self.repayment.total_duration_days * DAY_MS

    @property
    def scale(self) -> int:
        """Token units to 18 decimals."""
        return int(10 ** (18 - self.currency.decimals))

    @property
    def principal_wad(self) -> int:
        """What was lent, 18 decimals."""
        return sum(tranche.amount for tranche in self.tranches) * self.scale

    @property
    def weighted_rate(self) -> int:
        """Sum of amount × rate over the tranches, in token units × 18 decimals per second."""
        return sum(tranche.amount * tranche.rate for tranche in self.tranches)


def to_json(loan: LoanFile) -> str:
    """Canonical JSON: sorted keys, no spaces. Numbers may be wider than 64 bits."""
    return json.dumps(msgspec.to_builtins(loan), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> LoanFile:
    """What `to_json` wrote. Raises FileError."""
    try:
        return msgspec.convert(json.loads(text), LoanFile)
    except (msgspec.ValidationError, ValueError) as error:
        raise FileError(f"a stored loan does not read back: {error}") from error


def _ordinal(text: str) -> int:
    return date.fromisoformat(text).toordinal()
