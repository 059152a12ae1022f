"""Every field that is read from a GPU, as data: the call, the part of its answer, unit and bounds.

Nothing here touches a driver, and nothing heavy is imported: the driver's own process uses it.
A test holds this table against the schema, so that no field of it is forgotten.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Protocol, cast

from assay_core.leaves import SUBJECT_BYTES, Group, Reason

Sample = int | str | Reason
"""As in reading.py, which the driver's process does not import."""

TEXT_BYTES_MAX: Final = 256
UINT32_MAX: Final = 2**32 - 1
UINT64_MAX: Final = 2**64 - 1
COUNT_MAX: Final = 2**63 - 1
"""NVML says "not known" with all bits set; no true count comes near."""

# NVML's return codes, as nvml.h numbers them.
UNINITIALIZED: Final = 1
INVALID_ARGUMENT: Final = 2
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
TIMEOUT: Final = 10
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
LIB_RM_VERSION_MISMATCH: Final = 18
GPU_NOT_FOUND: Final = 28

UNLOADED: Final = (UNINITIALIZED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH)
"""The driver is out, or another one is in: when it answers again, it was loaded anew."""

_REASONS: Final[Mapping[int, Reason]] = MappingProxyType(
    {
        3: Reason.NOT_SUPPORTED,
        4: Reason.NO_PERMISSION,
        UNINITIALIZED: Reason.DRIVER_ABSENT,
        DRIVER_NOT_LOADED: Reason.DRIVER_ABSENT,
        LIBRARY_NOT_FOUND: Reason.DRIVER_ABSENT,
        FUNCTION_NOT_FOUND: Reason.SYMBOL_MISSING,
        GPU_IS_LOST: Reason.GPU_LOST,
    }
)


def reason_of(code: int) -> Reason:
    """Why a field has no value, from the code NVML returned for it."""
    return _REASONS.get(code, Reason.DRIVER_ERROR)


class Period(enum.Enum):
    """When a call is made."""

    START = enum.auto()
    """When the GPU is enumerated, and when it is enumerated anew."""
    TICK = enum.auto()
    """At every poll."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the schema.

    `take` gets it out of its call's answer; times `scale` it is in the schema's unit. A number
    below `low` or above `high`, both before scaling, cannot be; `high` 0 stands for a text.
    """

    name: str
    take: Callable[[object], object]
    high: int = 0
    low: int = 0
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call of NVML by pynvml's name for it, and the fields of one group that it answers."""

    group: Group
    function: str
    fields: tuple[Field, ...]
    arguments: tuple[object, ...] = ()
    otherwise: str | None = None
    """The older function with the same answer, for libraries that have only it."""
    hidden_by_mig: bool = False
    """NOT_SUPPORTED may only mean that the GPU is in MIG mode."""

    @property
    def period(self) -> Period:
        """Identity does not change under a running driver; all else may."""
        return Period.START if self.group is Group.IDENTITY else Period.TICK


class _Value(Protocol):
    """NVML's value of a field id, c_nvmlFieldValue_t."""

    nvmlReturn: int  # noqa: N815  # NVML's names
    valueType: int  # noqa: N815
    value: object


_VALUE_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""The union's member for each NVML_VALUE_TYPE, which is its index."""


def _whole(answer: object) -> object:
    return answer


def _item(index: int) -> Callable[[object], object]:
    return lambda answer: cast("Sequence[object]", answer)[index]


def _value(index: int) -> Callable[[object], object]:
    """The value at `index` of a batch of field ids, or why that one has none."""

    def take(answer: object) -> object:
        entry = cast("Sequence[_Value]", answer)[index]
        if entry.nvmlReturn != 0:
            return reason_of(entry.nvmlReturn)
        if not 0 <= entry.valueType < len(_VALUE_MEMBERS):
            return Reason.INVALID_VALUE
        return getattr(entry.value, _VALUE_MEMBERS[entry.valueType])

    return take


def _text(name: str, function: str) -> Call:
    return Call(Group.IDENTITY, function, (Field(name, _whole),))


def _ecc(name: str, kind: int, counter: int) -> Call:
    fields = (Field(name, _whole, COUNT_MAX),)
    return Call(Group.HEALTH, "nvmlDeviceGetTotalEccErrors", fields, (kind, counter))


_CORRECTED: Final = 0  # NVML_MEMORY_ERROR_TYPE_CORRECTED
_UNCORRECTED: Final = 1
_VOLATILE: Final = 0  # NVML_VOLATILE_ECC
_AGGREGATE: Final = 1
_GPU_SENSOR: Final = 0  # NVML_TEMPERATURE_GPU
_CLOCK_SM: Final = 1
_CLOCK_MEMORY: Final = 2
_MEMORY_V2: Final = 0x2000028  # the answer that tells reserved memory from used, as nvidia-smi does
_FIELD_MEMORY_TEMPERATURE: Final = 82
_FIELD_RECOVERY_ACTION: Final = 230

CELSIUS_MAX: Final = 200
MEMORY_BYTES_MAX: Final = 2**50
POWER_MW_MAX: Final = 10_000_000
CLOCK_MHZ_MAX: Final = 20_000

CALLS: Final[tuple[Call, ...]] = (
    _text("name", "nvmlDeviceGetName"),
    _text("serial", "nvmlDeviceGetSerial"),
    _text("board_part_number", "nvmlDeviceGetBoardPartNumber"),
    Call(
        Group.IDENTITY,
        "nvmlDeviceGetPdi",
        (Field("pdi", _whole, UINT64_MAX - 1, 1),),
    ),
    _text("vbios_version", "nvmlDeviceGetVbiosVersion"),
    _text("inforom_image_version", "nvmlDeviceGetInforomImageVersion"),
    Call(
        Group.IDENTITY,
        "nvmlDeviceGetPciInfo",
        (
            Field("pci_bus_id", attrgetter("busId")),
            Field("pci_device_id", attrgetter("pciDeviceId"), UINT32_MAX - 1, 1),
            Field("pci_subsystem_id", attrgetter("pciSubSystemId"), UINT32_MAX - 1),
        ),
    ),
    Call(
        Group.IDENTITY,
        "nvmlDeviceGetMemoryInfo",
        (Field("memory_total_bytes", attrgetter("total"), MEMORY_BYTES_MAX, 1),),
        (_MEMORY_V2,),
    ),
    Call(
        Group.IDENTITY,
        "nvmlDeviceGetPowerManagementDefaultLimit",
        (Field("power_limit_default_mw", _whole, POWER_MW_MAX, 1),),
    ),
    Call(
        Group.IDENTITY,
        "nvmlDeviceGetArchitecture",
        (Field("architecture", _whole, 1_000, 1),),
    ),
    Call(
        Group.HEALTH,
        "nvmlDeviceGetTemperatureV",
        (Field("temperature_mc", _whole, CELSIUS_MAX, scale=1_000),),
        (_GPU_SENSOR,),
        otherwise="nvmlDeviceGetTemperature",
    ),
    Call(
        Group.HEALTH,
        "nvmlDeviceGetFieldValues",
        (
            Field("memory_temperature_mc", _value(0), CELSIUS_MAX, scale=1_000),
            Field("recovery_action", _value(1), 255),
        ),
        ((_FIELD_MEMORY_TEMPERATURE, _FIELD_RECOVERY_ACTION),),
    ),
    Call(Group.HEALTH, "nvmlDeviceGetEccMode", (Field("ecc_enabled", _item(0), 1),)),
    _ecc("ecc_corrected_volatile", _CORRECTED, _VOLATILE),
    _ecc("ecc_uncorrected_volatile", _UNCORRECTED, _VOLATILE),
    _ecc("ecc_corrected_aggregate", _CORRECTED, _AGGREGATE),
    _ecc("ecc_uncorrected_aggregate", _UNCORRECTED, _AGGREGATE),
    Call(
        Group.HEALTH,
        "nvmlDeviceGetRemappedRows",
        (
            Field("remapped_rows_corrected", _item(0), UINT32_MAX - 1),
            Field("remapped_rows_uncorrected", _item(1), UINT32_MAX - 1),
            Field("remap_pending", _item(2), 1),
            Field("remap_failed", _item(3), 1),
        ),
        hidden_by_mig=True,
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetUtilizationRates",
        (
            Field("gpu_utilisation_bps", attrgetter("gpu"), 100, scale=100),
            Field("memory_utilisation_bps", attrgetter("memory"), 100, scale=100),
        ),
        hidden_by_mig=True,
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetMemoryInfo",
        (Field("memory_used_bytes", attrgetter("used"), MEMORY_BYTES_MAX),),
        (_MEMORY_V2,),
    ),
    Call(Group.USE, "nvmlDeviceGetPowerUsage", (Field("power_mw", _whole, POWER_MW_MAX),)),
    Call(
        Group.USE,
        "nvmlDeviceGetEnforcedPowerLimit",
        (Field("power_limit_mw", _whole, POWER_MW_MAX),),
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetTotalEnergyConsumption",
        (Field("energy_mj", _whole, COUNT_MAX),),
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetClockInfo",
        (Field("sm_clock_mhz", _whole, CLOCK_MHZ_MAX),),
        (_CLOCK_SM,),
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetClockInfo",
        (Field("memory_clock_mhz", _whole, CLOCK_MHZ_MAX),),
        (_CLOCK_MEMORY,),
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetCurrentClocksEventReasons",
        (Field("clocks_event_reasons", _whole, UINT64_MAX - 1),),
        otherwise="nvmlDeviceGetCurrentClocksThrottleReasons",
    ),
    Call(
        Group.USE,
        "nvmlDeviceGetPerformanceState",
        (Field("performance_state", _whole, 15),),
    ),
)

FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {field.name: field for call in CALLS for field in call.fields}
)
"""Every field by its name; no two groups share one."""


def names(period: Period) -> tuple[str, ...]:
    """The fields read in a period, in the order in which the driver's process sends them."""
    return tuple(field.name for call in CALLS if call.period is period for field in call.fields)


START_NAMES: Final = names(Period.START)
TICK_NAMES: Final = names(Period.TICK)


def admit(field: Field, raw: object) -> Sample:
    """What NVML answered, in the schema's unit; INVALID_VALUE for what cannot be."""
    if isinstance(raw, Reason):
        return raw
    if field.high == 0:
        return admit_text(raw)
    if not isinstance(raw, int) or not field.low <= raw <= field.high:
        return Reason.INVALID_VALUE
    return raw * field.scale


def in_bounds(field: Field, sample: Sample) -> bool:
    """Whether `sample`, in the schema's unit, is one that `admit` could have made."""
    if isinstance(sample, Reason):
        return True
    if isinstance(sample, str):
        return field.high == 0 and admit_text(sample) == sample
    return field.high > 0 and field.low * field.scale <= sample <= field.high * field.scale


def admit_text(raw: object) -> Sample:
    """A text that is UTF-8, printable, not empty and not too long; else INVALID_VALUE."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        return Reason.INVALID_VALUE
    if not isinstance(text, str) or not text.isprintable() or not text.strip():
        return Reason.INVALID_VALUE
    return text if len(text.encode()) <= TEXT_BYTES_MAX else Reason.INVALID_VALUE


def subject_of(uuid: str) -> bytes | None:
    """NVML's "GPU-4404041a-04cf-1ccf-9e70-f139a9b1e23c" to 16 bytes; None for anything else."""
    try:
        subject = bytes.fromhex(uuid.removeprefix("GPU-").replace("-", ""))
    except ValueError:
        return None
    return subject if len(subject) == SUBJECT_BYTES and any(subject) else None


def uuid_of(subject: bytes) -> str:
    """16 bytes to NVML's way of writing a UUID."""
    digits = subject.hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
