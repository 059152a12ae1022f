"""Evidence files: what a host's hardware signed, as anyone is shown it, and how anyone checks it.

A file has the sealed statement and the exact bytes that it names. Whose keys speak for the host is
not the file's to say: that is in a trust file, from somebody else. Every step of bundle.prove is
taken again. That the challenge was fresh and nobody else's, only who sent it can say; the file tells
when it was sent and answered, and the valuer's ledger bears it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core import files
from assay_core.disclosure import Step
from assay_core.envelope_json import EnvelopeJson, decode, encode, from_json, to_json
from assay_core.errors import FileError
from assay_core.evidence import bundle, chain, tpm
from assay_core.evidence.bundle import EvidenceRefused, Outcome
from assay_core.evidence.sealed import SealedEvidence
from assay_core.instants import format_instant
from assay_core.verify import HostTrust

FORMAT: Final = "assay.evidence.v1"
_STEP_OF: Final = {Outcome.BLOB_MISMATCH: "reports"}
"""Which step an outcome of bundle.prove is of, beyond those of the quote."""


class _EvidenceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: str
    position: int
    asked_ms: int
    received_ms: int
    envelope: EnvelopeJson
    blobs: list[str]


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """Evidence as it was kept: at which position, when it was asked for, and when it came."""

    position: int
    asked_ms: int
    received_ms: int
    sealed: SealedEvidence


@dataclass(frozen=True, slots=True)
class Examined:
    """The steps as far as they were taken, and what was proved if they hold up to the devices."""

    steps: tuple[Step, ...]
    proven: bundle.Proven | None

    @property
    def holds(self) -> bool:
        """Whether every step holds."""
        return all(step.holds for step in self.steps)


def dump(file: EvidenceFile) -> str:
    """The file's text."""
    content = _EvidenceFile(
        format=FORMAT,
        position=file.position,
        asked_ms=file.asked_ms,
        received_ms=file.received_ms,
        envelope=to_json(file.sealed.envelope),
        blobs=[encode(blob) for blob in file.sealed.blobs],
    )
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def load(text: str, name: str) -> EvidenceFile:
    """Reads an evidence file. Raises FileError with the place of what is wrong."""
    file = files.parse(text, _EvidenceFile, name)
    if file.format != FORMAT:
        raise FileError(f"{name}: format is {file.format!r}; this version reads {FORMAT!r}")
    blobs = tuple(decode(blob, f"{name}: blobs[{at}]") for at, blob in enumerate(file.blobs))
    sealed = SealedEvidence(from_json(file.envelope, f"{name}: envelope"), blobs)
    return EvidenceFile(file.position, file.asked_ms, file.received_ms, sealed)


def keys_of(trust: HostTrust) -> bundle.Keys:
    """Who may sign a host's evidence, by a trust file. Raises FileError."""
    found: list[bundle.SealingKey] = []
    for key in trust.keys:
        blob = trust.attestation.get(key.fingerprint)
        try:
            ak = None if blob is None else tpm.public(blob)
        except tpm.BadTpm as error:
            raise FileError(f"trust: ak_public of {trust.host_id}: {error}") from error
        found.append(bundle.SealingKey(key, ak))
    return bundle.Keys(trust.host_id, trust.incarnation, tuple(found))


def examine(
    file: EvidenceFile, trusts: Collection[HostTrust], *, simulated: Collection[str] = ()
) -> Examined:
    """Checks a file step by step, and stops at the first step that does not hold.

    Certificates are judged as of when it came. `simulated` are SHA-256 of roots of simulated devices
    that are believed beside NVIDIA's. Raises FileError for a trust file that is wrong.
    """
    steps: list[Step] = []

    def take(name: str, check: Callable[[], str]) -> None:
        steps.append(Step(name, True, check()))

    try:
        keys = _trusted(file.sealed, trusts)
        statement, signer = bundle.read(file.sealed, keys)
        name = signer.public.fingerprint[:16]
        take("signature", lambda: f"by a key enrolled for {keys.host_id} (key {name})")
        take(
            "statement",
            lambda: (
                f"incarnation {statement.incarnation}, for window {statement.sequence}, collected "
                f"{format_instant(statement.collected_ms)} by the host's clock"
            ),
        )
        roots = chain.DEVICE_ROOTS | frozenset(simulated)
        proven = bundle.prove(file.sealed, keys, now_ms=file.received_ms, roots=roots)
    except EvidenceRefused as refused:
        failed = "quote" if len(steps) == 2 else "signature"
        steps.append(Step(_STEP_OF.get(refused.outcome, failed), False, str(refused)))
        return Examined(tuple(steps), None)
    take("reports", lambda: f"the bytes of {len(statement.devices)} are those that were signed")
    take("quote", lambda: _quote(proven))
    steps += _devices(proven, simulated)
    return Examined(tuple(steps), proven)


def _trusted(sealed: SealedEvidence, trusts: Collection[HostTrust]) -> bundle.Keys:
    """The keys, of the hosts that are trusted, that signed it; the statement says whose it is."""
    refused = EvidenceRefused(Outcome.BAD_SIGNATURE, "the trust file names no host")
    for trust in trusts:
        keys = keys_of(trust)
        try:
            bundle.read(sealed, keys)
        except EvidenceRefused as error:
            # Another host's keys; what is wrong with the bytes themselves says itself each time.
            refused = error
            continue
        return keys
    raise refused


def _quote(proven: bundle.Proven) -> str:
    if proven.quoted is None:
        return "none: the host's key is software, or no quote was asked for"
    pcrs = ", ".join(str(number) for number in sorted(proven.quoted.selection))
    clock = proven.quoted.clock
    return (
        f"a TPM's, over PCRs {pcrs}; it names this challenge, window and these reports; "
        f"reset {clock.reset_count} times, {clock.clock_ms} ms on its clock"
    )


def _devices(proven: bundle.Proven, simulated: Collection[str]) -> list[Step]:
    steps = [
        Step(
            "device",
            True,
            f"{one.proof.device.kind} {one.proof.device.chip}, identity "
            f"{one.proof.device.identity}{' SIMULATED' if _root(one) in simulated else ''}",
        )
        for one in proven.devices
    ]
    steps += [Step("device", False, failed) for failed in proven.failed]
    if not steps:
        steps.append(Step("devices", True, f"none: {proven.absent or 'none asked'}"))
    if proven.topology is not None:
        whole = "one whole baseboard" if proven.topology.whole else "not one whole baseboard"
        steps.append(Step("topology", True, f"{whole}: {proven.topology.why}"))
    return steps


def _root(one: bundle.DeviceProof) -> str:
    root = chain.read(one.chain_pem)[-1]
    return hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
