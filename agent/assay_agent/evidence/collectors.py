"""From the configuration to the collectors it names, and one question to all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from assay_agent.config import EvidenceConfig
from assay_agent.evidence.collector import Answer, Collected, Collector, Unobtainable
from assay_agent.telemetry.attestor import Attestation
from assay_agent.telemetry.reading import GpuSource
from assay_core.errors import FileError


@runtime_checkable
class _Attesting(Protocol):
    """A source whose driver can be asked."""

    async def attest(self, nonce: bytes) -> Attestation: ...


def make_collectors(config: EvidenceConfig, source: GpuSource) -> tuple[Collector, ...]:
    """What is switched on; nothing, by default. `source` is the one that is polled.

    Raises FileError where the source has no driver to ask: a simulation, say.
    """
    found: list[Collector] = []
    if config.nvml:
        if not isinstance(source, _Attesting):
            raise FileError("evidence.nvml: only a source that reads a driver has evidence")
        from assay_agent.evidence.nvml import NvmlCollector  # noqa: PLC0415 - memory: off on most

        found.append(NvmlCollector(source))
    if config.corelib is not None:
        from assay_agent.evidence.corelib_collector import (  # noqa: PLC0415 - as above
            CorelibCollector,
        )

        found.append(CorelibCollector(config.corelib))
    return tuple(found)


async def collect(collectors: Sequence[Collector], nonce: bytes) -> tuple[Answer, ...]:
    """What they answer, one collector after another, in their order. Raises as a Collector does."""
    found: list[Answer] = []
    for collector in collectors:
        found += await collector.collect(nonce)
    return tuple(found)


def collected(answers: Sequence[Answer]) -> tuple[Collected, ...]:
    """The evidence among them, once for each device: where two ways lead to it, the first one's."""
    found: dict[bytes, Collected] = {}
    for answer in answers:
        if isinstance(answer, Collected):
            found.setdefault(_device(answer), answer)
    return tuple(found.values())


def _device(given: Collected) -> bytes:
    """Whose it is: the certificate of its identity key, which its leaf was issued by."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - as above

    from assay_core.evidence import chain  # noqa: PLC0415 - as above

    issuers = chain.read(given.chain_pem)[1:2]
    return issuers[0].fingerprint(SHA256()) if issuers else given.chain_pem


def absent(answers: Sequence[Answer]) -> str:
    """Why GPUs gave none, as names with how many: "cc_off: 8"; empty where each gave some."""
    reasons = Counter(answer.why for answer in answers if isinstance(answer, Unobtainable))
    return ", ".join(f"{why}: {count}" for why, count in sorted(reasons.items()))
