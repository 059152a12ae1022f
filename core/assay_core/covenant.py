"""A loan's covenant file: what its lender and its borrower signed that it is measured by.

The signed bytes are the file's canonical JSON: keys sorted, no spaces. One file has one such form,
and any other bytes are refused. Both parties sign the same bytes (DSSE), each with a key of their
own, and one person is never both of them. Ratios are basis points, periods whole hours, instants UTC
milliseconds, each with its unit last in its name.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Annotated, Final

import msgspec

from assay_core.asset_events import Instant, LoanId
from assay_core.errors import FileError
from assay_core.seal import COVENANT_TYPE, Envelope
from assay_core.signatories import Role, Signatory, lacking, signed_by

PAYLOAD_BYTES_MAX: Final = 16 * 1024
THRESHOLD_BPS_MAX: Final = 60_000
"""An LTV above 600% is no cover by any agreement. Judgement."""
VALUATIONS_MAX: Final = 30
PERIOD_HOURS_MAX: Final = 366 * 24
"""No clock here runs for more than a year. Judgement."""

PartyName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")
]
Threshold = Annotated[int, msgspec.Meta(ge=1, le=THRESHOLD_BPS_MAX)]
Hours = Annotated[int, msgspec.Meta(ge=1, le=PERIOD_HOURS_MAX)]


class ValueSource(enum.StrEnum):
    """Whose value it is. A file that names another is refused: it would be measured by no other."""

    AUTOMATED = "automated"
    """The valuer's automated valuation, under its policy."""


class Premise(enum.StrEnum):
    """Under which premise collateral is valued."""

    FMV = "FMV"
    OLV = "OLV"
    NOLV = "NOLV"


class Basis(enum.StrEnum):
    """Whether LTV is against the value itself, or against what is left of it after a sale's cost."""

    GROSS = "gross"
    NET = "net"


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How everything here is read: strictly."""


class Thresholds(_Struct, frozen=True):
    """LTVs, basis points, from which on a loan is watched, called and in default."""

    watch_bps: Threshold
    call_bps: Threshold
    default_bps: Threshold


class Parties(_Struct, frozen=True):
    """Who signs, by their names in the register: a lender, and an operator for the borrower."""

    lender: PartyName
    borrower: PartyName


class Covenant(_Struct, frozen=True):
    """One covenant file. A later `version` takes the place of the one before, never the reverse."""

    loan: LoanId
    version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    effective_from_ms: Instant
    parties: Parties
    value_source: ValueSource
    premise: Premise
    ltv_basis: Basis
    thresholds: Thresholds
    hysteresis_bps: Annotated[int, msgspec.Meta(ge=0, le=5_000)]
    """How far LTV must fall below a threshold before it counts as having gone back under it."""
    call_valuations: Annotated[int, msgspec.Meta(ge=1, le=VALUATIONS_MAX)]
    """Valuations at or above a threshold that make a call, or a default by LTV."""
    call_apart_hours: Annotated[int, msgspec.Meta(ge=0, le=PERIOD_HOURS_MAX)]
    """Least time from one of these valuations to the next."""
    value_cure_hours: Hours
    """How long a called loan may be cured before it is in default."""
    reporting_cure_hours: Hours
    """How long a pledged GPU may be silent before there is notice of a breach of reporting."""


class CovenantRefusal(enum.StrEnum):
    """Why a covenant file was not taken."""

    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    BAD_SIGNATURE = "bad_signature"
    UNSIGNED = "unsigned"
    SAME_PARTY = "same_party"
    UNKNOWN_PARTY = "unknown_party"
    WRONG_LOAN = "wrong_loan"
    OLDER_VERSION = "older_version"


class CovenantRefused(FileError):
    """A covenant file that is not taken, and nothing of it; `reason` says why, for machines."""

    def __init__(self, reason: CovenantRefusal, detail: str) -> None:
        super().__init__(f"the covenant: {reason.value}: {detail}")
        self.reason: Final = reason


def encode(covenant: Covenant) -> bytes:
    """The canonical JSON that is signed."""
    return msgspec.json.encode(covenant, order="sorted")


def decode(payload: bytes) -> Covenant:
    """The covenant in signed bytes, validated. Raises CovenantRefused, naming the field."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        detail = f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are taken"
        raise CovenantRefused(CovenantRefusal.MALFORMED, detail)
    try:
        covenant = msgspec.json.decode(payload, type=Covenant, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CovenantRefused(CovenantRefusal.MALFORMED, f"cannot be read: {error}") from error
    validate(covenant)
    if encode(covenant) != payload:
        raise CovenantRefused(
            CovenantRefusal.MALFORMED,
            "not in its canonical form (keys sorted, no spaces, nothing twice); write it as a file "
            "and sign that with `assay-valuer party sign`",
        )
    return covenant


def validate(covenant: Covenant) -> None:
    """The rules between fields. Raises CovenantRefused, naming the field."""
    steps = covenant.thresholds
    if not steps.watch_bps < steps.call_bps < steps.default_bps:
        raise _wrong("thresholds", "watch_bps below call_bps below default_bps")
    if covenant.hysteresis_bps >= steps.watch_bps:
        raise _wrong("hysteresis_bps", "not below thresholds.watch_bps: no LTV would ever go back")
    if (covenant.premise is Premise.NOLV) != (covenant.ltv_basis is Basis.NET):
        raise _wrong("ltv_basis", "net is against NOLV and NOLV is net; FMV and OLV are gross")
    if covenant.call_valuations > 1 and covenant.call_apart_hours < 1:
        raise _wrong("call_apart_hours", "several valuations at one moment are one: at least 1")
    if covenant.parties.lender == covenant.parties.borrower:
        raise CovenantRefused(
            CovenantRefusal.SAME_PARTY, "parties.borrower: the lender itself: a covenant takes two"
        )


def check_signed(envelope: Envelope, known: Collection[Signatory]) -> Covenant:
    """The covenant in an envelope that its lender and its borrower signed, and nobody else.

    `known`: who may sign, as registered now. Raises CovenantRefused.
    """
    # (1) It is a covenant, in its one form.
    if envelope.payload_type != COVENANT_TYPE:
        raise CovenantRefused(CovenantRefusal.WRONG_TYPE, f"its type must be {COVENANT_TYPE}")
    covenant = decode(envelope.payload)
    # (2) Every signature is by a party that it names, and holds.
    named = {covenant.parties.lender: Role.LENDER, covenant.parties.borrower: Role.OPERATOR}
    for name, role in named.items():
        if not any(one.who == name and one.role is role for one in known):
            detail = f"there is no {role} {name}: see `assay-valuer party list`"
            raise CovenantRefused(CovenantRefusal.UNKNOWN_PARTY, detail)
    signers = [one for one in known if named.get(one.who) is one.role]
    signed = signed_by(envelope, signers)
    if len(signed) != len(envelope.signatures):
        detail = "a signature on it is no named party's over these very bytes: sign them anew"
        raise CovenantRefused(CovenantRefusal.BAD_SIGNATURE, detail)
    # (3) Both have signed, and they are two.
    if len({one.key.fingerprint for one in signers}) < len(signers):
        detail = "lender and borrower have one key: one person is one party"
        raise CovenantRefused(CovenantRefusal.SAME_PARTY, detail)
    missing = lacking((Role.LENDER, Role.OPERATOR), signed)
    if missing:
        detail = f"the {' and the '.join(missing)} has not signed it"
        raise CovenantRefused(CovenantRefusal.UNSIGNED, detail)
    return covenant


def _wrong(field: str, what: str) -> CovenantRefused:
    return CovenantRefused(CovenantRefusal.MALFORMED, f"{field}: {what}")
