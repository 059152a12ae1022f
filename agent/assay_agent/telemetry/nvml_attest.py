"""Evidence asked of the driver. Runs in a process of its own: any call may hang.

Each GPU's answer is told as soon as it is there, so that one that hangs takes no other's with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from assay_agent.machine import sleep
from assay_agent.telemetry import binding
from assay_agent.telemetry.ask import samples
from assay_agent.telemetry.binding import LostError, NvmlError, code_of
from assay_agent.telemetry.fields import subject_of
from assay_agent.telemetry.table import MODES
from assay_agent.telemetry.wire import Attested, Attesting, HostCell, Told, host_cell
from assay_core.leaves import Reason

GPUS_MAX: Final = 64
"""More than this no host holds: a library that says so is not believed."""
CHAIN_BYTES_MAX: Final = 0x1400
"""NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE: the room there is for the chain, a PEM text, leaf first."""
REPORT_BYTES_MAX: Final = 0x2000
"""NVML_CC_GPU_ATTESTATION_REPORT_SIZE."""


def attest(
    nonce: bytes,
    tell: Callable[[Told], None],
    beat: Callable[[], None],
    unwanted: Callable[[], bool],
    host_root: str,
) -> None:
    """Asks every GPU, one after another, while anyone wants to know. Wakes none that sleeps."""
    if sleep.any_asleep(host_root):
        tell(Attesting(asleep=True))
        return
    try:
        binding.init()
        beat()
        found, unnamed = _enumerate(beat)
    except NvmlError as error:
        tell(Attesting(code=code_of(error)))
        return
    tell(Attesting(modes=_modes(), uuids=[uuid for uuid, _ in found]))
    for answer in unnamed:
        tell(answer)
    for uuid, handle in found:
        if unwanted():
            break
        beat()
        tell(_ask(uuid, handle, nonce, beat))
    try:
        binding.shutdown()
    except NvmlError:
        return  # it is gone already, which is what was asked


def _enumerate(beat: Callable[[], None]) -> tuple[list[tuple[str, object]], list[Attested]]:
    """Each GPU's UUID, empty where it is none, and handle; and answers of those without a name."""
    found: list[tuple[str, object]] = []
    unnamed: list[Attested] = []
    for index in range(min(binding.count(), GPUS_MAX)):
        beat()
        try:
            handle = binding.handle_by_index(index)
            subject = subject_of(binding.uuid(handle))
        except NvmlError as error:
            unnamed.append(Attested(call="identity", code=code_of(error)))
        except UnicodeDecodeError:
            found.append(("", handle))
        else:
            found.append(("" if subject is None else subject.hex(), handle))
    return found, unnamed


def _ask(uuid: str, handle: object, nonce: bytes, beat: Callable[[], None]) -> Attested:
    try:
        certificate = binding.certificate(handle)
    except NvmlError as error:
        return Attested(uuid=uuid, call="certificate", code=code_of(error))
    said = certificate.attestationCertChainSize
    if said > CHAIN_BYTES_MAX:
        return Attested(uuid=uuid, call="certificate", said=said)
    beat()
    try:
        report = binding.attestation_report(handle, nonce)
    except NvmlError as error:
        return Attested(uuid=uuid, call="report", code=code_of(error))
    if report.attestationReportSize > REPORT_BYTES_MAX:
        return Attested(uuid=uuid, call="report", said=report.attestationReportSize)
    return Attested(
        uuid=uuid,
        report=bytes(report.attestationReport[: report.attestationReportSize]),
        chain=bytes(certificate.attestationCertChain[:said]).rstrip(b"\0"),
    )


def _modes() -> list[HostCell]:
    """Which of the modes are on in which a GPU signs, by table.MODE_NAMES."""
    cells: list[HostCell] = []
    for call in MODES:
        try:
            cells += map(host_cell, samples(call, None, False))
        except (LostError, binding.GoneError):  # the calls that matter will say so
            cells += [host_cell(Reason.DRIVER_ERROR)] * len(call.fields)
    return cells
