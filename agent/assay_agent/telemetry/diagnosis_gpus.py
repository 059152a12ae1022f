"""What an operator should know of each GPU before a lender asks. Looks; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.fields import uuid_of
from assay_agent.telemetry.reading import GpuReading, Poll, Sample
from assay_core.health import rule_for
from assay_core.leaves import IncidentKind, Reason

_PLACES_NAMED_MAX: Final = 4
_SRAM: Final = "ecc_sram_"


def gpus(poll: Poll) -> Finding:
    """Whether every GPU there is can be read."""
    about = "GPUs"
    count = poll.host["gpu_count"]
    if count is Reason.ASLEEP:
        return Finding(
            State.NOTE,
            "gpus-asleep",
            about,
            "they sleep, and are not woken to be read",
            "nothing; they are read when something else wakes them. On a server that is to be read "
            "always, run nvidia-persistenced",
        )
    if isinstance(count, Reason):
        return Finding(
            State.FAILED, "gpus-uncounted", about, f"not counted: {count.label}", "see the driver"
        )
    if count == 0:
        return Finding(
            State.WARNING,
            "gpus-none",
            about,
            "the driver sees none",
            "lspci -d 10de: lists what is fitted",
        )
    readable = [gpu for gpu in poll.gpus if _is_read(gpu)]
    asleep = [gpu for gpu in poll.gpus if _all(gpu, Reason.ASLEEP)]
    if len(readable) + len(asleep) != count:
        return Finding(
            State.FAILED,
            "gpus-unread",
            about,
            f"{len(readable)} of {count} can be read",
            "see the device files; a GPU that fell off its bus shows in dmesg as Xid 79",
        )
    denied = _denied(readable)
    if denied:
        return Finding(
            State.WARNING,
            "fields-denied",
            about,
            f"this user may not read {', '.join(denied)}",
            "nothing, if the lender does not ask for them: they are reported as no_permission",
        )
    slept = f", {len(asleep)} asleep" if asleep else ""
    return Finding(State.OK, "gpus-read", about, f"{len(readable)} read{slept}")


def conditions(poll: Poll) -> Iterator[Finding]:
    """What is worth knowing or doing about single GPUs, and of the host's confidential computing."""
    readable = [gpu for gpu in poll.gpus if _is_read(gpu)]
    yield from _sram(readable)
    yield from _actions(readable)
    for code, name, is_so, state, what, fix in _CONDITIONS:
        found = [gpu for gpu in readable if is_so(gpu.values.get(name))]
        if found:
            about = _where(found, len(poll.gpus))
            yield Finding(state, code, "GPU health" if state is not State.NOTE else "GPU mode",
                          f"{about}: {what}", fix)  # fmt: skip
    if poll.driver.answers:
        yield from _confidential(poll)


def _sram(readable: list[GpuReading]) -> Iterator[Finding]:
    denied = [name for name in _no_permission(readable) if name.startswith(_SRAM)]
    if denied:
        yield Finding(
            State.NOTE,
            "sram-needs-root",
            "privileges",
            f"{len(denied)} fields of SRAM errors are read by root alone, and are told as "
            "no_permission",
            "nothing, as a rule: total ECC errors are read all the same. Run as root, the agent "
            "would add where SRAM errors were and whether they exceed the limit at which NVIDIA "
            "asks for a field diagnosis",
        )


def _actions(readable: list[GpuReading]) -> Iterator[Finding]:
    asked: dict[int, list[GpuReading]] = {}
    for gpu in readable:
        action = gpu.values.get("recovery_action")
        if isinstance(action, int) and not isinstance(action, Reason) and action:
            asked.setdefault(action, []).append(gpu)
    for action, found in sorted(asked.items()):
        rule = rule_for(IncidentKind.RECOVERY_ACTION, action)
        yield Finding(
            State.WARNING,
            "recovery-asked",
            "GPU health",
            f"{_where(found)}: {rule.meaning} (recovery action {action})",
            f"{rule.action}; drain the GPU's work and tell the agent first (assay-agent pause --for "
            "30m)",
        )


def _confidential(poll: Poll) -> Iterator[Finding]:
    feature, devtools = poll.host.get("cc_feature"), poll.host.get("cc_devtools")
    if feature != 1 or isinstance(feature, Reason):
        return
    if devtools == 1 and not isinstance(devtools, Reason):
        yield Finding(
            State.WARNING,
            "confidential-computing-devtools",
            "confidential computing",
            "on, with development tools: it protects nothing, and some counters are not read",
            "set the mode to on without devtools before anything is attested",
        )
    else:
        yield Finding(
            State.NOTE,
            "confidential-computing",
            "confidential computing",
            "on: performance counters are not readable from outside, and are told as such",
        )


def _is(wanted: int) -> Callable[[Sample | None], bool]:
    # A Reason is an integer too, and none of these values.
    return lambda sample: not isinstance(sample, Reason) and sample == wanted


_CONDITIONS: Final = (
    (
        "remap-failed",
        "remap_failed",
        _is(1),
        State.WARNING,
        "a memory row could not be remapped, which is a reason for return",
        "run NVIDIA's field diagnosis, and open a return (RMA)",
    ),
    (
        "remap-pending",
        "remap_pending",
        _is(1),
        State.WARNING,
        "a memory row is remapped at the next reset",
        "reset the GPU when it is idle: assay-agent pause --for 10m, then nvidia-smi -r -i ADDRESS",
    ),
    (
        "inforom-corrupted",
        "inforom_valid",
        _is(0),
        State.WARNING,
        "the inforom's checksum does not hold: serial and lifetime counters cannot be relied on",
        "reset the GPU; if it stays, the board's maker must write it anew (RMA)",
    ),
    (
        "persistence-off",
        "persistence_mode",
        _is(0),
        State.WARNING,
        (
            "persistence mode is off: the driver lets go of an idle GPU, its counters start anew, and "
            "a first look takes seconds"
        ),
        "systemctl enable --now nvidia-persistenced",
    ),
    (
        "mig-on",
        "mig_mode",
        _is(1),
        State.NOTE,
        "cut into instances (MIG): use is told for each, and what NVML hides is hidden_by_mig",
        "",
    ),
    (
        "ecc-off",
        "ecc_enabled",
        _is(0),
        State.WARNING,
        "ECC is off: memory errors are neither corrected nor counted, and a lender sees it",
        "nvidia-smi -e 1 -i ADDRESS as root, then reset the GPU",
    ),
)
"""Code, field, what of it is worth a word, how it stands, the word, and what to do."""


def _denied(readable: list[GpuReading]) -> list[str]:
    return [name for name in _no_permission(readable) if not name.startswith(_SRAM)]


def _no_permission(readable: list[GpuReading]) -> list[str]:
    return sorted(
        {
            name
            for gpu in readable
            for name, sample in gpu.values.items()
            if sample is Reason.NO_PERMISSION
        }
    )


def _is_read(gpu: GpuReading) -> bool:
    """Whether the GPU itself told anything: its tenancy is the bus's to tell."""
    return any(
        not isinstance(sample, Reason) for name, sample in gpu.values.items() if name != "tenancy"
    )


def _all(gpu: GpuReading, reason: Reason) -> bool:
    return not _is_read(gpu) and reason in gpu.values.values()


def _where(found: list[GpuReading], of: int = 0) -> str:
    """Which GPUs, by their place on the bus."""
    if of > 1 and len(found) == of:
        return "every GPU"
    places = [str(_place(gpu)) for gpu in found[:_PLACES_NAMED_MAX]]
    more = f" and {len(found) - len(places)} more" if len(found) > len(places) else ""
    return f"GPU {', '.join(places)}{more}"


def _place(gpu: GpuReading) -> str:
    address = gpu.values.get("pci_bus_id")
    return address if isinstance(address, str) else uuid_of(gpu.subject)[:12]
