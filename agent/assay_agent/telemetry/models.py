"""What the models of GPU that can be simulated say of themselves, idle and at full load.

Source of the H100, H200 and L40S figures: nvidia-smi captures of real cards in nvidia_gpu_exporter
(github.com/utkuozdemir/nvidia_gpu_exporter, MIT, internal/captures), drivers 590.48.01 and 595.80,
restated. "Loaded" is gpu-burn on the H100 and H200. The L40S was captured at 10 % load only: its
loaded row is made up. So is every figure of the B200 and the RTX PRO 6000 but memory and power
limit, which are the makers' published ones; their ids say so. Limits as distances to the throttle
point, banks and NVLinks of the H100, H200 and L40S are the captures' too; nobody captured what GPM
says of a loaded card: those shares are made up for every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

MIB: Final = 1024 * 1024

ModelName = Literal["h100", "h200", "b200", "rtx-pro-6000", "l40s"]


@dataclass(frozen=True, slots=True)
class State:
    """A card at one load: milliwatts, degrees Celsius, megahertz, percent."""

    power_mw: int
    temperature_c: int
    memory_temperature_c: int | None
    """None: the model has no sensor that tells."""
    sm_clock_mhz: int
    memory_clock_mhz: int
    memory_utilisation_pct: int
    memory_used_mib: int


@dataclass(frozen=True, slots=True)
class Model:
    """One model of GPU."""

    name: str
    board_part_number: str
    vbios_version: str
    inforom_image_version: str
    pci_device_id: int
    pci_subsystem_id: int
    memory_total_mib: int
    power_limit_mw: int
    architecture: int
    idle: State
    loaded: State
    power_limit_min_mw: int
    throttle_c: int
    """Temperature plus its distance to the throttle point, as captured."""
    tlimit_shutdown_mc: int
    banks: int
    """Banks of memory that rows can be remapped in."""
    pcie_generation: int = 5
    nvlinks: int = 0
    nvlink_mbps: int = 0

    @property
    def has_gpm(self) -> bool:
        """Hopper and newer."""
        return self.architecture >= _HOPPER

    @property
    def has_nvlink5(self) -> bool:
        """Whether its NVLinks count errors as the fifth generation does."""
        return self.architecture > _HOPPER and self.nvlinks > 0


_HOPPER: Final = 9


MODELS: Final[Mapping[ModelName, Model]] = MappingProxyType(
    {
        "h100": Model(
            name="NVIDIA H100 80GB HBM3",
            board_part_number="692-2G520-0200-000",
            vbios_version="96.00.A5.00.01",
            inforom_image_version="G520.0200.00.05",
            pci_device_id=0x233010DE,
            pci_subsystem_id=0x16C110DE,
            memory_total_mib=81_559,
            power_limit_mw=700_000,
            architecture=9,
            idle=State(69_850, 41, 48, 345, 2_619, 0, 0),
            loaded=State(629_450, 59, 55, 1_980, 2_619, 11, 19_818),
            power_limit_min_mw=200_000,
            throttle_c=87,
            tlimit_shutdown_mc=-8_000,
            banks=2_560,
            nvlinks=18,
            nvlink_mbps=26_562,
        ),
        "h200": Model(
            name="NVIDIA H200",
            board_part_number="695-2G520-0280-001",
            vbios_version="96.00.A5.00.03",
            inforom_image_version="G520.0280.02.02",
            pci_device_id=0x233510DE,
            pci_subsystem_id=0x18BE10DE,
            memory_total_mib=143_771,
            power_limit_mw=700_000,
            architecture=9,
            idle=State(77_670, 28, 32, 345, 3_201, 0, 0),
            loaded=State(627_320, 52, 41, 1_980, 3_201, 7, 32_362),
            power_limit_min_mw=200_000,
            throttle_c=87,
            tlimit_shutdown_mc=-8_000,
            banks=3_072,
            nvlinks=18,
            nvlink_mbps=26_562,
        ),
        "b200": Model(
            name="NVIDIA B200",
            board_part_number="SIM-B200",
            vbios_version="SIM",
            inforom_image_version="SIM",
            pci_device_id=0xB20010DE,
            pci_subsystem_id=0xB20010DE,
            memory_total_mib=180_000_000_000 // MIB,
            power_limit_mw=1_000_000,
            architecture=10,
            idle=State(140_000, 33, 36, 345, 3_996, 0, 0),
            loaded=State(900_000, 62, 60, 1_965, 3_996, 10, 60_000),
            power_limit_min_mw=200_000,
            throttle_c=87,
            tlimit_shutdown_mc=-8_000,
            banks=4_096,
            nvlinks=18,
            nvlink_mbps=53_125,
        ),
        "rtx-pro-6000": Model(
            name="NVIDIA RTX PRO 6000 Blackwell Server Edition",
            board_part_number="SIM-RTX-PRO-6000",
            vbios_version="SIM",
            inforom_image_version="SIM",
            pci_device_id=0x600010DE,
            pci_subsystem_id=0x600010DE,
            memory_total_mib=96_000_000_000 // MIB,
            power_limit_mw=600_000,
            architecture=10,
            idle=State(30_000, 34, None, 180, 405, 0, 0),
            loaded=State(540_000, 68, None, 2_400, 14_000, 10, 40_000),
            power_limit_min_mw=150_000,
            throttle_c=88,
            tlimit_shutdown_mc=-5_000,
            banks=512,
        ),
        "l40s": Model(
            name="NVIDIA L40S",
            board_part_number="900-2G133-0080-000",
            vbios_version="95.02.66.00.02",
            inforom_image_version="G133.0242.00.03",
            pci_device_id=0x26B910DE,
            pci_subsystem_id=0x185110DE,
            memory_total_mib=46_068,
            power_limit_mw=350_000,
            architecture=8,
            idle=State(37_000, 54, None, 210, 405, 0, 0),
            loaded=State(315_000, 75, None, 2_520, 9_001, 20, 20_000),
            power_limit_min_mw=100_000,
            throttle_c=88,
            tlimit_shutdown_mc=-5_000,
            banks=192,
            pcie_generation=4,
        ),
    }
)
