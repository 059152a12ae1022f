"""A host's side of evidence: a statement, signed, with the bytes that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from assay_core import codec
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import Device, Statement
from assay_core.seal import EVIDENCE_TYPE, Envelope, Signer, sign_envelope


@dataclass(frozen=True, slots=True)
class SealedEvidence:
    """A statement as it travels: signed, with the report and then the chain of each device."""

    envelope: Envelope
    blobs: tuple[bytes, ...]


def seal(statement: Statement, blobs: Sequence[bytes], signer: Signer) -> SealedEvidence:
    """The statement, signed by the host's sealing key, with the bytes that it names."""
    payload = codec.encode_evidence(statement)
    return SealedEvidence(sign_envelope(EVIDENCE_TYPE, payload, signer), tuple(blobs))


def device(origin: Origin, report: bytes, chain_pem: bytes) -> Device:
    """A device of a statement, of these bytes."""
    digests = (hashlib.sha256(blob).digest() for blob in (report, chain_pem))
    return Device(origin, *digests)
