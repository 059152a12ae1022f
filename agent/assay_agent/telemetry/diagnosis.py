"""Why GPUs cannot be read, in plain words, and what to do about it. Looks; changes nothing.

Every finding has a code that does not change: what it says to a person may.
"""

from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay_agent.machine.library import Mapped, mapped
from assay_agent.machine.packages import NONE
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
    NOTE = "note"
    """As it is meant to be, and worth knowing."""
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it stands, and what to do when it does not."""

    state: State
    code: str
    about: str
    what: str
    fix: str = ""


def library() -> Finding:
    """Whether the driver's library can be loaded. Loading it calls nothing in it."""
    about = "driver library"
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return Finding(
            State.FAILED,
            "library-missing",
            about,
            f"{_LIBRARY} cannot be loaded: {error}",
            "install NVIDIA's driver package (it brings the library), or in a container start it "
            "with NVIDIA's container toolkit and the capability utility",
        )
    return Finding(State.OK, "library-loads", about, f"{_LIBRARY} loads")


def provenance(poll: Poll) -> Finding | None:
    """Where the library came from that answered; None where none did."""
    about, host = "library's origin", poll.host
    path, package = host.get("library_path"), host.get("library_package")
    if not isinstance(path, str):
        return None
    if host.get("library_sha256") is Reason.NOT_SAMPLED:
        return Finding(
            State.WARNING,
            "library-replaced",
            about,
            f"{path} was replaced while it was in use",
            "restart the agent after an upgrade of the driver: systemctl restart assay-agent",
        )
    if package == NONE:
        return Finding(
            State.WARNING,
            "library-from-no-package",
            about,
            f"{path} is from no installed package: a lender may take what it says for made up",
            "install the driver from packages; after NVIDIA's .run installer this is as it must be, "
            "and the lender compares the file's hash instead",
        )
    if isinstance(package, str):
        return Finding(State.OK, "library-from-package", about, f"{path}, from {package}")
    return Finding(
        State.NOTE,
        "library-package-unknown",
        about,
        f"{path}; this host's package records cannot be read as files, so its hash alone is told",
    )


def versions(poll: Poll) -> Finding | None:
    """Whether library and kernel module are of one driver; None where one is not known."""
    about, module = "driver versions", poll.host.get("kernel_module_version")
    nvml = poll.host.get("nvml_version")
    if not isinstance(module, str):
        return None
    if isinstance(nvml, str):
        library_version: str | None = nvml.partition(".")[2]  # "13.590.48.01"
    else:
        library_version = _version_of(mapped("self"))
    if not library_version:
        return None
    if library_version == module:
        return Finding(State.OK, "versions-agree", about, f"library and kernel module are {module}")
    return Finding(
        State.FAILED,
        "version-mismatch",
        about,
        f"the kernel module is {module} and the library is {library_version}",
        "after an upgrade of the driver, reboot, or stop what uses the GPUs and reload the module "
        "(rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia)",
    )


def _version_of(found: Mapped | Reason) -> str | None:
    """By its file's name, libnvidia-ml.so.590.48.01."""
    if isinstance(found, Reason):
        return None
    version = found.path.rpartition(".so.")[2]
    return version if "." in version else None


def driver(poll: Poll, version_file: Path = DRIVER_VERSION_FILE) -> Finding:
    """Whether a driver answers, by a poll just taken."""
    about = "driver"
    if poll.driver.answers:
        versions = f"driver {poll.host['driver_version']}, NVML {poll.host['nvml_version']}"
        return Finding(State.OK, "driver-answers", about, f"answers: {versions}")
    if poll.driver is DriverState.UNRESPONSIVE:
        return Finding(
            State.FAILED,
            "driver-unresponsive",
            about,
            "a driver call did not return in time",
            "look for Xid and NVRM lines in dmesg; a GPU that hangs its driver needs a reset or a "
            "reboot. Kill no process that is in state D",
        )
    reason = poll.host["driver_version"]
    if reason is Reason.NO_PERMISSION:
        return Finding(
            State.FAILED,
            "driver-no-permission",
            about,
            "the driver does not let this user in",
            "give the agent's user read and write access to /dev/nvidiactl and /dev/nvidia0…; the "
            "unit assay-agent.service names them in DeviceAllow=",
        )
    if not version_file.exists():
        return Finding(
            State.FAILED,
            "driver-not-loaded",
            about,
            f"the kernel module nvidia is not loaded ({version_file} does not exist)",
            "run modprobe nvidia as root; if that fails, dmesg says why",
        )
    label = reason.label if isinstance(reason, Reason) else str(reason)
    return Finding(
        State.FAILED,
        "driver-does-not-start",
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
            "device-files-missing",
            about,
            f"{control} or {folder}/nvidia0 is not there",
            "nvidia-modprobe makes them (run nvidia-smi once as root); in a container, pass the "
            "GPUs in",
        )
    closed = [str(path) for path in (control, *found) if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return Finding(
            State.FAILED,
            "device-files-denied",
            about,
            f"this user may not read and write {', '.join(closed)}",
            "add the agent's user to the group that owns them, or allow them in its unit "
            "(DeviceAllow=)",
        )
    return Finding(State.OK, "device-files-open", about, f"{len(found)} GPUs' files can be opened")


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
            State.WARNING,
            "clock-unknown",
            about,
            "the kernel does not say whether it is synchronised",
            "",
        )
    fix = (
        "start chrony, systemd-timesyncd or ptp4l: a window from a clock more than a minute ahead "
        "waits, and one behind is marked"
    )
    if state.status & _STA_UNSYNC:
        return Finding(
            State.WARNING, "clock-unsynchronised", about, "nothing keeps the clock right", fix
        )
    error_ms = state.maxerror // 1_000
    if state.maxerror > _CLOCK_ERROR_MAX_US:
        return Finding(State.WARNING, "clock-far-off", about, f"may be off by {error_ms} ms", fix)
    return Finding(
        State.OK, "clock-synchronised", about, f"synchronised, at most {error_ms} ms off"
    )
