"""Evidence of one host: sealed on the host, judged at the valuer's door, and judged again by anyone.

`admit` asks whether an answer fits the challenge that was sent: the valuer's business, at receipt.
`prove` asks what the evidence shows, and needs nothing but the bytes, the host's enrolled keys and
the time: the valuer's projection and an auditor come to the same. Its steps:

 1. envelope     of the type, signed by a key enrolled for the host       malformed, bad_signature
 2. statement    strict, of this host and incarnation                     malformed, wrong_host
 3. blobs        exactly those whose digests are signed                   blob_mismatch
 4. quote        by the enrolled AK, over these PCRs, challenge, window   bad_quote, not_bound
                 and devices
 5. devices      each by itself: a bad one is set aside with its reason

A quote that does not hold refuses the whole: it is the host's own. A device's report that does not
hold is that device's, and the others count.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from assay_core import codec
from assay_core.errors import HostError
from assay_core.evidence import chain as chains
from assay_core.evidence import nvidia, tpm
from assay_core.evidence.origin import Origin
from assay_core.evidence.sealed import SealedEvidence
from assay_core.evidence.spdm import REPORT_BYTES_MAX
from assay_core.evidence.statement import Statement, device_nonce, quote_extra
from assay_core.header import Source
from assay_core.printable import printable
from assay_core.seal import EVIDENCE_TYPE, PublicKey

STATEMENT_BYTES_MAX: Final = 16 * 1024
ABSENT_MAX: Final = 500
"""Characters of a host's reason why devices gave no evidence."""


class Outcome(enum.StrEnum):
    """What became of an answer. The value is the wire name and the metric's label."""

    ACCEPTED = "accepted"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    WRONG_HOST = "wrong_host"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    UNKNOWN_CHALLENGE = "unknown_challenge"
    REPLAYED = "replayed"
    LATE = "late"
    NOT_ASKED = "not_asked"
    UNKNOWN_WINDOW = "unknown_window"
    BLOB_MISMATCH = "blob_mismatch"
    NO_QUOTE = "no_quote"
    BAD_QUOTE = "bad_quote"
    WRONG_PCRS = "wrong_pcrs"
    NOT_BOUND = "not_bound"
    UNAVAILABLE = "unavailable"


class EvidenceRefused(HostError):
    """The answer was not taken, and proves nothing; says which outcome and why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{outcome.value}: {detail}")
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A host's sealing key, and the AK that certified it; None for a software key."""

    public: PublicKey
    attestation: tpm.Public | None = None

    @property
    def name(self) -> bytes:
        """By what a device's nonce names the host: the AK's name, or the key's fingerprint."""
        if self.attestation is not None:
            return self.attestation.name
        return bytes.fromhex(self.public.fingerprint)


@dataclass(frozen=True, slots=True)
class Keys:
    """What enrolment says of a host: who it is, and every key that may have sealed for it."""

    host_id: str
    incarnation: int
    sealing: tuple[SealingKey, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge as it was sent: when, until when, what for, and where the chain's head was.

    `head_sequence` is None where the host had sealed nothing yet.
    """

    nonce: bytes
    sent_ms: int
    deadline_ms: int
    pcrs: tuple[int, ...]
    devices: bool
    head_sequence: int | None
    answered: bool = False


@dataclass(frozen=True, slots=True)
class DeviceProof:
    """A device that answered, and who fetched its report."""

    proof: nvidia.Proof
    origin: Origin
    chain_pem: bytes


@dataclass(frozen=True, slots=True)
class Proven:
    """What evidence shows. `quoted` is None without a TPM's quote.

    `failed` says of devices whose reports do not hold why, in words. `topology` is None where no
    device names others.
    """

    statement: Statement
    signer: SealingKey
    quoted: tpm.Attested | None
    devices: tuple[DeviceProof, ...]
    failed: tuple[str, ...]
    topology: nvidia.Topology | None

    @property
    def absent(self) -> str:
        """Why devices gave no evidence: the host's own word, fit for a log and a terminal."""
        return printable(self.statement.devices_absent, ABSENT_MAX)


def admit(
    statement: Statement,
    asked: Asked | None,
    window_hash: bytes | None,
    sources: Collection[Source],
    now_ms: int,
) -> Asked:
    """Whether a statement answers a challenge, in time, once, for a recent window of this chain.

    `asked` is the challenge of its nonce, if there was one to this host; `window_hash` what the
    receiver holds at the sequence that it names. Raises EvidenceRefused.
    """
    if statement.source not in sources:
        raise EvidenceRefused(
            Outcome.SOURCE_NOT_ALLOWED,
            f"source {statement.source.name.lower()} is not accepted by this valuer's policy",
        )
    if asked is None:
        raise EvidenceRefused(Outcome.UNKNOWN_CHALLENGE, "no such challenge was sent to this host")
    if asked.answered:
        raise EvidenceRefused(Outcome.REPLAYED, "this challenge was answered already")
    if now_ms > asked.deadline_ms:
        raise EvidenceRefused(Outcome.LATE, f"{now_ms - asked.deadline_ms} ms after its deadline")
    old = asked.head_sequence is not None and statement.sequence < asked.head_sequence
    if old or window_hash != statement.header_hash:
        raise EvidenceRefused(
            Outcome.UNKNOWN_WINDOW,
            f"window {statement.sequence} is not the newest of this host's chain",
        )
    if statement.devices and not asked.devices:
        raise EvidenceRefused(
            Outcome.NOT_ASKED, "devices were not asked: when they are is not their host's choice"
        )
    quoted = () if statement.quote is None else tuple(sorted(statement.quote.pcrs))
    if asked.pcrs and statement.quote is None:
        raise EvidenceRefused(Outcome.NO_QUOTE, "the host has a TPM, and gave no quote")
    if asked.pcrs and quoted != asked.pcrs:
        raise EvidenceRefused(
            Outcome.WRONG_PCRS, f"PCRs {list(quoted)} were quoted, {list(asked.pcrs)} were asked"
        )
    return asked


def read(sealed: SealedEvidence, keys: Keys) -> tuple[Statement, SealingKey]:
    """The statement and the key that signed it: steps 1 and 2. Raises EvidenceRefused."""
    envelope = sealed.envelope
    if len(envelope.payload) > STATEMENT_BYTES_MAX:
        raise EvidenceRefused(
            Outcome.TOO_LARGE, f"the statement is over {STATEMENT_BYTES_MAX} bytes"
        )
    bounds = itertools.cycle((REPORT_BYTES_MAX, chains.CHAIN_BYTES_MAX))
    if any(len(blob) > most for blob, most in zip(sealed.blobs, bounds, strict=False)):
        raise EvidenceRefused(Outcome.TOO_LARGE, "a report or a chain is longer than any is")
    if envelope.payload_type != EVIDENCE_TYPE or len(envelope.signatures) != 1:
        raise EvidenceRefused(Outcome.MALFORMED, f"not one signature over {EVIDENCE_TYPE}")
    given = envelope.signatures[0].sig
    signers = [
        key
        for key in keys.sealing
        if key.public.verifies(given, envelope.payload_type, envelope.payload)
    ]
    if not signers:
        raise EvidenceRefused(Outcome.BAD_SIGNATURE, "no key enrolled for this host signed it")
    try:
        statement = codec.decode_evidence(envelope.payload)
    except codec.Malformed as error:
        raise EvidenceRefused(Outcome.MALFORMED, str(error)) from error
    if (statement.host_id, statement.incarnation) != (keys.host_id, keys.incarnation):
        raise EvidenceRefused(Outcome.WRONG_HOST, "the statement names another host")
    return statement, signers[0]


def prove(
    sealed: SealedEvidence,
    keys: Keys,
    *,
    now_ms: int,
    roots: Collection[str] = chains.DEVICE_ROOTS,
) -> Proven:
    """What the evidence shows, steps 1 to 5. Raises EvidenceRefused."""
    statement, signer = read(sealed, keys)
    _check_blobs(statement, sealed.blobs)
    quoted = _quoted(statement, signer)
    nonce = device_nonce(statement.challenge, signer.name, statement.header_hash)
    proofs: dict[str, DeviceProof] = {}
    failed: list[str] = []
    for place, one in enumerate(statement.devices):
        report, chain_pem = sealed.blobs[2 * place : 2 * place + 2]
        try:
            evidence = nvidia.Evidence(report, chains.read(chain_pem))
            proof = nvidia.verify(evidence, nonce=nonce, now_ms=now_ms, roots=roots)
        except (nvidia.BadEvidence, chains.UntrustedChain) as error:
            failed.append(f"device {place}: {error}")
            continue
        if proof.device.identity in proofs:
            failed.append(f"device {place}: it answered twice")
            continue
        proofs[proof.device.identity] = DeviceProof(proof, one.origin, chain_pem)
    found = [one.proof for one in proofs.values()]
    linked = any(proof.switches or proof.gpus for proof in found)
    return Proven(
        statement=statement,
        signer=signer,
        quoted=quoted,
        devices=tuple(proofs.values()),
        failed=tuple(failed),
        topology=nvidia.topology(found) if linked else None,
    )


def _check_blobs(statement: Statement, blobs: Sequence[bytes]) -> None:
    signed = [
        digest for one in statement.devices for digest in (one.report_sha256, one.chain_sha256)
    ]
    if signed != [hashlib.sha256(blob).digest() for blob in blobs]:
        raise EvidenceRefused(Outcome.BLOB_MISMATCH, "the reports are not those that were signed")


def _quoted(statement: Statement, signer: SealingKey) -> tpm.Attested | None:
    quote = statement.quote
    if quote is None:
        return None
    if signer.attestation is None:
        raise EvidenceRefused(Outcome.BAD_QUOTE, "no attestation key is enrolled for this host")
    try:
        attested = tpm.quote(quote.attest, quote.signature, signer.attestation)
    except tpm.BadTpm as error:
        raise EvidenceRefused(Outcome.BAD_QUOTE, str(error)) from error
    if attested.selection != frozenset(quote.pcrs) or not attested.selection:
        raise EvidenceRefused(Outcome.WRONG_PCRS, "the quote is over other PCRs than stated")
    if attested.digest != tpm.pcr_digest(dict(quote.pcrs)):
        raise EvidenceRefused(Outcome.WRONG_PCRS, "the PCR values are not those quoted")
    extra = quote_extra(statement.challenge, statement.header_hash, statement.devices)
    if attested.extra != extra:
        raise EvidenceRefused(
            Outcome.NOT_BOUND, "the quote is of another challenge, window or devices"
        )
    return attested
