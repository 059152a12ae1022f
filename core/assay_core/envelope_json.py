"""DSSE envelopes as JSON, in DSSE's own form, and bytes as base64: what files for others are made of."""

from __future__ import annotations

import base64
import binascii

import msgspec

from assay_core import files
from assay_core.errors import FileError
from assay_core.seal import Envelope, Signature


class SignatureJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signature, and the hint which key made it."""

    keyid: str
    sig: str


class EnvelopeJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An envelope; see github.com/secure-systems-lab/dsse/blob/master/envelope.md."""

    payload: str
    payloadType: str  # noqa: N815 - DSSE's own name
    signatures: list[SignatureJson]


def to_json(envelope: Envelope) -> EnvelopeJson:
    """The envelope as files have it."""
    return EnvelopeJson(
        payload=encode(envelope.payload),
        payloadType=envelope.payload_type,
        signatures=[
            SignatureJson(keyid=item.keyid, sig=encode(item.sig)) for item in envelope.signatures
        ],
    )


def from_json(envelope: EnvelopeJson, where: str) -> Envelope:
    """The envelope that a file has. Raises FileError, which says `where` it was."""
    return Envelope(
        decode(envelope.payload, f"{where}.payload"),
        envelope.payloadType,
        tuple(
            Signature(decode(item.sig, f"{where}.signatures"), item.keyid)
            for item in envelope.signatures
        ),
    )


def dump(envelope: Envelope) -> str:
    """The text of a file that holds an envelope alone."""
    return msgspec.json.format(msgspec.json.encode(to_json(envelope)), indent=1).decode() + "\n"


def load(text: str, name: str) -> Envelope:
    """What `dump` wrote. Raises FileError with the line and field of what is wrong."""
    return from_json(files.parse(text, EnvelopeJson, name), name)


def encode(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def decode(text: str, where: str) -> bytes:
    """The bytes in base64. Raises FileError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FileError(f"{where}: not base64") from error
