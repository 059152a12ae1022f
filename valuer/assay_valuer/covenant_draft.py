"""Covenant files before they are taken: as somebody wrote them, and signed by a party's key."""

from __future__ import annotations

import msgspec

from assay_core import covenant, envelope_json, files
from assay_core.covenant import Covenant
from assay_core.errors import FileError
from assay_core.seal import COVENANT_TYPE, Envelope
from assay_valuer.appraisal_draft import is_appraisal, read_appraisal
from assay_valuer.events.draft import read_event


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to know what a file holds."""

    payloadType: str | None = None  # noqa: N815 - DSSE's own name
    thresholds: dict[str, object] | None = None


def read_covenant(text: str, name: str) -> Envelope:
    """A covenant as a file holds it: written by hand, and then unsigned, or in an envelope.

    Raises FileError, with line and field where it was written by hand.
    """
    if files.parse(text, _Form, name).payloadType is None:
        written = files.parse(text, Covenant, name)
        covenant.validate(written)
        return Envelope(covenant.encode(written), COVENANT_TYPE, ())
    envelope = envelope_json.load(text, name)
    if envelope.payload_type != COVENANT_TYPE:
        raise FileError(f"{name}: payloadType: not a covenant ({COVENANT_TYPE})")
    covenant.decode(envelope.payload)
    return envelope


def read_statement(text: str, name: str) -> Envelope:
    """What a party is asked to sign: an appraisal, a covenant, or else an asset event.

    Raises FileError.
    """
    if is_appraisal(text, name):
        return read_appraisal(text, name)
    form = files.parse(text, _Form, name)
    if form.payloadType == COVENANT_TYPE or form.thresholds is not None:
        return read_covenant(text, name)
    return read_event(text, name)
