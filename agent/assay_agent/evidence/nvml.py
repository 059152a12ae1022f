"""Evidence through NVML's confidential-computing calls: in CC mode or protected PCIe, and no other.

The calls are made in a driver process (telemetry/attestor.py). The chain is a PEM text, leaf first:
so NVIDIA's own verifier takes it from NVML, and so its published samples are. Never run against a
GPU by us: docs/evidence-collectors.md says what was tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from assay_agent.evidence.collector import Answer, Unobtainable, admit, check_nonce
from assay_agent.evidence.why import Why
from assay_agent.telemetry.attestor import Attestation
from assay_agent.telemetry.calls import NOT_SUPPORTED, reason_of
from assay_agent.telemetry.fields import uuid_of
from assay_agent.telemetry.reading import Sample
from assay_agent.telemetry.wire import Attested
from assay_core.evidence.origin import Origin
from assay_core.leaves import Reason

_ORIGIN: Final = Origin.IN_BAND_NVML

_MULTI_GPU: Final = (1, 2)
"""NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE and _NVLE."""

_WHY: Final[Mapping[Reason, Why]] = MappingProxyType(
    {
        Reason.NOT_SUPPORTED: Why.NOT_SUPPORTED,
        Reason.NO_PERMISSION: Why.NO_PERMISSION,
        Reason.SYMBOL_MISSING: Why.DRIVER_TOO_OLD,
        Reason.GPU_LOST: Why.GPU_LOST,
        Reason.ASLEEP: Why.GPU_ASLEEP,
        Reason.DRIVER_ABSENT: Why.DRIVER_ABSENT,
        Reason.DRIVER_UNRESPONSIVE: Why.DRIVER_HANGS,
        Reason.DRIVER_ERROR: Why.DRIVER_ERROR,
        Reason.IN_MAINTENANCE: Why.IN_MAINTENANCE,
    }
)


class Driver(Protocol):
    """What can ask the driver's GPUs: NvmlSource, also within its Surroundings."""

    async def attest(self, nonce: bytes) -> Attestation:
        """Takes bounded time; raises nothing for what the driver does."""
        ...


class NvmlCollector:
    """See Collector."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def collect(self, nonce: bytes) -> tuple[Answer, ...]:
        """See Collector."""
        check_nonce(nonce)
        return answers(await self._driver.attest(nonce), nonce)


def answers(told: Attestation, nonce: bytes) -> tuple[Answer, ...]:
    """Each GPU's evidence or reason, from what the driver's process told."""
    found = [_answer(gpu, told.modes, nonce) for gpu in told.gpus]
    if told.why is not None:
        why = _WHY.get(told.why, Why.DRIVER_ERROR)
        detail = f"NVML code {told.code}" if told.code else ""
        unasked = told.unanswered or ("",)
        found += [Unobtainable(_ORIGIN, why, _name(uuid), detail) for uuid in unasked]
    return tuple(found) or (Unobtainable(_ORIGIN, Why.NO_GPU),)


def is_on(modes: Mapping[str, Sample]) -> bool:
    """Whether the driver says that the host is in a mode in which a GPU signs."""
    return _number(modes, "cc_feature") == 1 or _number(modes, "cc_multi_gpu_mode") in _MULTI_GPU


def is_off(modes: Mapping[str, Sample]) -> bool:
    """Whether it says that the host is in none of them.

    A driver that does not know of protected PCIe is not in it.
    """
    name = "cc_multi_gpu_mode"
    unknown = modes.get(name) is Reason.SYMBOL_MISSING or modes.get(name) is Reason.NOT_SUPPORTED
    return _number(modes, "cc_feature") == 0 and (unknown or _number(modes, name) == 0)


def _number(modes: Mapping[str, Sample], name: str) -> int | None:
    """None where there is a Reason instead, which is a number too."""
    sample = modes.get(name)
    return sample if isinstance(sample, int) and not isinstance(sample, Reason) else None


def _answer(gpu: Attested, modes: Mapping[str, Sample], nonce: bytes) -> Answer:
    name = _name(gpu.uuid)
    if gpu.said:
        what = "certificates" if gpu.call == "certificate" else "report"
        detail = f"the driver says that its {what} has {gpu.said} bytes, more than it has room for"
        return Unobtainable(_ORIGIN, Why.MALFORMED, name, detail)
    if not gpu.code:
        return admit(_ORIGIN, name, nonce, gpu.report, gpu.chain)
    why = _WHY.get(reason_of(gpu.code), Why.DRIVER_ERROR)
    if why in (Why.NOT_SUPPORTED, Why.DRIVER_ERROR) and is_off(modes):
        why = Why.CC_OFF
    detail = "" if gpu.code == NOT_SUPPORTED else f"NVML code {gpu.code}, asked for its {gpu.call}"
    return Unobtainable(_ORIGIN, why, name, detail)


def _name(uuid: str) -> str:
    """As NVML writes it; empty where the driver gave none."""
    try:
        return uuid_of(bytes.fromhex(uuid)) if uuid else ""
    except ValueError:
        return ""
