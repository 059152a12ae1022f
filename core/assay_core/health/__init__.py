"""The incident rules and the fold that follows a GPU by them: one judgement, used by both sides."""

from assay_core.health.follow import follow, merge_told
from assay_core.health.observation import Observation, observe
from assay_core.health.rules import (
    RULES,
    RULES_SHA256_8,
    XID_CATALOGUE_DATE,
    Rule,
    RuleRow,
    rule_for,
    rules_table,
)
from assay_core.health.state import (
    DEFAULT,
    START,
    HealthPolicy,
    HealthState,
    Record,
    pack,
    told,
    unpack,
)

__all__ = [
    "DEFAULT",
    "RULES",
    "RULES_SHA256_8",
    "START",
    "XID_CATALOGUE_DATE",
    "HealthPolicy",
    "HealthState",
    "Observation",
    "Record",
    "Rule",
    "RuleRow",
    "follow",
    "merge_told",
    "observe",
    "pack",
    "rule_for",
    "rules_table",
    "told",
    "unpack",
]
