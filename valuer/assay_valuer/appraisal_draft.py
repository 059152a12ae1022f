"""Appraisals before they are taken: as their appraiser wrote them, and signed by that party's key."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import msgspec

from assay_core import appraisal, envelope_json, files
from assay_core.appraisal import Appraisal, Appraised
from assay_core.covenant import Premise
from assay_core.errors import FileError
from assay_core.money import Usd
from assay_core.seal import APPRAISAL_TYPE, Envelope


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to know what a file holds."""

    payloadType: str | None = None  # noqa: N815 - DSSE's own name
    effective_on: str | None = None


class _WrittenGpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A GPU as a person writes it: in dollars, for a zero too many in micro-dollars is soon written."""

    serial: str
    board_part_number: str
    usd: str


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An appraisal as a person writes it, its GPUs in any order."""

    appraiser: str
    premise: Premise
    effective_on: date
    document_sha256: str
    assets: Annotated[
        tuple[_WrittenGpu, ...], msgspec.Meta(min_length=1, max_length=appraisal.ASSETS_MAX)
    ]


def is_appraisal(text: str, name: str) -> bool:
    """Whether a file holds an appraisal, in either form. Raises FileError where it is no such file."""
    form = files.parse(text, _Form, name)
    return form.payloadType == APPRAISAL_TYPE or form.effective_on is not None


def read_appraisal(text: str, name: str) -> Envelope:
    """An appraisal as a file holds it: written by hand, and then unsigned, or in an envelope.

    Raises FileError, with line and field where it was written by hand.
    """
    if files.parse(text, _Form, name).payloadType is None:
        return _unsigned(files.parse(text, _Written, name), text, name)
    envelope = envelope_json.load(text, name)
    if envelope.payload_type != APPRAISAL_TYPE:
        raise FileError(f"{name}: payloadType: not an appraisal ({APPRAISAL_TYPE})")
    appraisal.decode(envelope.payload)
    return envelope


def _unsigned(written: _Written, text: str, name: str) -> Envelope:
    gpus = []
    for index, one in enumerate(written.assets):
        try:
            micros = Usd.parse(one.usd).micros
        except FileError as error:
            line = files.line_of(text, ("assets", index, "usd"))
            raise FileError(f"{name}:{line}: assets.{index}.usd: {error}") from error
        gpus.append(
            Appraised(serial=one.serial, board_part_number=one.board_part_number, usd_micros=micros)
        )
    gpus.sort(key=lambda gpu: gpu.subject)
    made = Appraisal(
        appraiser=written.appraiser,
        premise=written.premise,
        effective_on=written.effective_on,
        document_sha256=written.document_sha256,
        assets=tuple(gpus),
    )
    # What a person wrote is checked as what is signed is: by reading it back.
    payload = appraisal.encode(made)
    appraisal.decode(payload)
    return Envelope(payload, APPRAISAL_TYPE, ())
