"""A case: everything that the value of one GPU rests on, in one record. Same case, same value.

GPUs that are alike in all that matters share a case, so a fleet is valued once per case and not once
per GPU. A case is kept as canonical JSON and named by its SHA-256: whoever has that file, and this
code's `METHOD`, works out the same value to the micro-dollar, with no store and no network.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Annotated, Final

import msgspec

from assay_core.covenant import Premise
from assay_valuer.policy import Cost, Factors, Health, Income, Lending, Market, Reconciliation
from assay_valuer.valuation.parameters import ClassParameters, Day, Name, ProductParameters

FORMAT: Final = 1

Micros = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How everything here is read: strictly."""


class Board(enum.StrEnum):
    """Whether the GPUs of one baseboard are pledged together: one without its board sells badly."""

    NONE = "none"
    """The product needs none, or none is known."""
    WHOLE = "whole"
    PARTIAL = "partial"


class CasePolicy(_Struct, frozen=True, kw_only=True):
    """The parts of a policy that values rest on."""

    health: Health
    market: Market
    income: Income
    cost: Cost
    reconciliation: Reconciliation
    factors: Factors
    lending: Lending


class Contract(_Struct, frozen=True, kw_only=True):
    """An offtake contract that its loan's file says it earns under."""

    counterparty: Name
    micros_per_hour: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    until: Day
    default_bps_per_year: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    document_sha256: Sha256


class Subject(_Struct, frozen=True, kw_only=True):
    """The GPU, as far as its value goes."""

    name: Annotated[str, msgspec.Meta(max_length=256)] | None
    """The driver's product name, as nvmlDeviceGetName gives it; None where it was not read."""
    degraded: bool = False
    lot: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    """GPUs of its product that its loan would sell together."""
    board: Board = Board.NONE
    warranty_until: Day | None = None
    """As its loan's file has it."""
    contract: Contract | None = None


class TablePrice(_Struct, frozen=True, kw_only=True):
    """A row of the price table in use."""

    condition: Annotated[str, msgspec.Meta(pattern=r"^(new|used|for_parts)$")]
    low_micros: Micros
    mid_micros: Micros
    high_micros: Micros
    day: Day
    source: Annotated[str, msgspec.Meta(max_length=512)]


class Appraisal(_Struct, frozen=True, kw_only=True):
    """What a registered appraiser signed that this GPU is worth."""

    appraiser: Name
    premise: Premise
    micros: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    day: Day
    document_sha256: Sha256


class Override(_Struct, frozen=True, kw_only=True):
    """A value that two people signed in the place of the automated one, until a day."""

    micros: Annotated[int, msgspec.Meta(ge=1, le=10**15)]
    """Fair market value."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    until: Day
    signed_by: Annotated[tuple[Name, ...], msgspec.Meta(min_length=2)]
    position: Annotated[int, msgspec.Meta(ge=0)]
    """Of its record in the ledger."""


class Case(_Struct, frozen=True, kw_only=True):
    """All of it. `day` is the day of the valuation, UTC."""

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    method: Name
    day: Day
    subject: Subject
    policy: CasePolicy
    policy_sha256: Sha256
    """Of the whole policy that `policy` is a part of."""
    has_prices: bool = False
    """Whether any price table or fit was in use."""
    prices_sha256: Sha256 | None = None
    table: tuple[TablePrice, ...] = ()
    """The table's rows of this product, by condition."""
    parameters_sha256: Sha256 | None = None
    product: ProductParameters | None = None
    asset_class: ClassParameters | None = None
    appraisals: tuple[Appraisal, ...] = ()
    override: Override | None = None

    @property
    def sha256(self) -> str:
        """Its name: SHA-256 of its canonical JSON, hex."""
        return hashlib.sha256(to_json(self)).hexdigest()


def to_json(case: Case) -> bytes:
    """Canonical JSON: sorted keys, no spaces."""
    return msgspec.json.encode(case, order="sorted")


def from_json(text: bytes | str) -> Case:
    """What `to_json` wrote. Raises msgspec.ValidationError."""
    return msgspec.json.decode(text, type=Case)
