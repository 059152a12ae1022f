"""The scenario file of a simulated host: its fleet, what it works on, and what breaks when.

    seed: 7                  # the same seed is the same host: serials, parts, UUIDs
    fleets:
      - profile: h100
        count: 8
        load: {shape: training}
    faults:
      - {at_s: 45, kind: fall_off_bus, gpu: 2}
      - {at_s: 90, kind: return, gpu: 2}

Times are seconds after the agent started. A GPU is named by its place in the fleets, from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from assay_agent.telemetry.models import MODELS, ModelName
from assay_core import files
from assay_core.errors import FileError

GPUS_MAX: Final = 64
"""As many as one window has room for."""
FAULTS_MAX: Final = 1_000
CELSIUS_MAX: Final = 150
MIG_MAX: Final = 7
NVLINKS_MAX: Final = 18

Seconds = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]
Place = Annotated[int, msgspec.Meta(ge=0, lt=GPUS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]

Shape = Literal["idle", "steady", "diurnal", "burst", "training", "measured"]


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a fleet works on.

    steady: always at `level_pct`. diurnal: from 0 to it and back, once in `period_s`. burst: at it
    for `duty_pct` of each period, else idle. training: the same, but between two bursts (while a
    checkpoint is written) at a tenth of it. measured: as a recorded inference cluster worked, each
    GPU for itself (shapes.py); it has its own levels and times.
    """

    shape: Shape = "idle"
    level_pct: Percent = 95
    period_s: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    """Default: a day for diurnal, 5 min for burst, 10 min for training."""
    duty_pct: Percent | None = None
    """Default: 50 for burst, 95 for training."""


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GPUs of one model with one load."""

    profile: ModelName
    count: Annotated[int, msgspec.Meta(ge=1, le=GPUS_MAX)] = 8
    load: Load = Load()
    mig: Annotated[int, msgspec.Meta(ge=0, le=MIG_MAX)] = 0
    """Into how many instances each is cut from the start; 0: into none."""


class _Fault(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"
):
    at_s: Seconds


class _GpuFault(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    gpu: Place


class FallOffBus(_GpuFault, frozen=True, tag="fall_off_bus"):
    """Xid 79, and the GPU is lost until it returns."""


class Return(_GpuFault, frozen=True, tag="return"):
    """A lost GPU is back; what counts from driver load starts anew."""


class Xid(_GpuFault, frozen=True, kw_only=True, tag="xid"):
    """An Xid event, and nothing else."""

    code: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]


class Ecc(_GpuFault, frozen=True, kw_only=True, tag="ecc"):
    """So many more ECC errors."""

    corrected: Count = 0
    uncorrected: Count = 0


class RemapFailed(_GpuFault, frozen=True, tag="remap_failed"):
    """Xid 64: a row could not be remapped, for good."""


class Thermal(_GpuFault, frozen=True, kw_only=True, tag="thermal"):
    """So hot for so long, its clocks slowed down."""

    for_s: Seconds
    celsius: Annotated[int, msgspec.Meta(ge=0, le=CELSIUS_MAX)] = 92


class DriverHang(_Fault, frozen=True, kw_only=True, tag="driver_hang"):
    """No driver call of the host returns for so long."""

    for_s: Seconds


class RemapPending(_GpuFault, frozen=True, kw_only=True, tag="remap_pending"):
    """Xid 63: so many rows wait to be remapped by a reset or a return."""

    rows: Annotated[int, msgspec.Meta(ge=1, le=512)] = 1


class SramThreshold(_GpuFault, frozen=True, tag="sram_threshold"):
    """More uncorrected SRAM errors than a field diagnosis lets pass, for good."""


class UnrepairableMemory(_GpuFault, frozen=True, tag="unrepairable_memory"):
    """The driver calls the memory beyond repair, for good."""


class InforomCorrupted(_GpuFault, frozen=True, tag="inforom_corrupted"):
    """The inforom's checksum does not hold any more."""


class RecoveryAction(_GpuFault, frozen=True, kw_only=True, tag="recovery_action"):
    """The driver asks for an action (1 reset, 2 reboot, 3 drain …) until a reset or a return."""

    action: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1


class NvlinkDown(_GpuFault, frozen=True, kw_only=True, tag="nvlink_down"):
    """Xid 74, and a link is inactive for so long; without a time, until a reset or a return."""

    link: Annotated[int, msgspec.Meta(ge=0, lt=NVLINKS_MAX)] = 0
    for_s: Seconds | None = None


class PcieReplays(_GpuFault, frozen=True, kw_only=True, tag="pcie_replays"):
    """So many packets sent again at once."""

    count: Count


class PowerBrake(_GpuFault, frozen=True, kw_only=True, tag="power_brake"):
    """The power brake slows the clocks down for so long."""

    for_s: Seconds


class Hidden(_GpuFault, frozen=True, kw_only=True, tag="hidden"):
    """On the bus with the driver, and not shown by it, for so long."""

    for_s: Seconds


class PassedThrough(_GpuFault, frozen=True, kw_only=True, tag="passed_through"):
    """A virtual machine has it for so long."""

    for_s: Seconds


class Reset(_GpuFault, frozen=True, tag="reset"):
    """It is reset while the driver stays: what waits for a reset is done."""


class Poison(_GpuFault, frozen=True, kw_only=True, tag="poison"):
    """Poisoned data was met, fatal to what ran or not."""

    fatal: bool = False


class DramRetirement(_GpuFault, frozen=True, kw_only=True, tag="dram_retirement"):
    """Memory was retired, or that failed."""

    failed: bool = False


class Unavailable(_GpuFault, frozen=True, tag="unavailable"):
    """The driver calls the GPU unavailable."""


class Mig(_GpuFault, frozen=True, kw_only=True, tag="mig"):
    """It is cut into so many instances; 0: whole again."""

    instances: Annotated[int, msgspec.Meta(ge=0, le=MIG_MAX)]


GpuFault = (
    FallOffBus
    | Return
    | Xid
    | Ecc
    | RemapFailed
    | Thermal
    | RemapPending
    | SramThreshold
    | UnrepairableMemory
    | InforomCorrupted
    | RecoveryAction
    | NvlinkDown
    | PcieReplays
    | PowerBrake
    | Hidden
    | PassedThrough
    | Reset
    | Poison
    | DramRetirement
    | Unavailable
    | Mig
)
Fault = GpuFault | DriverHang


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of a scenario file."""

    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    fleets: Annotated[tuple[Fleet, ...], msgspec.Meta(min_length=1, max_length=GPUS_MAX)]
    faults: Annotated[tuple[Fault, ...], msgspec.Meta(max_length=FAULTS_MAX)] = ()


def parse(text: str, name: str) -> Scenario:
    """Reads a scenario. Raises FileError with line and field."""
    scenario = files.parse(text, Scenario, name)
    count = sum(fleet.count for fleet in scenario.fleets)
    if count > GPUS_MAX:
        raise FileError(f"{name}: fleets: {count} GPUs; a host has at most {GPUS_MAX}")
    profiles = [fleet.profile for fleet in scenario.fleets for _ in range(fleet.count)]
    lost: set[int] = set()
    for fault in sorted(scenario.faults, key=at_s):
        if isinstance(fault, DriverHang):
            continue
        where = f"{name}: faults: {_kind(fault)} at {fault.at_s} s"
        if fault.gpu >= count:
            raise FileError(f"{where}: there is no GPU {fault.gpu}: {count} GPUs, from 0")
        if isinstance(fault, NvlinkDown) and fault.link >= MODELS[profiles[fault.gpu]].nvlinks:
            raise FileError(f"{where}: {profiles[fault.gpu]} has no NVLink {fault.link}")
        if isinstance(fault, FallOffBus) and fault.gpu in lost:
            raise FileError(f"{where}: GPU {fault.gpu} is lost already")
        if isinstance(fault, Return) and fault.gpu not in lost:
            raise FileError(f"{where}: GPU {fault.gpu} is not lost")
        if isinstance(fault, FallOffBus):
            lost.add(fault.gpu)
        elif isinstance(fault, Return):
            lost.discard(fault.gpu)
    return scenario


def load(path: Path) -> Scenario:
    """Reads a scenario file. Raises FileError with line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read: {why}") from error
    return parse(text, str(path))


def at_s(fault: Fault) -> int:
    """When it happens: the order of faults."""
    return fault.at_s


def _kind(fault: Fault) -> str:
    return str(fault.__struct_config__.tag)
