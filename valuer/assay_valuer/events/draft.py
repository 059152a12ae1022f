"""Events before they are proposed: as a file that somebody wrote, and signed by a party's key."""

from __future__ import annotations

import uuid

import msgspec

from assay_core import asset_events, envelope_json, files
from assay_core.asset_events import AssetEvent
from assay_core.errors import FileError
from assay_core.seal import (
    ASSET_DECISION_TYPE,
    ASSET_EVENT_TYPE,
    Envelope,
    Signer,
    sign_envelope,
)
from assay_core.signatories import Decision, Verdict, encode_decision


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to know which of the two forms a file is in."""

    payloadType: str | None = None  # noqa: N815 - DSSE's own name


class _Written(AssetEvent, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event as a person writes it."""

    nonce: str = ""


def new_nonce() -> str:
    """What tells an event from one that is otherwise equal."""
    return str(uuid.uuid4())


def read_event(text: str, name: str) -> Envelope:
    """An event as a file holds it: written by hand, and then unsigned, or in an envelope.

    The fields of one that is written by hand are those of core's AssetEvent; a nonce is added where
    there is none. Raises FileError.
    """
    if files.parse(text, _Form, name).payloadType is not None:
        envelope = envelope_json.load(text, name)
        if envelope.payload_type != ASSET_EVENT_TYPE:
            raise FileError(f"{name}: payloadType: not an asset event ({ASSET_EVENT_TYPE})")
        asset_events.decode(envelope.payload)
        return envelope
    written = msgspec.structs.asdict(files.parse(text, _Written, name))
    return unsigned(AssetEvent(**written | {"nonce": written["nonce"] or new_nonce()}))


def unsigned(event: AssetEvent) -> Envelope:
    """The event in the bytes that are signed, validated. Raises FileError."""
    payload = asset_events.encode(event)
    asset_events.decode(payload)
    return Envelope(payload, ASSET_EVENT_TYPE, ())


def countersign(envelope: Envelope, signer: Signer) -> Envelope:
    """The envelope with one more signature over the same bytes."""
    (added,) = sign_envelope(envelope.payload_type, envelope.payload, signer).signatures
    others = tuple(one for one in envelope.signatures if one.keyid != added.keyid)
    return Envelope(envelope.payload, envelope.payload_type, (*others, added))


def decide(event_sha256: str, verdict: Verdict, why: str, signer: Signer) -> Envelope:
    """A party's signed word that an event is refused or withdrawn. Raises FileError."""
    if not 0 < len(why) <= 500:
        raise FileError("say why, in at most 500 characters: it stays in the ledger")
    decision = Decision(event_sha256=event_sha256, verdict=verdict, why=why)
    return sign_envelope(ASSET_DECISION_TYPE, encode_decision(decision), signer)
