"""What is asked of the driver about who and what a GPU is: once a day, and when it is found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from assay_agent.telemetry.calls import (
    UINT32_MAX,
    UINT64_MAX,
    Call,
    Entry,
    Field,
    entries,
    number,
    texts,
)
from assay_agent.telemetry.reading import Depth
from assay_core.leaves import Group, Reason

CELSIUS_MAX: Final = 200
MEMORY_BYTES_MAX: Final = 2**50
POWER_MW_MAX: Final = 10_000_000
NVLINKS_MAX: Final = 36
MEMORY_V2: Final = 0x2000028
"""The answer that tells reserved memory from used, as nvidia-smi does."""

_CERTIFICATE_BYTES_MAX: Final = 0x1400  # NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE


def _certificate(values: Sequence[object]) -> Sequence[object]:
    """The SHA-256 of the chain, hexadecimal."""
    length, chain = values
    if not isinstance(length, int) or not isinstance(chain, bytes) or not 0 < length <= len(chain):
        return (Reason.INVALID_VALUE,)
    # hashlib would bring OpenSSL into the driver's process: four MiB on every host.
    sha256 = import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256").sha256
    return (sha256(chain[:length]).hexdigest(),)


def _platform(values: Sequence[object]) -> Sequence[object]:
    """A GPU that is in no rack of NVIDIA's names no chassis: an empty text is no value."""
    chassis, *rest = values
    named = isinstance(chassis, bytes) and chassis.strip(b"\0 ")
    return (chassis if named else Reason.NOT_SUPPORTED, *rest)


def _identity() -> tuple[Call, ...]:
    group, day = Group.IDENTITY, Depth.DAY
    return (
        *texts(
            group,
            day,
            ("name", "nvmlDeviceGetName", 96),
            ("serial", "nvmlDeviceGetSerial", 30),
            ("board_part_number", "nvmlDeviceGetBoardPartNumber", 80),
            ("vbios_version", "nvmlDeviceGetVbiosVersion", 32),
            ("inforom_image_version", "nvmlDeviceGetInforomImageVersion", 16),
        ),
        Call(
            group,
            "nvmlDeviceGetPdi",
            (Field("pdi", UINT64_MAX - 1, 1),),
            "8xQ",
            day,
            preset=(0x1000010,),
        ),
        Call(
            group,
            "nvmlDeviceGetPciInfo_v3",
            (
                Field("pci_device_id", UINT32_MAX - 1, 1),
                Field("pci_subsystem_id", UINT32_MAX - 1),
                Field("pci_bus_id"),
            ),
            "28xII32s",
            day,
        ),
        Call(
            group,
            "nvmlDeviceGetMemoryInfo_v2",
            (Field("memory_total_bytes", MEMORY_BYTES_MAX, 1),),
            "8xQ24x",
            day,
            preset=(MEMORY_V2,),
            otherwise=Call(group, "nvmlDeviceGetMemoryInfo", (), "Q16x"),
        ),
    )


def _board() -> tuple[Call, ...]:
    group, day = Group.IDENTITY, Depth.DAY
    return (
        *(
            number(group, day, function, Field(name, high, low))
            for name, function, high, low in (
                (
                    "power_limit_default_mw",
                    "nvmlDeviceGetPowerManagementDefaultLimit",
                    POWER_MW_MAX,
                    1,
                ),
                ("architecture", "nvmlDeviceGetArchitecture", 1_000, 1),
                ("board_id", "nvmlDeviceGetBoardId", UINT32_MAX - 1, 0),
                ("module_id", "nvmlDeviceGetModuleId", 65_535, 0),
                ("minor_number", "nvmlDeviceGetMinorNumber", 2**20, 0),
                ("index", "nvmlDeviceGetIndex", 65_535, 0),
                ("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", 15, 1),
                ("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth", 64, 1),
            )
        ),
        Call(
            group,
            "nvmlDeviceGetConfComputeGpuCertificate",
            (Field("attestation_certificate_sha256"),),
            f"4xI{0x1000}x{_CERTIFICATE_BYTES_MAX}s",
            day,
            decode=_certificate,
        ),
        Call(
            group,
            "nvmlDeviceGetPlatformInfo",
            (
                Field("chassis_serial"),
                Field("slot_number", 255),
                Field("tray_index", 255),
                Field("platform_host_id", 255),
                Field("platform_module_id", 255),
            ),
            "20x16sBBBxB3x",
            day,
            preset=(0x200002C,),
            decode=_platform,
        ),
    )


_LIMITS: Final = Call(
    Group.IDENTITY,
    "nvmlDeviceGetPowerManagementLimitConstraints",
    (),
    "II",
    pointers=(0, 4),
)


def _identity_entries() -> tuple[Entry, ...]:
    group, day = Group.IDENTITY, Depth.DAY
    tlimits = "tlimit_shutdown_mc tlimit_slowdown_mc tlimit_memory_max_mc tlimit_gpu_max_mc"
    return (
        *(
            Entry(group, field_id, Field(name, POWER_MW_MAX), day, _LIMITS, item)
            for item, (field_id, name) in enumerate(
                ((187, "power_limit_min_mw"), (188, "power_limit_max_mw"))
            )
        ),
        *(
            Entry(group, field_id, Field(name, CELSIUS_MAX, -CELSIUS_MAX, 1_000), day)
            for field_id, name in enumerate(tlimits.split(), 193)
        ),
        *entries(group, day, NVLINKS_MAX, (91, "nvlink_count")),
    )


CALLS: Final = (*_identity(), *_board())
ENTRIES: Final = _identity_entries()
