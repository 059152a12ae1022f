"""Which incidents there are and how bad each is: data, each row with where it comes from.

What the sources are:

- *catalogue*: NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, table 1, as of 2025-10-29,
  Xids 1 to 172) with its recommended action in its own words: first the immediate one, then, after
  "then", the investigatory one. The classes follow it, and not gpud's table, which calls fatal what
  NVIDIA ignores (32, 38, 44, 60, 63, 68, 69, 94, 121) and passes over what NVIDIA resets for (109,
  136, 151, 155, 156, 158).
- *RMA*: NVIDIA's criteria for a return (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt).
- *DCGM*: its health watches (DcgmHealthWatch.cpp) and limits (DcgmGPUHardwareLimits.h).
- *health-validation*: docs.nvidia.com/health-validation/reference/checks.
- *nvml.h*: NVIDIA's header, release 13.3.
- *judgement*: ours, where no source decides.

An *impaired* GPU is due for return or out of service; a *degraded* one needs a reset, a repair or a
look; a *user error* is an application's, and is only logged. An unknown Xid is degraded: unknown is
not well.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

from assay_core.leaves import EventKind, IncidentKind, Severity


class Ends(enum.StrEnum):
    """What ends an incident. The times are the policy's."""

    QUIET = "quiet"  # it has not come again for a day
    RESTART = "restart"  # the same, or the GPU was reset, or the driver or host came up anew
    CLEARED = "cleared"  # the reading is well again, or the GPU is back
    MEASURED = "measured"  # the rate has been below the limit for an hour
    NEVER = "never"  # only a repair ends it, and no reading shows that


class Cure(enum.StrEnum):
    """The restart that must cure an incident: what stands after it is impaired."""

    NONE = "none"
    RESET = "reset"  # of the GPU, the driver or the host
    BOOT = "boot"  # of the host


Key = tuple[IncidentKind, int]
"""An incident's kind and code: a GPU has at most one open incident of each."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How bad incidents of a kind and its codes are; no codes: all that have no row of their own.

    `severity` None is a pointer: no incident, only what it cancels. `again`: the occasions within
    the policy's recurrence time, this one included, from which on it is one class worse; 0: never.
    Occasions are a restart apart that should have cured it, or a day. `cancels`: what it ends, if
    that began before.
    """

    kind: IncidentKind
    codes: tuple[int, ...]
    severity: Severity | None
    meaning: str
    action: str
    source: str
    ends: Ends
    again: int = 0
    cure: Cure = Cure.NONE
    cancels: tuple[Key, ...] = ()


_I, _D, _U = Severity.IMPAIRED, Severity.DEGRADED, Severity.USER_ERROR
_XID: Final = IncidentKind.XID
_RESET: Final = "reset the GPU"
_RETURN: Final = "take it out of service; field diagnosis, return"
_LINKS: Final = "NVLink workflow: drain, reset, restart, then service"
_APP: Final = "restart the application"
_LOOK: Final = "ask the vendor"

ROWS_UNCORRECTED_MAX: Final = 512
"""Rows remapped after uncorrectable errors at which a return is due. DCGM."""
PAGES_RETIRED_MAX: Final = 63
"""Retired pages, single and double bit together, at which a return is due. DCGM; before Ampere."""
PAGES_DOUBLE_BIT_MAX: Final = 15
"""Pages retired for double bit errors beyond which more than one in a week is a return. DCGM."""
PAGES_PER_WEEK_MAX: Final = 1
NVLINK_REPLAYS_PER_MIN: Final = 1
"""NVLink replays and recoveries a minute from which on links fail. DCGM."""
NVLINK_CRC_PER_S: Final = 100
"""NVLink CRC errors a second from which on links fail. DCGM."""
PCIE_REPLAYS_CENTI: Final = {1: 15, 2: 30, 3: 48, 4: 96, 5: 192, 6: 384}
"""PCIe replays a minute and lane that are still well, in hundredths, by generation. DCGM: the limit
is the product with the lanes, rounded up; the fifth generation's 16 lanes may have 31."""
SLOWDOWN_SHARE_PCT: Final = 60
"""Share of time held down, percent, from which on a slowdown is sustained. gpud calls 0.6 events a
minute over 10 minutes unhealthy, an event being a poll, once a minute, that met the slowdown: the
same share, here of time and not of polls. DCGM warns of any: more than one could act on."""
REPEATS_DAYS: Final = 8
"""Days within thirty on which an application's error makes the GPU suspect. The sources say only
"repeated": an occasion is a day apart from the one before, since one crash looping for a night is
one application's. Judgement, by bench/false_alarms.py: of GPUs where nothing was the matter 5 days
call 250 a 1,000 GPU-years degraded, 8 call 13, and 12 none but later."""
SPAN_MIN_MS: Final = 60_000
"""Least time over which a rate is taken: DCGM's limits are a minute's."""
SLOWDOWN_SPAN_MS: Final = 600_000
"""Least time over which a slowdown is taken: gpud's 10 minutes."""

FABRIC_UNHEALTHY: Final = (2, 3)
"""nvml.h, fabric health summary: unhealthy, limited capacity."""
FABRIC_PROBED: Final = 3
"""nvml.h, fabric state "completed": its status then tells whether that went well."""
FABRIC_FLAGS: Final = ((0, "degraded bandwidth"), (4, "route unhealthy"), (6, "timeout recovery"))
"""nvml.h, fabric health mask: two bits each from this one up, of which 1 says yes."""
FABRIC_CONFIGURATION_SHIFT: Final = 8
"""nvml.h, fabric health mask: four bits from this one up, of which 2 and more name what is wrong
with the configuration (1: nothing; 0: not told)."""

NVLINK_MODELS: Final = (
    # What is in the name, what is not in it, links, MB/s a link.
    ("GB200", "", 18, 53_125),
    ("GB300", "", 18, 53_125),
    ("B200", "", 18, 53_125),
    ("B300", "", 18, 53_125),
    ("H200", "NVL", 18, 26_562),
    ("H100 80GB HBM3", "", 18, 26_562),
)
"""Models whose links are all in use on the boards they are sold on. health-validation checks/nvlink
for H100 and GB200 (18 links of 26,562 and 53,125 MB/s); the others share their link's generation.
A model that is not here (a bridge, or none, may be plugged on it) is held to the most links it was
seen with, and a link to the speed of most of them."""

RULES: Final[tuple[Rule, ...]] = (
    # --------------------------------------------------------------- conditions that readings show
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (1,),
        _D,
        "the driver asks for a reset of the GPU",
        _RESET,
        "nvml.h, field 230: GPU_RESET. Standing after a reset is impaired: judgement",
        Ends.CLEARED,
        cure=Cure.RESET,
    ),
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (2, 7),
        _D,
        "the driver asks for a reboot",
        "reboot the host",
        "nvml.h, field 230: NODE_REBOOT, SYSTEM_REBOOT. Standing after it is impaired: judgement",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (3,),
        _D,
        "the driver asks to end peer-to-peer traffic",
        "drain peer-to-peer work, then reset",
        "nvml.h, field 230: DRAIN_P2P. Standing after a reboot is impaired: judgement",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (4, 6),
        _D,
        "the driver asks for a drain and a reset, or for a reset of the bus",
        "drain the host, then reset",
        "nvml.h, field 230: DRAIN_AND_RESET, BUS_RESET. Standing after a reset is impaired: "
        "judgement",
        Ends.CLEARED,
        cure=Cure.RESET,
    ),
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (5,),
        _D,
        "the driver asks to recover the IMEX domain",
        "recover the NVLink domain",
        "nvml.h, field 230: RECOVER_IMEX_DOMAIN. Standing after a reboot is impaired: judgement",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.RECOVERY_ACTION,
        (),
        _D,
        "the driver asks for an action that this version does not know",
        "service",
        "nvml.h, field 230; an unknown action needs service: judgement",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.REMAP_FAILED,
        (),
        _I,
        "a memory row could not be remapped",
        _RETURN,
        "RMA; DCGM FAIL",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.REMAP_PENDING,
        (),
        _D,
        "a row remap waits for a reset",
        "reset at a convenient time",
        "DCGM WARN; catalogue, Xid 63: IGNORE",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.ROWS_EXHAUSTED,
        (),
        _I,
        f"{ROWS_UNCORRECTED_MAX} or more rows remapped after uncorrectable errors",
        _RETURN,
        "DCGM, DcgmGPUHardwareLimits.h",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.UNREPAIRABLE_MEMORY,
        (),
        _I,
        "memory is beyond repair",
        _RETURN,
        "DCGM FAIL, DcgmHealthWatch.cpp; nvml.h, unrepairable memory flag",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.SRAM_THRESHOLD,
        (),
        _I,
        "SRAM errors exceed the limit at which a field diagnosis is due",
        _RETURN,
        "nvml.h, bThresholdExceeded of the SRAM error status",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.REPAIR_PENDING,
        (),
        _D,
        "a repair of memory channels or TPCs, or a page's retirement, waits for a reset",
        "reset at a convenient time",
        "nvml.h, repair status and field 31; class as of a pending remap",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.PAGES_EXHAUSTED,
        (),
        _I,
        f"{PAGES_RETIRED_MAX} or more pages retired, or over {PAGES_DOUBLE_BIT_MAX} for double bit "
        "errors and more than one of them within a week (before Ampere)",
        _RETURN,
        "DCGM, DcgmGPUHardwareLimits.h; RMA",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.INFOROM_CORRUPTED,
        (),
        _I,
        "the checksum of the inforom does not hold",
        "dispute the identity; service",
        "DCGM WARN; impaired since who the GPU is hangs on it: judgement",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.NVLINK_DOWN,
        (),
        _D,
        "an NVLink is inactive or slow",
        _LINKS,
        "health-validation checks/nvlink",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.NVLINK_ERRORS,
        (),
        _D,
        f"NVLinks replay or recover {NVLINK_REPLAYS_PER_MIN} time a minute or more, have "
        f"{NVLINK_CRC_PER_S} CRC errors a second or more, or failed to recover",
        _LINKS,
        "DCGM FAIL, DcgmGPUHardwareLimits.h; recoveries that failed: judgement",
        Ends.MEASURED,
    ),
    Rule(
        IncidentKind.PCIE_REPLAYS,
        (),
        _D,
        "PCIe packets are sent again more often than generation and lanes excuse",
        "reseat; check riser and slot",
        "DCGM, DcgmGPUHardwareLimits.h",
        Ends.MEASURED,
    ),
    Rule(
        IncidentKind.PCIE_DEGRADED,
        (),
        _D,
        "the PCIe link has fewer lanes than GPU and slot have",
        "reseat; check riser and slot",
        "nvml.h, current and greatest link width; class: judgement",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.PCIE_ERRORS,
        (),
        _D,
        "the PCIe link had a fatal error",
        "reseat; check riser and slot",
        "nvml.h, field 182 (AER, fatal); class: judgement",
        Ends.MEASURED,
    ),
    Rule(
        IncidentKind.THERMAL_SLOWDOWN,
        (),
        _D,
        f"heat held the clocks down {SLOWDOWN_SHARE_PCT}% of 10 minutes or more",
        "mend the cooling",
        "gpud: 0.6 events a minute over 10 minutes; DCGM WARN",
        Ends.MEASURED,
    ),
    Rule(
        IncidentKind.POWER_BRAKE,
        (),
        _D,
        f"the power brake held the clocks down {SLOWDOWN_SHARE_PCT}% of 10 minutes or more",
        "mend the power supply",
        "gpud: 0.6 events a minute over 10 minutes; DCGM WARN. The ordinary power cap is no "
        "incident: a busy GPU meets it",
        Ends.MEASURED,
    ),
    Rule(
        IncidentKind.HIDDEN,
        (),
        _D,
        "on the PCI bus, and not shown by the driver",
        "restart the host, then reseat",
        "catalogue, Xid 79: RESTART_BM; impaired if it survives that",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.PHANTOM,
        (),
        _D,
        "shown by the driver, and not on the PCI bus",
        "find out which driver library answers: NVIDIA publishes one that makes GPUs up",
        "our rule: sysfs against NVML's list; k8s-test-infra, pkg/gpu/mocknvml",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.BANKS_EXHAUSTED,
        (),
        _D,
        "memory banks have no spare rows left",
        "watch: the next row of these banks cannot be remapped",
        "nvml.h, row remapper histogram; class: judgement",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.SMOOTHING_WORN,
        (),
        _I,
        "the power smoothing circuitry has no life left",
        "replace it where the site needs power smoothing",
        "nvml.h, field 258; catalogue, Xid 165",
        Ends.CLEARED,
    ),
    Rule(
        IncidentKind.FABRIC,
        (),
        _D,
        "the NVLink fabric calls the GPU unhealthy or short of bandwidth",
        _LINKS,
        "nvml.h, fabric health summary, mask and status; class: judgement",
        Ends.CLEARED,
    ),
    # ----------------------------------------------------------------------------- events of NVML
    Rule(
        IncidentKind.GPU_LOST,
        (),
        _D,
        "the GPU is gone from its host",
        "restart the host, then reseat",
        "catalogue, Xid 79: RESTART_BM; impaired if it survives that or lasts a day",
        Ends.CLEARED,
        cure=Cure.BOOT,
    ),
    Rule(
        IncidentKind.DRAM_RETIREMENT,
        (),
        _I,
        "a DRAM retirement failed",
        _RETURN,
        "nvml.h, event 0x800; catalogue, Xid 64: RESET_GPU, then CONTACT_SUPPORT",
        Ends.NEVER,
    ),
    Rule(
        IncidentKind.POISON,
        (1,),
        _D,
        "poisoned data was met, and it was fatal",
        _RESET,
        "nvml.h, event 0x2000; class as of Xid 95",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        IncidentKind.POISON,
        (),
        _U,
        "poisoned data was met and contained",
        _APP,
        "nvml.h, event 0x1000; class as of Xid 94",
        Ends.QUIET,
        again=2,
    ),
    Rule(
        IncidentKind.UNAVAILABLE,
        (),
        _D,
        "the driver calls the GPU unavailable",
        "follow the recovery action",
        "nvml.h, event 0x4000; class: judgement",
        Ends.RESTART,
    ),
    # ------------------------------------------------------------------------- Xids that are grave
    Rule(
        _XID,
        (64,),
        _I,
        "a row could not be remapped: its bank or the GPU has no spare rows",
        "isolate: a reset restores it for a time only; field diagnosis, return",
        "catalogue: RESET_GPU, then CONTACT_SUPPORT; RMA",
        Ends.NEVER,
    ),
    Rule(
        _XID,
        (157,),
        _I,
        "what is broken cannot be retired: no spares are left",
        _RETURN,
        "catalogue: IGNORE, then CONTACT_SUPPORT (no repairs are possible)",
        Ends.NEVER,
    ),
    Rule(
        _XID,
        (165,),
        _I,
        "the power smoothing circuitry has no life left",
        "replace it where the site needs power smoothing",
        "catalogue: replace where power swings are not acceptable",
        Ends.NEVER,
    ),
    Rule(
        _XID,
        (168,),
        _I,
        "the GPU runs with less memory than it has",
        "enable ECC, or boot again; else price it as a lesser model",
        "catalogue: enable ECC, or boot with the protected region shifted",
        Ends.RESTART,
    ),
    # ------------------------------------------------------------------ Xids that a reset may cure
    Rule(
        _XID,
        (79,),
        _D,
        "the GPU fell off the bus",
        "restart the host, then reseat",
        "catalogue: RESTART_BM, then CONTACT_SUPPORT; gpud: inspection after two reboots",
        Ends.RESTART,
        again=3,
        cure=Cure.BOOT,
    ),
    Rule(
        _XID,
        (48, 171, 172),
        _D,
        "an uncorrectable memory error (171: DRAM, 172: SRAM)",
        _RESET,
        "catalogue: WORKFLOW_XID_48; 171 and 172 tell more of a 48",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (95, 140),
        _D,
        "an uncorrectable memory error was not contained",
        _RESET,
        "catalogue: RESET_GPU",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (46, 109, 158, 167),
        _D,
        "the GPU stopped or timed out",
        _RESET,
        "catalogue: RESET_GPU, then CONTACT_SUPPORT; 167 names no action there",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (62, 119, 120, 169),
        _D,
        "a microcontroller of the GPU halted or did not answer",
        _RESET,
        "catalogue: RESET_GPU, then CONTACT_SUPPORT or INVESTIGATE_SW; 169 names no action there",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (110, 143),
        _D,
        "a security fault, or the GPU did not initialise",
        _RESET,
        "catalogue: RESET_GPU, then INVESTIGATE_SW or CONTACT_SUPPORT",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (136, 155),
        _D,
        "an NVLink did not train, or went down by software",
        _RESET,
        "catalogue: RESET_GPU, then INVESTIGATE_LINK_SI or INVESTIGATE_SW_USER",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (156,),
        _D,
        "a broken resource is to be retired at the next reset",
        _RESET,
        "catalogue: RESET_GPU, then IGNORE",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (63, 160),
        _D,
        "a row remap or a channel's repair waits for a reset",
        "reset at a convenient time",
        "catalogue: IGNORE (160: then INVESTIGATE_SW); DCGM WARN; RMA page: 160 marks for repair",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (161,),
        _D,
        "a memory channel could not be retired",
        _LOOK,
        "catalogue: IGNORE, then INVESTIGATE_SW; twice is impaired: judgement",
        Ends.RESTART,
        again=2,
    ),
    Rule(
        _XID,
        (92,),
        _D,
        "many corrected memory errors",
        _LOOK,
        "catalogue: IGNORE, then CONTACT_SUPPORT",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (93,),
        _D,
        "the inforom was written more often than it is made for",
        _LOOK,
        "catalogue: IGNORE, then CONTACT_SUPPORT; DCGM: inforom on Volta alone",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (74, 144, 145, 146, 147, 148, 149, 150),
        _D,
        "an NVLink error",
        _LINKS,
        "catalogue: WORKFLOW_NVLINK_ERR, WORKFLOW_NVLINK5_ERR",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (151,),
        _D,
        "keys could not be rotated (confidential computing)",
        "restart the virtual machine",
        "catalogue: RESTART_VM, then CONTACT_SUPPORT",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (54,),
        _D,
        "auxiliary power is not connected",
        "check cables and seat",
        "catalogue: CHECK_MECHANICALS, then CONTACT_SUPPORT",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (142,),
        _D,
        "a video encoder failed",
        _LOOK,
        "catalogue: CONTACT_SUPPORT",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (162,),
        None,
        "power smoothing is engaged again: ends a 163 that came before",
        "none",
        "catalogue names no action; NVSentinel#1252: 162 cancels 163",
        Ends.QUIET,
        cancels=((_XID, 163),),
    ),
    Rule(
        _XID,
        (163,),
        _D,
        "power smoothing was disengaged",
        "mend the cooling; else reload the driver or reset",
        "catalogue: no reset required; resolve the thermal events",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (164,),
        _D,
        "the power smoothing circuitry is nearly worn out",
        "plan its replacement where the site needs power smoothing",
        "catalogue: expect to replace",
        Ends.NEVER,
    ),
    Rule(
        _XID,
        (166, 170),
        _D,
        "encrypted NVLink traffic went wrong (confidential computing)",
        _LOOK,
        "catalogue names no action; degraded: judgement",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (154,),
        None,
        "the recovery action changed: read by itself from field 230",
        "read the recovery action",
        "catalogue: informational, regarding another Xid",
        Ends.QUIET,
    ),
    # ------------------------------------------------------------------- Xids of applications
    Rule(
        _XID,
        (94,),
        _U,
        "an uncorrectable memory error was contained in one application",
        _APP,
        "catalogue: RESTART_APP; repeated is degraded",
        Ends.QUIET,
        again=2,
    ),
    Rule(
        _XID,
        (13, 31),
        _U,
        "an exception of the graphics engine, or a page fault",
        _APP + "; if it stays with the GPU, field diagnosis",
        "catalogue: RESTART_APP, then WORKFLOW_XID_13, WORKFLOW_XID_31; NVSentinel#270, #271. "
        f"From {REPEATS_DAYS} days on it is the GPU's: judgement, see bench/false_alarms.py",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (45,),
        _U,
        "channels were cleared away after another error",
        "none: follow the other Xid",
        "catalogue: WORKFLOW_XID_45. Never worse, however often: NVSentinel#1710 (672 false alarms "
        "in 3 hours)",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (8, 11, 25, 32, 43, 69),
        _U,
        "an application's error stopped its work",
        _APP,
        "catalogue: RESTART_APP (43: IGNORE), then CHECK_APP/CUDA or CONTACT_SUPPORT; repeats as 13",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (37, 38, 44),
        _U,
        "an error of the engine's firmware, or during a context switch",
        "none; if it stays with the GPU, ask the vendor",
        "catalogue: IGNORE, then CHECK_APP/CUDA or CONTACT_SUPPORT; repeats as 13",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)),
        _U,
        "an exception of a copy engine",
        _APP,
        "catalogue: RESTART_APP, then CONTACT_SUPPORT; repeats as 13",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (60, 68, 82, 83, 84, 86, 88, 89, *range(96, 106), 139),
        _U,
        "an exception of a video, JPEG or optical flow engine",
        _APP,
        "catalogue: RESTART_APP, then CONTACT_SUPPORT or INVESTIGATE_SW; repeats as 13",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (121,),
        _U,
        "a corrected error of the link between processor and GPU",
        "none; if it stays with the GPU, ask the vendor",
        "catalogue: IGNORE, then CONTACT_SUPPORT; repeats as 13",
        Ends.QUIET,
        again=REPEATS_DAYS,
    ),
    Rule(
        _XID,
        (66, 67, 80, 108, 137, 141, 152, 153, 159),
        _U,
        "a wrong access or broken data of software",
        "check application and driver",
        "catalogue: IGNORE, RESTART_APP (80) or CHECK_UVM (159)",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (78,),
        _U,
        "a virtual GPU did not start",
        "update software and firmware",
        "catalogue: UPDATE_SWFW",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (14, 106, 107),
        _U,
        "a test message, or one that is not in use",
        "none",
        "catalogue: IGNORE",
        Ends.QUIET,
    ),
    Rule(
        _XID,
        (
            *range(1, 8),
            *(9, 10, 12),
            *range(15, 25),
            *range(26, 31),
            *range(33, 37),
            *(42, 47),
            *range(49, 54),
            *(55, 56, 57, 58, 59, 61, 65, 73, 81, 87, 90, 91),
            *range(111, 119),
            *(122, 123, 124, 125, 138),
        ),
        _D,
        "an Xid that this generation of GPUs has no use for",
        _LOOK,
        "catalogue: unused, CONTACT_SUPPORT",
        Ends.RESTART,
    ),
    Rule(
        _XID,
        (),
        _D,
        "an Xid that is not in the catalogue",
        _LOOK,
        "unknown is not well: judgement",
        Ends.RESTART,
    ),
)

EVENTS: Final = {
    EventKind.XID: IncidentKind.XID,
    EventKind.GPU_LOST: IncidentKind.GPU_LOST,
    EventKind.DRAM_RETIREMENT: IncidentKind.DRAM_RETIREMENT,
    EventKind.POISON: IncidentKind.POISON,
    EventKind.UNAVAILABLE: IncidentKind.UNAVAILABLE,
}
"""The events that are incidents. A DRAM retirement that was done (code 0) is none."""
RETURNED_CANCELS: Final[tuple[Key, ...]] = ((IncidentKind.GPU_LOST, 0), (IncidentKind.HIDDEN, 0))
"""What a GPU's return ends."""

_BY_CODE: Final = {(rule.kind, code): rule for rule in RULES for code in rule.codes}
_BY_KIND: Final = {rule.kind: rule for rule in RULES if not rule.codes}
XIDS_KNOWN: Final = frozenset(code for kind, code in _BY_CODE if kind is _XID)
"""The Xids that have a row: all of the catalogue's."""


def rule_for(kind: IncidentKind, code: int) -> Rule:
    """The row for an incident: its code's, else its kind's."""
    return _BY_CODE.get((kind, code)) or _BY_KIND[kind]


def known(kind: IncidentKind, code: int) -> bool:
    """Whether the row is for this very thing: only an Xid may be unknown."""
    return kind is not _XID or code in XIDS_KNOWN


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule in words, as documents show it."""

    kind: str
    code: str
    meaning: str
    severity: str
    action: str
    persistence: str
    source: str


def rules_table() -> tuple[RuleRow, ...]:
    """Every rule in words, in the order of the rules."""
    return tuple(
        RuleRow(
            kind=rule.kind.name.lower(),
            code=_ranges(rule.codes) or ("others" if rule.kind in _PARTED else ""),
            meaning=rule.meaning,
            severity="pointer" if rule.severity is None else rule.severity.label,
            action=rule.action,
            persistence=_persistence(rule),
            source=rule.source,
        )
        for rule in RULES
    )


def _ranges(codes: tuple[int, ...]) -> str:
    """Codes as people write them: "1-7, 9, 10"."""
    runs: list[tuple[int, int]] = []
    for code in sorted(codes):
        if runs and code == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return ", ".join(
        str(first) if first == last else f"{first}{', ' if last == first + 1 else '-'}{last}"
        for first, last in runs
    )


def _persistence(rule: Rule) -> str:
    if rule.severity is None:
        return "no incident"
    said = [_ENDS[rule.ends]]
    if rule.severity is _I and rule.ends is Ends.RESTART:
        said = ["ends at a restart or after 30 quiet days"]
    if rule.again and rule.severity is _D:
        said.append(f"impaired from {rule.again} occasions in 30 days on, until 30 quiet days")
    elif rule.again:
        said.append(f"degraded from {rule.again} occasions in 30 days on")
    if rule.cure is not Cure.NONE:
        said.append(f"impaired if it survives a {rule.cure.value}")
    if rule.kind is IncidentKind.GPU_LOST:
        said.append("or lasts a day")
    return "; ".join(said)


_ENDS: Final = {
    Ends.QUIET: "ends after a quiet day",
    Ends.RESTART: "ends at a restart or after a quiet day",
    Ends.CLEARED: "ends when it is well again",
    Ends.MEASURED: "ends after an hour below the limit",
    Ends.NEVER: "does not end by itself",
}
_PARTED: Final = {rule.kind for rule in RULES if rule.codes}


def _sha256_8() -> str:
    limits = (
        ROWS_UNCORRECTED_MAX,
        (PAGES_RETIRED_MAX, PAGES_DOUBLE_BIT_MAX, PAGES_PER_WEEK_MAX),
        (NVLINK_REPLAYS_PER_MIN, NVLINK_CRC_PER_S),
        sorted(PCIE_REPLAYS_CENTI.items()),
        (SLOWDOWN_SHARE_PCT, SPAN_MIN_MS, SLOWDOWN_SPAN_MS),
        (FABRIC_UNHEALTHY, FABRIC_PROBED, FABRIC_FLAGS, FABRIC_CONFIGURATION_SHIFT),
        NVLINK_MODELS,
    )
    rows = [
        (
            int(rule.kind),
            rule.codes,
            None if rule.severity is None else int(rule.severity),
            rule.ends.value,
            rule.again,
            rule.cure.value,
            [(int(kind), code) for kind, code in rule.cancels],
        )
        for rule in RULES
    ]
    return hashlib.sha256(repr((rows, limits)).encode()).hexdigest()[:16]


XID_CATALOGUE_DATE: Final = "2025-10-29"
"""As of when NVIDIA's Xid catalogue was read, ISO 8601."""
RULES_SHA256_8: Final = _sha256_8()
"""What the rules decide by, hashed: the first 8 bytes, hexadecimal. Wording does not count."""
