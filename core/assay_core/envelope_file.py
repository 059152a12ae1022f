"""A DSSE envelope as a file: DSSE's own JSON form, which other tools read and sign too."""

from __future__ import annotations

from typing import Final

import msgspec

from assay_core import files
from assay_core.errors import FileError
from assay_core.seal import Envelope, Signature

SIGNATURES_MAX: Final = 16


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    sig: bytes
    keyid: str = ""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    payload: bytes
    payloadType: str  # noqa: N815 - DSSE's own name
    signatures: tuple[_Signature, ...]


def dump(envelope: Envelope) -> str:
    """The file's text."""
    file = _Envelope(
        payload=envelope.payload,
        payloadType=envelope.payload_type,
        signatures=tuple(_Signature(sig=one.sig, keyid=one.keyid) for one in envelope.signatures),
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1).decode() + "\n"


def load(text: str, name: str) -> Envelope:
    """Reads the file called `name`. Raises FileError with the line and field of what is wrong."""
    file = files.parse(text, _Envelope, name)
    if len(file.signatures) > SIGNATURES_MAX:
        raise FileError(f"{name}: signatures: at most {SIGNATURES_MAX}")
    return Envelope(
        file.payload,
        file.payloadType,
        tuple(Signature(one.sig, one.keyid) for one in file.signatures),
    )
