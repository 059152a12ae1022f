"""Why GPUs cannot be read, in plain words, and what to do about it. Looks; changes nothing."""

from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay_agent.telemetry.reading import Poll
from assay_core.leaves import DriverState, Reason

DRIVER_VERSION_FILE: Final = Path("/proc/driver/nvidia/version")
DEVICES: Final = Path("/dev")
_LIBRARY: Final = "libnvidia-ml.so.1"

_STA_UNSYNC: Final = 0x40  # linux/timex.h: the kernel's clock is not disciplined
_CLOCK_ERROR_MAX_US: Final = 1_000_000


class State(enum.StrEnum):
    """How a finding stands."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it stands, and what to do when it does not."""

    state: State
    about: str
    what: str
    fix: str = ""


def library() -> Finding:
    """Whether the driver's library can be loaded. Loading it calls nothing in it."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return Finding(
            State.FAILED,
            "driver library",
            f"{_LIBRARY} cannot be loaded: {error}",
            "install NVIDIA's driver package (it brings the library), or in a container start it "
            "with NVIDIA's container toolkit and the capability utility",
        )
    return Finding(State.OK, "driver library", f"{_LIBRARY} loads")


def driver(poll: Poll, version_file: Path = DRIVER_VERSION_FILE) -> Finding:
    """Whether a driver answers, by a poll just taken."""
    about = "driver"
    if poll.driver in (DriverState.RUNNING, DriverState.RELOADED):
        versions = f"driver {poll.host['driver_version']}, NVML {poll.host['nvml_version']}"
        return Finding(State.OK, about, f"answers: {versions}")
    if poll.driver is DriverState.UNRESPONSIVE:
        return Finding(
            State.FAILED,
            about,
            "a driver call did not return in time",
            "look for Xid and NVRM lines in dmesg; a GPU that hangs its driver needs a reset or a "
            "reboot. Kill no process that is in state D",
        )
    reason = poll.host["driver_version"]
    if reason is Reason.NO_PERMISSION:
        return Finding(
            State.FAILED,
            about,
            "the driver does not let this user in",
            "give the agent's user read and write access to /dev/nvidiactl and /dev/nvidia0…; the "
            "unit assay-agent.service names them in DeviceAllow=",
        )
    if not version_file.exists():
        return Finding(
            State.FAILED,
            about,
            f"the kernel module nvidia is not loaded ({version_file} does not exist)",
            "run modprobe nvidia as root; if that fails, dmesg says why",
        )
    label = reason.label if isinstance(reason, Reason) else str(reason)
    return Finding(
        State.FAILED,
        about,
        f"the kernel module is loaded and NVML does not start ({label})",
        "library and kernel module are perhaps of different versions: after an upgrade, reboot or "
        "reload the module",
    )


def devices(folder: Path = DEVICES) -> Finding:
    """Whether this user may open the GPUs' device files."""
    about = "device files"
    found = sorted(folder.glob("nvidia[0-9]*"))
    control = folder / "nvidiactl"
    if not found or not control.exists():
        return Finding(
            State.WARNING,
            about,
            f"{control} or {folder}/nvidia0 is not there",
            "nvidia-modprobe makes them (run nvidia-smi once as root); in a container, pass the "
            "GPUs in",
        )
    closed = [str(path) for path in (control, *found) if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            State.FAILED,
            about,
            f"this user may not read and write {', '.join(closed)}",
            "add the agent's user to the group that owns them, or allow them in its unit "
            "(DeviceAllow=)",
        )
    return Finding(State.OK, about, f"{len(found)} GPUs' files can be opened")


def gpus(poll: Poll) -> Finding:
    """Whether every GPU there is can be read."""
    about = "GPUs"
    readable = [
        gpu for gpu in poll.gpus if any(not isinstance(s, Reason) for s in gpu.values.values())
    ]
    count = poll.host["gpu_count"]
    if isinstance(count, Reason):
        return Finding(State.FAILED, about, f"not counted: {count.label}", "see the driver above")
    if count == 0:
        return Finding(
            State.WARNING, about, "the driver sees none", "lspci -d 10de: lists what is fitted"
        )
    if len(readable) != count:
        return Finding(
            State.FAILED,
            about,
            f"{len(readable)} of {count} can be read",
            "see the device files above; a GPU that fell off its bus shows in dmesg as Xid 79",
        )
    denied = sorted(
        {
            name
            for gpu in readable
            for name, sample in gpu.values.items()
            if sample is Reason.NO_PERMISSION
        }
    )
    if denied:
        return Finding(
            State.WARNING,
            about,
            f"this user may not read {', '.join(denied)}",
            "nothing, if the lender does not ask for them: they are reported as no_permission",
        )
    return Finding(State.OK, about, f"{count} read")


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)); the rest is room for the kernel to write."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock() -> Finding:
    """Whether the kernel's clock is kept right by someone: NTP, PTP or the hypervisor."""
    about = "clock"
    state = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state)) < 0:
        return Finding(
            State.WARNING, about, "the kernel does not say whether it is synchronised", ""
        )
    fix = (
        "start chrony, systemd-timesyncd or ptp4l: a window from a clock more than a minute ahead "
        "waits, and one behind is marked"
    )
    if state.status & _STA_UNSYNC:
        return Finding(State.WARNING, about, "nothing keeps the clock right", fix)
    error_ms = state.maxerror // 1_000
    if state.maxerror > _CLOCK_ERROR_MAX_US:
        return Finding(State.WARNING, about, f"may be off by {error_ms} ms", fix)
    return Finding(State.OK, about, f"synchronised, at most {error_ms} ms off")
