"""Loan files: a loan as its parties wrote it, in the shape of USD.AI's LoanTermsV2.

Amounts are in the currency token's own units (PYUSD: 6 decimals) and rates per second with 18
decimals, as on chain. What the chain keeps beside the terms (origination, payments, status) and
the pledged GPUs stand in the same file. One loan token is one dollar: a stated assumption.
"""

from __future__ import annotations

import enum
import json
import re
from typing import Annotated, Final

import msgspec

from assay_core.asset_events import HostId, Site
from assay_core.errors import FileError
from assay_core.files import parse
from assay_core.instants import DAY_MS, parse_instant

WAD: Final = 10**18
RATE_MAX: Final = WAD
"""A rate above 1 per second is refused on chain, and here."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


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
    """A payment that was made: when (RFC 3339), and how much in token units."""

    at: str
    amount: int


class Pledged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pledged GPU by what stands on its board; and who alone may show it, where that is agreed."""

    serial: Text
    board_part_number: Text
    site: Site | None = None
    host: HostId | None = None


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
    payments: Annotated[tuple[Payment, ...], msgspec.Meta(max_length=4_000)] = ()
    status: LoanStatus = LoanStatus.ACTIVE
    site: Site | None = None
    host: HostId | None = None
    """Who alone may show its GPUs, unless a GPU says otherwise."""
    pledge: Annotated[tuple[Pledged, ...], msgspec.Meta(min_length=1, max_length=100_000)]

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


def read_loan(text: str, name: str) -> LoanFile:
    """The loan in a YAML or JSON file's text. Raises FileError with line and field."""
    loan = parse(text, LoanFile, name)
    problem = _problem(loan)
    if problem is not None:
        field, message = problem
        raise FileError(f"{name}:{_line(text, field)}: {field}: {message}")
    return loan


def to_json(loan: LoanFile) -> str:
    """Canonical JSON: sorted keys, no spaces. Numbers may be wider than 64 bits."""
    return json.dumps(msgspec.to_builtins(loan), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> LoanFile:
    """What `to_json` wrote. Raises FileError."""
    try:
        return msgspec.convert(json.loads(text), LoanFile)
    except (msgspec.ValidationError, ValueError) as error:
        raise FileError(f"a stored loan does not read back: {error}") from error


def _problem(loan: LoanFile) -> tuple[str, str] | None:
    """The first rule between fields that does not hold: the field and what is wrong."""
    if len(loan.collateral_token_ids) != 1:
        return "collateral_token_ids", "exactly one token is taken: a feed values one token"
    if not 0 <= loan.collateral_token_ids[0] < 2**256:
        return "collateral_token_ids", "not a token id"
    for index, tranche in enumerate(loan.tranches):
        if tranche.amount <= 0:
            return f"tranches.{index}.amount", "must be positive, in the token's own units"
        if not 0 < tranche.rate <= RATE_MAX:
            return f"tranches.{index}.rate", "must be per second, with 18 decimals, above zero"
    last_ms, problem = _instant(loan.originated_at)
    if problem is not None:
        return "originated_at", problem
    for index, payment in enumerate(loan.payments):
        at_ms, problem = _instant(payment.at)
        if problem is not None:
            return f"payments.{index}.at", problem
        if at_ms < last_ms:
            return f"payments.{index}.at", "before the origination or the payment before it"
        if payment.amount <= 0:
            return f"payments.{index}.amount", "must be positive, in the token's own units"
        last_ms = at_ms
    if loan.site is not None and loan.host is not None:
        return "host", "a site is named already: name one of them"
    seen: set[tuple[str, str]] = set()
    for index, gpu in enumerate(loan.pledge):
        if gpu.site is not None and gpu.host is not None:
            return f"pledge.{index}.host", "a site is named already: name one of them"
        key = (gpu.serial, gpu.board_part_number)
        if key in seen:
            return f"pledge.{index}.serial", f"{gpu.serial} is pledged twice"
        seen.add(key)
    return None


def _instant(text: str) -> tuple[int, str | None]:
    try:
        return parse_instant(text), None
    except FileError as error:
        return 0, str(error)


def _line(text: str, field: str) -> int:
    """The line of a field such as "payments.2.at", as nearly as the text shows it.

    Counts the keys of the list's items, which every item has once.
    """
    name, _, rest = field.partition(".")
    index, _, key = rest.partition(".")
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if re.match(rf"\"?{name}\"?\s*:", line)), 0)
    if not key:
        return start + 1
    pattern = re.compile(rf"[\s{{,\"-]{key}\"?\s*:")
    hits = [i for i, line in enumerate(lines[start:], start) for _ in pattern.finditer(line)]
    return hits[int(index)] + 1 if int(index) < len(hits) else start + 1
