"""Which incidents there are and how bad each is: data, each row with where it comes from.

A first set. Sources: "catalogue" is NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors) with
its recommended action; "DCGM" its health watches and limits; "RMA" NVIDIA's criteria for returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_valuer.standing.types import Kind, Severity

ROWS_UNCORRECTED_MAX: Final = 512
"""Uncorrectable row remaps at which DCGM asks for a return (DcgmGPUHardwareLimits.h)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How bad incidents of a kind and its codes are; no codes: all of them.

    `recurs`: a second one within the policy's recurrence time is impaired.
    """

    kind: Kind
    codes: tuple[int, ...]
    severity: Severity
    meaning: str
    source: str
    recurs: bool = False


_I, _D, _U = Severity.IMPAIRED, Severity.DEGRADED, Severity.USER_ERROR

RULES: Final = (
    Rule(Kind.REMAP_FAILED, (), _I, "a memory row could not be remapped", "RMA; DCGM"),
    Rule(
        Kind.ROWS_EXHAUSTED,
        (),
        _I,
        f"{ROWS_UNCORRECTED_MAX} or more rows remapped after uncorrectable errors",
        "DCGM, DcgmGPUHardwareLimits.h",
    ),
    Rule(Kind.REMAP_PENDING, (), _D, "a row remap waits for a reset", "catalogue, Xid 63"),
    Rule(Kind.RECOVERY_ACTION, (), _D, "the driver asks for a recovery action", "NVML field 230"),
    Rule(Kind.GPU_LOST, (), _D, "the GPU is gone from its host", "catalogue, Xid 79: RESTART_BM"),
    Rule(Kind.XID, (64,), _I, "row remapping failed", "catalogue: RESET_GPU, CONTACT_SUPPORT"),
    Rule(
        Kind.XID,
        (157, 165, 168),
        _I,
        "retirement failed, wear-out, or reduced memory",
        "catalogue",
    ),
    Rule(Kind.XID, (79,), _D, "the GPU fell off the bus", "catalogue: RESTART_BM"),
    Rule(
        Kind.XID,
        (46, 48, 62, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
        _D,
        "the GPU needs a reset",
        "catalogue: RESET_GPU",
        recurs=True,
    ),
    Rule(Kind.XID, (63,), _D, "a row remap waits for a reset", "catalogue: IGNORE; DCGM WARN"),
    Rule(Kind.XID, (92, 93), _D, "high error rate, or inforom", "catalogue: CONTACT_SUPPORT"),
    Rule(Kind.XID, (74, *range(144, 151)), _D, "an NVLink error", "catalogue: NVLink workflow"),
    Rule(Kind.XID, (94,), _U, "a contained memory error", "catalogue: RESTART_APP"),
    Rule(
        Kind.XID,
        (8, 11, 13, 25, 31, 32, 37, 38, 39, 40, 41, 43, 44, 45, 68, 69),
        _U,
        "an application's error",
        "catalogue: RESTART_APP or IGNORE",
    ),
)

UNKNOWN_XID: Final = Rule(
    Kind.XID, (), _D, "an Xid that our table does not know", "judgement: unknown is not well"
)
XID_IGNORED: Final = frozenset({154})
"""Xid 154 only points at the driver's recovery action, which is read by itself."""


def rule_for(kind: Kind, code: int) -> Rule:
    """The row for an incident; an Xid in no row is degraded."""
    return _BY_CODE.get((kind, code)) or _BY_KIND.get(kind) or UNKNOWN_XID


_BY_CODE: Final = {(rule.kind, code): rule for rule in RULES for code in rule.codes}
_BY_KIND: Final = {rule.kind: rule for rule in RULES if not rule.codes}
