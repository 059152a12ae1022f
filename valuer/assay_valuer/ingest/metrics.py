"""What Prometheus is told of the door. Labels are bounded: reasons and outcomes are enumerations."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from assay_core.errors import Refusal
from assay_core.evidence.bundle import Outcome
from assay_valuer.denial import Denial

UNANSWERED: Final = "unanswered"
"""The outcome of a challenge that no answer came to in time."""


class IngestMetrics:
    """The door's metrics, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "assay_valuer_windows_accepted",
            "Windows verified, committed and acknowledged.",
            registry=registry,
        )
        self.gaps = Counter(
            "assay_valuer_gap_records_accepted", "Declared gaps taken.", registry=registry
        )
        self.duplicates = Counter(
            "assay_valuer_windows_duplicate",
            "Windows that came again and were acknowledged again.",
            registry=registry,
        )
        refused = Counter(
            "assay_valuer_windows_refused",
            "Windows and gap records refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.refused = {reason: refused.labels(reason.value) for reason in Refusal}
        self.forks = Counter(
            "assay_valuer_forks_kept", "Forked windows kept as evidence.", registry=registry
        )
        self.clock_behind = Counter(
            "assay_valuer_windows_clock_behind",
            "Windows accepted from hosts whose clock is behind.",
            registry=registry,
        )
        self.batch_windows = Histogram(
            "assay_valuer_commit_windows",
            "Windows in one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "assay_valuer_commit_seconds",
            "Duration of a commit, the disk's flush included.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
            registry=registry,
        )
        self.streams = Gauge("assay_valuer_streams", "Attestation streams open.", registry=registry)
        self.queue = Gauge(
            "assay_valuer_commit_queue_windows", "Windows waiting for a commit.", registry=registry
        )
        self.position = Gauge(
            "assay_valuer_ledger_next_position",
            "Position that the next ledger entry takes.",
            registry=registry,
        )
        enrolments = Counter(
            "assay_valuer_enrolments",
            "Enrolments, renewals, activations of TPMs and rotations of keys, by outcome.",
            ["call", "outcome"],
            registry=registry,
        )
        self.enrolments = {
            (call, outcome): enrolments.labels(call, outcome)
            for call in ("enroll", "renew", "activate", "rotate")
            for outcome in ("ok", *(denial.value for denial in Denial))
        }
        self.evidence = _evidence(registry)


def _evidence(registry: CollectorRegistry) -> dict[str, Counter]:
    outcomes = Counter(
        "assay_evidence_outcomes",
        "Challenges for evidence, by what became of their answers; unanswered: none came in time.",
        ["outcome"],
        registry=registry,
    )
    names = (UNANSWERED, *(outcome.value for outcome in Outcome))
    return {name: outcomes.labels(name) for name in names}
