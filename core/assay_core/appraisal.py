"""A third party's appraisal: what a registered appraiser signed that GPUs are worth on a day.

The signed bytes are the appraisal's canonical JSON: keys sorted, no spaces. One appraisal has one
such form, and any other bytes are refused. It says who appraised, under which premise, as of which
day, by which document, and for each GPU by what stands on its board how many micro-dollars. Who may
appraise, and for which GPUs, is the valuer's to know: here it is only whether the named one signed.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from datetime import date
from typing import Annotated, Final

import msgspec

from assay_core.asset_events import MICROS_MAX, Sha256, Subject, Word
from assay_core.covenant import PartyName, Premise
from assay_core.errors import FileError
from assay_core.seal import APPRAISAL_TYPE, Envelope
from assay_core.signatories import Role, Signatory, signed_by

ASSETS_MAX: Final = 4_096
"""GPUs in one appraisal: a larger fleet takes several."""
PAYLOAD_BYTES_MAX: Final = 1024 * 1024


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How everything here is read: strictly."""


class Appraised(_Struct, frozen=True):
    """One GPU by what stands on its board, and what it is worth."""

    serial: Word
    board_part_number: Word
    usd_micros: Annotated[int, msgspec.Meta(ge=1, le=MICROS_MAX)]

    @property
    def subject(self) -> Subject:
        """The GPU."""
        return Subject(serial=self.serial, board_part_number=self.board_part_number)


class Appraisal(_Struct, frozen=True):
    """One appraisal."""

    appraiser: PartyName
    premise: Premise
    effective_on: date
    """The day, UTC, as of which the GPUs are worth this; not the day of the report."""
    document_sha256: Sha256
    """Of the report that says so."""
    assets: Annotated[tuple[Appraised, ...], msgspec.Meta(min_length=1, max_length=ASSETS_MAX)]
    """Ascending by serial and part, none twice."""


class AppraisalRefusal(enum.StrEnum):
    """Why an appraisal was not taken."""

    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_PARTY = "unknown_party"
    INTERESTED = "interested"
    FROM_THE_FUTURE = "from_the_future"
    TOO_OLD = "too_old"
    UNKNOWN_GPU = "unknown_gpu"
    WITHDRAWN = "withdrawn"


class AppraisalRefused(FileError):
    """An appraisal that is not taken, and nothing of it; `reason` says why, for machines."""

    def __init__(self, reason: AppraisalRefusal, detail: str) -> None:
        super().__init__(f"the appraisal: {reason.value}: {detail}")
        self.reason: Final = reason


def encode(appraisal: Appraisal) -> bytes:
    """The canonical JSON that is signed."""
    return msgspec.json.encode(appraisal, order="sorted")


def decode(payload: bytes) -> Appraisal:
    """The appraisal in signed bytes, validated. Raises AppraisalRefused, naming the field."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        detail = f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are taken"
        raise AppraisalRefused(AppraisalRefusal.MALFORMED, detail)
    try:
        appraisal = msgspec.json.decode(payload, type=Appraisal, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AppraisalRefused(AppraisalRefusal.MALFORMED, f"cannot be read: {error}") from error
    validate(appraisal)
    if encode(appraisal) != payload:
        raise AppraisalRefused(
            AppraisalRefusal.MALFORMED,
            "not in its canonical form (keys sorted, no spaces, nothing twice); write it as a file "
            "and sign that with `assay-valuer party sign`",
        )
    return appraisal


def validate(appraisal: Appraisal) -> None:
    """The rule between GPUs. Raises AppraisalRefused, naming the field."""
    subjects = [one.subject for one in appraisal.assets]
    if subjects != sorted(set(subjects)):
        raise AppraisalRefused(
            AppraisalRefusal.MALFORMED, "assets: ascending by serial and part number, none twice"
        )


def check_date(appraisal: Appraisal, today: date, *, age_max_days: int) -> None:
    """That it may be taken on the day `today`, UTC. Raises AppraisalRefused."""
    age_days = (today - appraisal.effective_on).days
    if age_days < 0:
        detail = (
            f"effective_on: {appraisal.effective_on} is yet to come: nobody knows what it brings"
        )
        raise AppraisalRefused(AppraisalRefusal.FROM_THE_FUTURE, detail)
    if age_days > age_max_days:
        detail = (
            f"effective_on: {appraisal.effective_on} is {age_days} days ago, and after "
            f"{age_max_days} an appraisal counts for nothing: have it made anew"
        )
        raise AppraisalRefused(AppraisalRefusal.TOO_OLD, detail)


def check_signed(envelope: Envelope, known: Collection[Signatory]) -> Appraisal:
    """The appraisal in an envelope that its appraiser signed, and nobody else.

    `known`: who may sign, as registered now. Raises AppraisalRefused.
    """
    # (1) It is an appraisal, in its one form.
    if envelope.payload_type != APPRAISAL_TYPE:
        raise AppraisalRefused(AppraisalRefusal.WRONG_TYPE, f"its type must be {APPRAISAL_TYPE}")
    appraisal = decode(envelope.payload)
    # (2) Whom it names may appraise.
    named = [one for one in known if one.who == appraisal.appraiser and one.role is Role.APPRAISER]
    if not named:
        detail = f"there is no appraiser {appraisal.appraiser}: see `assay-valuer party list`"
        raise AppraisalRefused(AppraisalRefusal.UNKNOWN_PARTY, detail)
    # (3) That one signed these bytes, and no other signature is beside it.
    if not envelope.signatures:
        detail = f"{appraisal.appraiser} has not signed it"
        raise AppraisalRefused(AppraisalRefusal.UNSIGNED, detail)
    if len(envelope.signatures) != 1 or not signed_by(envelope, named):
        detail = f"not by {appraisal.appraiser}'s key alone, over these very bytes: sign it anew"
        raise AppraisalRefused(AppraisalRefusal.BAD_SIGNATURE, detail)
    return appraisal
