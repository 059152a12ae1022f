"""The rules against what NVIDIA says, restated here by itself: nothing is read from the rules file
that it could agree with itself about.
"""

from __future__ import annotations

import pytest

from assay_core.health import RULES, RULES_SHA256_8, rule_for, rules_table
from assay_core.health.rates import pcie_replays_per_min_max
from assay_core.health.rules import known
from assay_core.leaves import IncidentKind, Severity

XID = IncidentKind.XID
IMPAIRED, DEGRADED, USER_ERROR = Severity.IMPAIRED, Severity.DEGRADED, Severity.USER_ERROR
POINTER = None

# NVIDIA's Xid catalogue, docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, table 1, as
# restated on 2025-10-29 by the generator of gpud's catalog_generated.go and read again on
# 2026-11-23: every Xid by its immediate action.
CATALOGUE = {
    "CONTACT_SUPPORT": [
        *range(1, 8),
        *(9, 10, 12),
        *range(15, 25),
        *range(26, 31),
        *range(33, 37),
        *(42, 47, 49, 50, 51, 52, 53, 55, 56, 57, 58, 59, 61, 65, 73, 81, 87, 90, 91),
        *range(111, 119),
        *(122, 123, 124, 125, 138, 142),
    ],
    "RESTART_APP": [
        *(8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80),
        *(82, 83, 84, 85, 86, 88, 89, 94),
        *range(96, 106),
        *range(126, 136),
        139,
    ],
    "RESET_GPU": [46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158],
    "RESTART_BM": [79],
    "RESTART_VM": [151],
    "IGNORE": [
        *(14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141),
        *(152, 153, 157, 160, 161),
    ],
    "WORKFLOW": [45, 48, 74, *range(144, 151)],
    "CHECK_MECHANICALS": [54],
    "UPDATE_SWFW": [78],
    "CHECK_UVM": [159],
    "XID_154": [154],
    "": [162, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172],
}


def test_the_catalogue_is_restated_whole():
    codes = [code for codes in CATALOGUE.values() for code in codes]
    assert sorted(codes) == list(range(1, 173))


@pytest.mark.parametrize("code", range(1, 173))
def test_every_xid_of_the_catalogue_has_a_class_of_its_own(code):
    assert known(XID, code)
    rule = rule_for(XID, code)
    assert code in rule.codes
    assert rule.severity in (IMPAIRED, DEGRADED, USER_ERROR) or code in (154, 162)
    assert rule.meaning
    assert rule.action
    assert rule.source.startswith("catalogue")


# facts of NVIDIA's catalogue, DCGM and gpud, class by class.
CLASSES = [
    (IncidentKind.REMAP_FAILED, 0, IMPAIRED),
    (XID, 64, IMPAIRED),
    (IncidentKind.UNREPAIRABLE_MEMORY, 0, IMPAIRED),
    (IncidentKind.ROWS_EXHAUSTED, 0, IMPAIRED),
    (IncidentKind.PAGES_EXHAUSTED, 0, IMPAIRED),
    (IncidentKind.SRAM_THRESHOLD, 0, IMPAIRED),
    (XID, 79, DEGRADED),  # impaired if it survives a restart: see the machine
    (IncidentKind.GPU_LOST, 0, DEGRADED),
    (IncidentKind.HIDDEN, 0, DEGRADED),
    *((XID, code, IMPAIRED) for code in (168, 157, 165)),
    (IncidentKind.SMOOTHING_WORN, 0, IMPAIRED),
    (IncidentKind.INFOROM_CORRUPTED, 0, IMPAIRED),
    (IncidentKind.REMAP_PENDING, 0, DEGRADED),
    (IncidentKind.REPAIR_PENDING, 0, DEGRADED),
    (XID, 63, DEGRADED),
    *(
        (XID, code, DEGRADED)
        for code in (46, 48, 95, 140, 62, 109, 110, 119, 120, 136, 143, 155, 156, 158)
    ),
    (XID, 94, USER_ERROR),
    (XID, 92, DEGRADED),
    (XID, 93, DEGRADED),
    (XID, 74, DEGRADED),
    *((XID, code, DEGRADED) for code in range(144, 151)),
    (IncidentKind.NVLINK_DOWN, 0, DEGRADED),
    (IncidentKind.NVLINK_ERRORS, 0, DEGRADED),
    (IncidentKind.PCIE_REPLAYS, 0, DEGRADED),
    (IncidentKind.THERMAL_SLOWDOWN, 0, DEGRADED),
    (IncidentKind.POWER_BRAKE, 0, DEGRADED),
    (XID, 13, USER_ERROR),
    (XID, 31, USER_ERROR),
    *((XID, code, USER_ERROR) for code in (43, 45, 68, 8, 11, 25, 32, 37, 38, 39, 40, 41, 44, 69)),
    *(
        (XID, code, USER_ERROR) for code in (70, 71, 72, 75, 76, 77, 85, *range(126, 136))
    ),  # copy engines
    *((XID, code, USER_ERROR) for code in (83, 84, 88, 89, 96, 97, 98)),  # NVDEC
    *((XID, code, USER_ERROR) for code in (82, *range(99, 106))),  # NVJPG
    (XID, 154, POINTER),
    (XID, 162, POINTER),
    (XID, 163, DEGRADED),
    (IncidentKind.RECOVERY_ACTION, 1, DEGRADED),
    (IncidentKind.RECOVERY_ACTION, 99, DEGRADED),  # unknown: needs service
]


@pytest.mark.parametrize(("kind", "code", "severity"), CLASSES)
def test_classes_are_as_in_the_facts(kind, code, severity):
    assert rule_for(kind, code).severity is severity


def test_what_nvidia_resets_for_is_never_an_applications_and_what_it_ignores_never_impaired():
    for code in CATALOGUE["RESET_GPU"] + CATALOGUE["RESTART_BM"] + CATALOGUE["CONTACT_SUPPORT"]:
        assert rule_for(XID, code).severity in (DEGRADED, IMPAIRED), code
    for code in CATALOGUE["RESTART_APP"]:
        assert rule_for(XID, code).severity is USER_ERROR, code
    told_otherwise = {
        157: IMPAIRED,
        63: DEGRADED,
        92: DEGRADED,
        93: DEGRADED,
        160: DEGRADED,
        161: DEGRADED,
    }
    for code in CATALOGUE["IGNORE"]:
        assert rule_for(XID, code).severity is told_otherwise.get(code, USER_ERROR), code


def test_gpuds_nine_fatal_and_six_mild_codes_are_not_copied():
    assert {rule_for(XID, code).severity for code in (32, 38, 44, 60, 68, 69, 94, 121)} == {
        USER_ERROR
    }
    assert rule_for(XID, 63).severity is DEGRADED
    assert {rule_for(XID, code).severity for code in (109, 136, 151, 155, 156, 158)} == {DEGRADED}


def test_the_same_code_again_is_impaired_where_the_facts_say_so():
    for code in (46, 48, 95, 140, 62, 109, 110, 119, 120, 136, 143, 155, 156, 158):
        assert rule_for(XID, code).again == 2, code
    assert rule_for(XID, 94).again == 2
    assert rule_for(XID, 45).again == 0
    for code in (13, 31, 43, 68, 8, 11, 25, 32, 37, 38, 39, 40, 41, 44, 69, 126, 83, 82):
        assert rule_for(XID, code).again > 2, code


def test_an_unknown_xid_is_not_well():
    for code in (0, 173, 999, 2**32 - 1):
        assert not known(XID, code)
        assert rule_for(XID, code).severity is DEGRADED


def test_162_cancels_163_and_nothing_else_cancels():
    cancels = {code: rule.cancels for rule in RULES for code in rule.codes if rule.cancels}
    assert cancels == {162: ((XID, 163),)}


@pytest.mark.parametrize("kind", [kind for kind in IncidentKind if kind is not XID])
def test_every_kind_of_incident_has_a_rule_for_any_code(kind):
    assert rule_for(kind, 12_345).kind is kind


def test_no_code_has_two_rows():
    rows = [(rule.kind, code) for rule in RULES for code in rule.codes or (None,)]
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(
    ("generation", "lanes", "limit"),
    # DCGM's rates .15 .30 .48 .96 1.92 3.84 times the lanes, rounded up.
    [(1, 16, 3), (2, 16, 5), (3, 16, 8), (4, 16, 16), (5, 16, 31), (6, 16, 62), (5, 8, 16)],
)
def test_pcie_replays_are_held_to_dcgms_rates(generation, lanes, limit):
    assert pcie_replays_per_min_max(generation, lanes) == limit


def test_without_a_known_generation_or_lanes_there_is_no_limit():
    assert pcie_replays_per_min_max(7, 16) is None
    assert pcie_replays_per_min_max(None, 16) is None
    assert pcie_replays_per_min_max(5, 0) is None


def test_the_table_says_every_rule_in_words():
    rows = rules_table()
    assert len(rows) == len(RULES)
    for row in rows:
        assert row.kind
        assert row.meaning
        assert row.severity in ("impaired", "degraded", "user_error", "pointer")
        assert row.action
        assert row.persistence
        assert row.source
    by_code = {(row.kind, row.code): row for row in rows}
    assert "2 occasions" in by_code["xid", "48, 171, 172"].persistence
    assert by_code["xid", "others"].severity == "degraded"
    assert "survives a boot" in by_code["gpu_lost", ""].persistence


def test_the_rules_have_a_name_of_their_own():
    assert len(bytes.fromhex(RULES_SHA256_8)) == 8
