"""What an operator should know of the host around its GPUs. Looks; changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from assay_agent.config import SourceConfig
from assay_agent.machine.journal import folder, program
from assay_agent.machine.pci import DRIVER, Bus, Given, PciBus, withheld
from assay_agent.telemetry.diagnosis import DEVICES, Finding, State
from assay_agent.telemetry.reading import Poll
from assay_core.leaves import Reason, Tenancy
from assay_core.pci import pci_address

_NAMED_MAX: Final = 4
_RIVALS: Final = ("nouveau", "nova_core", "nvidiafb")


def bus(
    poll: Poll,
    root: Path,
    devices: Path = DEVICES,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Finding]:
    """The PCI bus against the driver, and this container against both."""
    found = PciBus(root).look()
    about = "PCI bus"
    if isinstance(found, Reason):
        yield Finding(
            State.NOTE,
            "bus-unreadable",
            about,
            f"not compared with the driver's list: {found.label}",
            "in a container, mount the host's /sys; where GPUs are on no bus (WSL) there is nothing "
            "to do",
        )
        return
    given = Given(root, devices, environ)
    yield from _rivals(found)
    yield from _guests(found)
    if given.in_container:
        yield from _container(poll, found, given, devices)
    yield from _differences(poll, about)
    if not poll.driver.answers:
        count = f"{len(found)} NVIDIA GPUs are" if found else "no NVIDIA GPU is"
        yield Finding(State.NOTE, "bus-without-driver", about, f"{count} on it")
    elif not poll.host.get("hidden_gpus") and not poll.host.get("phantom_gpus"):
        shown = _count(poll)
        shown = len(found) if shown is None else shown
        yield Finding(State.OK, "bus-agrees", about, f"{shown} GPUs, as the driver says")


def kernel_log(poll: Poll, settings: SourceConfig) -> Finding:
    """Where Xids are read besides NVML, and what it would take."""
    about, origin = "kernel log", poll.host.get("kernel_log")
    if origin == "journal":
        return Finding(State.OK, "kernel-log-journal", about, "Xids are read from the journal too")
    if origin == "kmsg":
        return Finding(State.OK, "kernel-log-kmsg", about, "Xids are read from /dev/kmsg too")
    if settings.kernel_log == "off":
        return Finding(
            State.NOTE,
            "kernel-log-off",
            about,
            "not read, by source.kernel_log in agent.yaml: Xids come from NVML alone",
        )
    root = Path(settings.host_root)
    why = "this user may read neither the journal nor /dev/kmsg"
    if not any((root / name).is_dir() for name in ("var/log/journal", "run/log/journal")):
        why = "there is no journal here, and this user may not read /dev/kmsg"
    elif program() is None and folder(root) is not None:
        why = "the journal may be read, and its reader journalctl is not installed"
    return Finding(
        State.WARNING,
        "kernel-log-unreadable",
        about,
        f"{why}: Xids come from NVML alone, which tells of none before it was asked, and not of "
        "every GPU that falls off its bus",
        "add the agent's user to the group systemd-journal, or adm (install "
        "systemd/assay-agent.service.d/journal.conf, or usermod -aG systemd-journal assay-agent), "
        "and restart the agent; in a container give it CAP_SYSLOG and /dev/kmsg",
    )


def _count(poll: Poll) -> int | None:
    """How many GPUs the driver has; None where it was not asked, as while they sleep."""
    count = poll.host.get("gpu_count")
    return count if isinstance(count, int) and not isinstance(count, Reason) else None


def _rivals(found: Bus) -> Iterator[Finding]:
    for driver in _RIVALS:
        held = [gpu.address for gpu in found.values() if gpu.driver == driver]
        if held:
            yield Finding(
                State.FAILED,
                "nouveau-bound",
                "driver",
                f"{driver} has {_named(held)}: NVIDIA's driver cannot",
                f"blacklist {driver} (/etc/modprobe.d), make the initramfs anew, reboot, and load "
                "nvidia",
            )


def _guests(found: Bus) -> Iterator[Finding]:
    held = [one.address for one in found.values() if one.tenancy is Tenancy.PASSED_THROUGH]
    if held:
        yield Finding(
            State.NOTE,
            "gpus-passed-through",
            "PCI bus",
            f"a virtual machine has {_named(held)}: told as passed through, never as lost",
            "run the agent in the guest to have it read there",
        )


def _container(poll: Poll, found: Bus, given: Given, devices: Path) -> Iterator[Finding]:
    about = "container"
    theirs = [gpu.address for gpu in found.values() if gpu.driver == DRIVER]
    if theirs and not poll.driver.answers and not any(devices.glob("nvidia[0-9]*")):
        yield Finding(
            State.FAILED,
            "container-without-devices",
            about,
            f"the host has {len(theirs)} GPUs, and this container none of their device files",
            "start it with NVIDIA's container toolkit (--gpus all). If it had them before: "
            "systemctl daemon-reload took them away (nvidia-container-toolkit#48); restart it, and "
            "use CDI or the cgroupfs driver",
        )
        return
    if not poll.driver.answers:
        return
    shown = {gpu.values.get("pci_bus_id") for gpu in poll.gpus}
    accounted = frozenset(pci_address(one) or one for one in shown if isinstance(one, str))
    others = withheld(found, accounted, given)
    count = _count(poll)
    # One that the driver counts and that says nothing, not even where it is, is here, and lost.
    if others and count is not None and count < len(theirs):
        yield Finding(
            State.NOTE,
            "container-with-some",
            about,
            f"{len(others)} of the host's {len(theirs)} GPUs are not this container's",
            "start it with --gpus all, if the lender is to see them",
        )


def _differences(poll: Poll, about: str) -> Iterator[Finding]:
    hidden, phantoms = poll.host.get("hidden_gpus"), poll.host.get("phantom_gpus")
    if isinstance(hidden, tuple) and hidden:
        yield Finding(
            State.FAILED,
            "gpus-hidden",
            about,
            f"the driver has {_named(hidden)} and does not show it: an incident to a lender",
            "dmesg | grep NVRM says why it would not start; reset it (nvidia-smi -r), or reboot and "
            "reseat it",
        )
    if isinstance(phantoms, tuple) and phantoms:
        yield Finding(
            State.FAILED,
            "gpus-phantom",
            about,
            f"the driver's library shows {_named(phantoms)}, which the bus does not have: a lender "
            "takes it for made up",
            "see the library's origin; in a container, mount the host's /sys, or name its place as "
            "source.host_root",
        )


def _named(addresses: list[str] | tuple[object, ...]) -> str:
    named = ", ".join(map(str, addresses[:_NAMED_MAX]))
    more = len(addresses) - _NAMED_MAX
    return f"GPU {named}{f' and {more} more' if more > 0 else ''}"
