"""What hardware evidence this host gives, or could give, and what is in the way. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from assay_agent.config import EvidenceConfig
from assay_agent.evidence.collector import Answer, Unobtainable
from assay_agent.evidence.collectors import collected
from assay_agent.evidence.nvml import is_on
from assay_agent.telemetry.diagnosis import Finding, State
from assay_agent.telemetry.reading import Poll
from assay_core.leaves import Reason

_ABOUT: Final = "hardware evidence"
_HOPPER, _BLACKWELL = 9, 10
"""nvmlDeviceArchitecture."""
_PAGE: Final = "see docs/evidence-collectors.md"


def evidence(poll: Poll, config: EvidenceConfig, answers: Sequence[Answer]) -> Finding | None:
    """By the answers to a nonce of our own where it is switched on, else by what the GPUs are.

    None where it is off and no GPU could be asked what it is.
    """
    if config != EvidenceConfig():
        return _given(answers)
    generations = [gpu.values.get("architecture") for gpu in poll.gpus]
    known = [one for one in generations if isinstance(one, int) and not isinstance(one, Reason)]
    return _possible(min(known), signs=is_on(poll.host)) if known else None


def _given(answers: Sequence[Answer]) -> Finding:
    reasons = Counter(answer.why for answer in answers if isinstance(answer, Unobtainable))
    count = len(collected(answers))
    said = f"{count} answered a nonce"
    if not reasons:
        return Finding(State.OK, "evidence-given", _ABOUT, said)
    missing = "; ".join(f"{why.what} ({count})" for why, count in reasons.most_common())
    details = sorted(
        {answer.detail for answer in answers if isinstance(answer, Unobtainable)} - {""}
    )
    return Finding(
        State.WARNING,
        "evidence-partial" if count else "evidence-missing",
        _ABOUT,
        f"{said}; of the others: {missing}" if count else missing,
        "; ".join([reasons.most_common(1)[0][0].fix, *details[:1]]),
    )


def _possible(oldest: int, *, signs: bool) -> Finding:
    """What the host could do, by its oldest GPU and by whether it is in a mode for it."""
    if oldest < _HOPPER:
        return Finding(
            State.NOTE,
            "evidence-impossible",
            _ABOUT,
            "GPUs of before Hopper sign nothing; the agent runs without, at a lower assurance",
        )
    if signs:
        return Finding(
            State.NOTE,
            "evidence-off",
            _ABOUT,
            "the host is in a mode in which its GPUs can prove what they are, and nobody asks them",
            "write `evidence: {nvml: true}` in agent.yaml, and restart the agent",
        )
    if oldest >= _BLACKWELL:
        return Finding(
            State.NOTE,
            "evidence-by-corelib",
            _ABOUT,
            "these GPUs could prove what they are as they run, through NVIDIA's corelib",
            f"{_PAGE} for what it needs and under which licence",
        )
    return Finding(
        State.NOTE,
        "evidence-needs-mode",
        _ABOUT,
        "Hopper proves what it is in confidential-computing mode or protected PCIe, and is in neither",
        f"none is needed to run; for a proof now and then, {_PAGE} on a maintenance boot",
    )
