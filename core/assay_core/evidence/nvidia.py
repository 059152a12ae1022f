"""NVIDIA's device evidence: a report that a GPU or an NVSwitch signed, and who it was.

Rules, in order; each raises and nothing half-succeeds:

1. The report parses, every byte of it (spdm.py).
2. Its chain leads to NVIDIA's pinned device root (chain.py).
3. The AK of that chain signed the report: ECDSA on P-384 over SHA-384 of request and response.
4. The firmware id in the report, where it has one, is the one that the AK belongs to.
5. The nonce is the one that was asked for, where the caller knows it.

A good report says that a genuine device of this chip answered this nonce. It says nothing of where
the device is, who owns it or what it does, and it can be relayed. A report may be altered into a
twin that verifies too (r, n - s): know it by nonce and identity, never by its hash.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from assay_core.evidence import chain as chains
from assay_core.evidence import spdm
from assay_core.printable import printable

_DRIVER: Final = 3
_VBIOS: Final = 6
_FWID: Final = 20
_SWITCH_PDIS: Final = 22
_GPU_PDIS: Final = 26
_FEATURE: Final = 36
_FEATURES: Final = {0: "single_gpu", 1: "multi_gpu", 2: "protected_pcie"}
_FEATURE_BYTES_MAX: Final = 8
_INT: Final = 48
_VBIOS_BYTES: Final = 8
_TEXT_MAX: Final = 64


class BadEvidence(ValueError):
    """The evidence proves nothing; says why. The host's fault, or its hardware's."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a device gave: the report's bytes, and its certificates, leaf first."""

    report: bytes
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """A device that answered. `switches` or `gpus` are the PDIs of those it is linked to."""

    device: chains.Device
    nonce: bytes
    driver: str | None
    vbios: str | None
    feature: str | None
    firmware_bound: bool
    """Whether the report names the AK's firmware; older firmware does not."""
    switches: tuple[int, ...]
    gpus: tuple[int, ...]
    report: spdm.Report

    @property
    def key(self) -> tuple[bytes, str]:
        """What this proof is known by: nonce and identity. Its twin (r, n - s) has the same."""
        return self.nonce, self.device.identity


def verify(
    evidence: Evidence,
    *,
    nonce: bytes | None,
    now_ms: int,
    roots: Collection[str] = chains.DEVICE_ROOTS,
) -> Proof:
    """What the evidence proves. Raises BadEvidence."""
    try:
        report = spdm.parse(evidence.report)
        device = chains.verify(evidence.chain, now_ms, roots)
    except (spdm.MalformedReport, chains.UntrustedChain) as error:
        raise BadEvidence(str(error)) from error
    _check_signature(report, device)
    fwid = report.opaque.get(_FWID)
    if fwid is not None and fwid not in device.fwids:
        raise BadEvidence("the report is of other firmware than its certificate")
    if nonce is not None and report.nonce != nonce:
        raise BadEvidence("the report answers another nonce")
    gpu = device.kind == "gpu"
    return Proof(
        device=device,
        nonce=report.nonce,
        driver=_text(report.opaque.get(_DRIVER)),
        vbios=_vbios(report.opaque.get(_VBIOS), gpu=gpu),
        feature=_feature(report.opaque.get(_FEATURE)),
        firmware_bound=fwid is not None,
        switches=_pdis(report.opaque.get(_SWITCH_PDIS), 18, "little") if gpu else (),
        gpus=() if gpu else _pdis(report.opaque.get(_GPU_PDIS), 8, "big"),
        report=report,
    )


def _check_signature(report: spdm.Report, device: chains.Device) -> None:
    r = int.from_bytes(report.signature[:_INT], "big")
    s = int.from_bytes(report.signature[_INT:], "big")
    try:
        device.attestation_key.verify(
            encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384())
        )
    except InvalidSignature as error:
        raise BadEvidence("the report was not signed by its certificate's key") from error


def _text(field: bytes | None) -> str | None:
    """A text that ends at its first NUL; what does not print is shown escaped."""
    if field is None:
        return None
    return printable(field.split(b"\0", 1)[0].decode("utf-8", "replace"), _TEXT_MAX) or None


def _vbios(field: bytes | None, *, gpu: bool) -> str | None:
    """A GPU packs it into eight bytes, the fifth the last; a switch writes it out."""
    if field is None or not gpu:
        return _text(field)
    if len(field) != _VBIOS_BYTES:
        raise BadEvidence("the VBIOS version is not eight bytes")
    return ".".join(f"{field[place]:02X}" for place in (3, 2, 1, 0, 4))


def _feature(field: bytes | None) -> str | None:
    if field is None:
        return None
    if len(field) > _FEATURE_BYTES_MAX:
        raise BadEvidence(f"the feature flag has {len(field)} bytes")
    number = int.from_bytes(field, "little")
    return _FEATURES.get(number, f"unknown ({number})")


def _pdis(field: bytes | None, most: int, order: Literal["little", "big"]) -> tuple[int, ...]:
    """PDIs as a report lists them, 64 bits each; here ascending and each once.

    A GPU writes those of its switches little-endian, a switch those of its GPUs big-endian, as the
    certificates have them (seen in NVIDIA's HGX samples). A switch's map of ports is left aside.
    """
    if field is None:
        return ()
    if len(field) < most * chains.PDI_BYTES:
        raise BadEvidence("the list of linked devices is cut short")
    found = {
        int.from_bytes(field[at : at + chains.PDI_BYTES], order)
        for at in range(0, most * chains.PDI_BYTES, chains.PDI_BYTES)
    }
    return tuple(sorted(found - {0}))


@dataclass(frozen=True, slots=True)
class Topology:
    """Whether devices that answered one nonce are one baseboard, by their own signatures.

    `whole`: every GPU names exactly the switches here, and every switch exactly the GPUs here.
    `why` says what does not fit.
    """

    gpus: tuple[str, ...]
    switches: tuple[str, ...]
    whole: bool
    why: str


def topology(proofs: Sequence[Proof]) -> Topology:
    """What the proofs together show. A baseboard has one GPU and one switch at least."""
    gpus = [proof for proof in proofs if proof.device.kind == "gpu"]
    switches = [proof for proof in proofs if proof.device.kind != "gpu"]
    why = _why_not_whole(gpus, switches)
    return Topology(
        gpus=tuple(sorted(proof.device.identity for proof in gpus)),
        switches=tuple(sorted(proof.device.identity for proof in switches)),
        whole=not why,
        why=why or "every GPU and every switch names the others",
    )


def _why_not_whole(gpus: Sequence[Proof], switches: Sequence[Proof]) -> str:
    everyone = [*gpus, *switches]
    if not gpus or not switches:
        return "GPUs and switches are both needed"
    if len({proof.device.identity for proof in everyone}) != len(everyone):
        return "a device is there twice"
    if len({proof.nonce for proof in everyone}) != 1:
        return "they answered different nonces"
    gpu_pdis = tuple(sorted(proof.device.pdi for proof in gpus))
    switch_pdis = tuple(sorted(proof.device.pdi for proof in switches))
    for proof in gpus:
        if proof.switches != switch_pdis:
            return f"GPU {proof.device.pdi:016X} is linked to other switches than those here"
    for proof in switches:
        if proof.gpus != gpu_pdis:
            return f"switch {proof.device.pdi:016X} is linked to other GPUs than those here"
    return ""
