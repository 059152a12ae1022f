"""The PCI bus against the driver's list: which GPUs are there, and who has them (sysfs).

Rules:

1. A GPU is a function of NVIDIA's with a display class (0300, 0302). NVSwitches and the audio
   functions of graphics cards are none, nor are the virtual functions that a GPU is cut into
   (they have a `physfn`): a pledge is the board. MIG instances are not on the bus at all.
2. A GPU is hidden when NVIDIA's driver has it and NVML does not show it; unless this process was
   never given it. In a container a GPU without a device file here was left out by whoever started
   the container, and its absence means nothing.
3. A GPU is a phantom when NVML shows it and the bus does not have it. Where GPUs are not on a PCI
   bus at all (WSL), nothing is compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from assay_core.leaves import Reason, Tenancy
from assay_core.pci import pci_address

GPUS_MAX: Final = 64
"""Most GPUs of a host that are looked at; it holds 16."""
FUNCTIONS_MAX: Final = 4096
"""Most functions of a bus that are looked at."""
DRIVER: Final = "nvidia"

_VENDOR: Final = "0x10de"
_CLASSES: Final = ("0x0300", "0x0302")  # VGA compatible, 3D controller
_MINOR: Final = re.compile(rb"^Device Minor:\s*(\d{1,5})\s*$", re.MULTILINE)
_FILE_BYTES_MAX: Final = 4096
_CONTAINER_FILES: Final = ("/.dockerenv", "/run/.containerenv")
_CONTAINER_VARIABLES: Final = ("NVIDIA_VISIBLE_DEVICES", "KUBERNETES_SERVICE_HOST", "container")


@dataclass(frozen=True, slots=True)
class PciGpu:
    """A GPU on the bus, and the driver that has it; an empty name is none."""

    address: str
    driver: str

    @property
    def tenancy(self) -> Tenancy:
        """Who has it. Every driver that gives devices to guests has vfio or pciback in its name."""
        if self.driver == DRIVER:
            return Tenancy.HOST
        if "vfio" in self.driver or "pciback" in self.driver:
            return Tenancy.PASSED_THROUGH
        return Tenancy.UNBOUND


Bus = Mapping[str, PciGpu]
"""The GPUs of a bus by their address."""


class PciBus:
    """The bus of a host. A look costs one listing and a link a GPU: what a function is, is kept."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "sys/bus/pci/devices"
        self._paravirtual = root / "dev/dxg"
        self._gpus: dict[tuple[str, int], bool] = {}

    def look(self) -> Bus | Reason:
        """The GPUs that are on the bus now, or why that cannot be said."""
        try:
            with os.scandir(self._folder) as entries:
                # A function that went and came again is another entry, with another inode.
                names = [(one.name, one.inode()) for one in islice(entries, FUNCTIONS_MAX)]
        except PermissionError:
            return Reason.NO_PERMISSION
        except OSError:
            return Reason.NOT_SUPPORTED
        if self._paravirtual.exists():
            return Reason.NOT_SUPPORTED
        known = self._gpus
        self._gpus = {
            key: known[key] if key in known else self._is_gpu(key[0]) for key in sorted(names)
        }
        gpus = [name for (name, _), is_gpu in self._gpus.items() if is_gpu]
        return {
            address: PciGpu(address, self._driver(name))
            for name in gpus[:GPUS_MAX]
            if (address := pci_address(name)) is not None
        }

    def _is_gpu(self, name: str) -> bool:
        return (
            self._read(name, "vendor") == _VENDOR
            and self._read(name, "class").startswith(_CLASSES)
            and not (self._folder / name / "physfn").is_symlink()
        )

    def _driver(self, name: str) -> str:
        try:
            return (self._folder / name / "driver").readlink().name
        except OSError:
            return ""

    def _read(self, name: str, file: str) -> str:
        found = _file(self._folder / name / file)
        return found.decode("ascii", "replace").strip().lower()


class Given:
    """Which GPUs this process was given: all of them, except in a container (rule 2)."""

    def __init__(self, root: Path, devices: Path, environ: Mapping[str, str] = os.environ) -> None:
        self._information = root / "proc/driver/nvidia/gpus"
        self._devices = devices
        self.in_container = (
            root != Path("/")
            or any(Path(name).exists() for name in _CONTAINER_FILES)
            or any(name in environ for name in _CONTAINER_VARIABLES)
        )

    def __call__(self, address: str) -> bool:
        """Whether the GPU at this address is this process's to see."""
        if not self.in_container:
            return True
        minor = _MINOR.search(_file(self._information / address / "information"))
        return minor is not None and (self._devices / f"nvidia{int(minor[1])}").exists()


def hidden(bus: Bus, accounted: frozenset[str], given: Given) -> tuple[str, ...]:
    """Addresses of the GPUs that the driver has and does not show (rule 2).

    `accounted` are the addresses of those it shows, and of those it once showed: a GPU that is
    known and gone is lost, which says more.
    """
    return tuple(
        address
        for address, gpu in bus.items()
        if gpu.driver == DRIVER and address not in accounted and given(address)
    )


def withheld(bus: Bus, accounted: frozenset[str], given: Given) -> tuple[str, ...]:
    """Addresses of the driver's GPUs that are not this container's."""
    return tuple(
        address
        for address, gpu in bus.items()
        if gpu.driver == DRIVER and address not in accounted and not given(address)
    )


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except OSError:
        return b""
