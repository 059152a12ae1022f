"""What a collector of evidence is, and what it answers for each GPU.

A collector checks the form of what it was given, so that a fault is named where it can be mended.
It verifies no signature: that is for whoever relies on the evidence (assay_core.evidence.nvidia).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from assay_agent.evidence.why import Why
from assay_core.evidence import spdm
from assay_core.evidence.origin import Origin


@dataclass(frozen=True, slots=True)
class Collected:
    """A report over the nonce and its certificates, PEM, leaf first. Whose they are they say."""

    origin: Origin
    report: bytes
    chain_pem: bytes


@dataclass(frozen=True, slots=True)
class Unobtainable:
    """A GPU that gave no evidence, and why.

    `gpu` names it for a person: an NVML UUID, or what corelib calls it; empty when it is about all
    of the host's GPUs.
    """

    origin: Origin
    why: Why
    gpu: str = ""
    detail: str = ""

    def __str__(self) -> str:
        said = f"{self.why.what} ({self.detail})" if self.detail else self.why.what
        return f"{self.gpu}: {said}" if self.gpu else said


Answer = Collected | Unobtainable


class Collector(Protocol):
    """The seam behind which a way to the devices stands."""

    async def collect(self, nonce: bytes) -> tuple[Answer, ...]:
        """Evidence of every GPU for a nonce of 32 bytes, or the reason for each that gave none.

        Takes bounded time. Raises ValueError for a nonce of another length, and nothing for what
        drivers, libraries and devices do.
        """
        ...


def check_nonce(nonce: bytes) -> bytes:
    """The nonce. Raises ValueError for one that no report can hold."""
    if len(nonce) != spdm.NONCE_BYTES:
        raise ValueError(f"a nonce has {spdm.NONCE_BYTES} bytes, not {len(nonce)}")
    return nonce


def admit(origin: Origin, gpu: str, nonce: bytes, report: bytes, chain_pem: bytes) -> Answer:
    """What a device gave, if it has the form of evidence for this nonce."""
    from assay_core.evidence import chain  # noqa: PLC0415 - hashlib: memory, where it is not used

    try:
        parsed = spdm.parse(report)
        chain.read(chain_pem)
    except (spdm.MalformedReport, chain.UntrustedChain) as error:
        return Unobtainable(origin, Why.MALFORMED, gpu, str(error))
    if parsed.nonce != nonce:
        return Unobtainable(origin, Why.OTHER_NONCE, gpu)
    return Collected(origin, report, chain_pem)
