# ruff: noqa: PTH118, PTH119, PTH115, PTH123, PTH208
# pathlib would be another half MiB in the driver's process.
"""Whether a GPU is asleep (D3), by sysfs: any call of the driver's library would wake it.

Only a GPU whose power the kernel manages (power/control "auto") can be; servers' GPUs are "on".
"""

from __future__ import annotations

import os
from typing import Final

from assay_core.pci import pci_address

DEVICES: Final = "sys/bus/pci/devices"
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"


def may_sleep(root: str, bus_id: str) -> bool:
    """Whether the kernel may put the GPU at this address to sleep."""
    device = pci_address(bus_id)
    return device is not None and _read(root, device, "power/control") == "auto"


def asleep(root: str, bus_id: str) -> bool:
    """Whether the GPU at this address sleeps now. `root` is where this host's / is."""
    device = pci_address(bus_id)
    return device is not None and may_sleep(root, device) and _suspended(root, device)


def any_asleep(root: str) -> bool:
    """Whether any GPU that NVIDIA's driver has sleeps now."""
    try:
        devices = os.listdir(os.path.join(root, DEVICES))
    except OSError:
        return False
    return any(
        _read(root, device, "vendor") == _NVIDIA
        and _read(root, device, "class").startswith(_DISPLAY)
        and _driver(root, device) == "nvidia"
        and may_sleep(root, device)
        and _suspended(root, device)
        for device in devices
    )


def _suspended(root: str, device: str) -> bool:
    return _read(root, device, "power/runtime_status") == "suspended"


def _driver(root: str, device: str) -> str:
    try:
        return os.path.basename(os.readlink(os.path.join(root, DEVICES, device, "driver")))
    except OSError:
        return ""


def _read(root: str, device: str, name: str) -> str:
    """One attribute of a device; empty where it has none."""
    try:
        with open(os.path.join(root, DEVICES, device, name), encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, UnicodeDecodeError):
        return ""
