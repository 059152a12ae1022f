"""Whether a feed gets a new round now, and why. Pure: what was published, what would be, the time.

Immediate triggers pass the least interval between rounds; the others wait for it. A round whose
evidence would be older than the published one's is held back: the hub refuses it, and rightly.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from assay_core.money import Usd
from assay_core.units import LTV_BPS_MAX, ratio_bps_down
from assay_valuer.policy import Publishing, ms


class Trigger(enum.StrEnum):
    """Why a round is due."""

    FIRST = "first"
    DEVIATION = "deviation"
    HEARTBEAT = "heartbeat"
    THRESHOLD = "threshold"
    COVERAGE = "coverage"
    ASSURANCE = "assurance"
    FLAGS = "flags"
    EXPIRY = "expiry"

    @property
    def immediate(self) -> bool:
        """Whether it passes the least interval between rounds."""
        return self not in (Trigger.DEVIATION, Trigger.HEARTBEAT, Trigger.EXPIRY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a round says of its feed. Seconds as reports carry them."""

    olv: Usd
    nolv: Usd
    p10: Usd
    p90: Usd
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    assurance: int
    flags: int
    observed_at_s: int
    valid_until_s: int


@dataclass(frozen=True, slots=True)
class Published:
    """The newest round of a feed, and when it was signed."""

    round: int
    content: Content
    at_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Publish or not. `triggers` are all that hold; `why` is one sentence for a person."""

    publish: bool
    triggers: tuple[Trigger, ...]
    why: str


def decide(
    last: Published | None,
    candidate: Content,
    thresholds_bps: tuple[int, ...],
    policy: Publishing,
    now_ms: int,
) -> Decision:
    """Whether `candidate` becomes the feed's next round."""
    if candidate.valid_until_s * 1000 <= now_ms:
        return Decision(False, (), "the evidence is too old to be published")
    if last is None and candidate.coverage_bps == 0:
        return Decision(False, (), "waits for the first evidence of anything pledged")
    if last is None:
        return Decision(True, (Trigger.FIRST,), "the feed has no round yet")
    if candidate.observed_at_s < last.content.observed_at_s:
        return Decision(False, (), "waits for evidence as new as the published round's")
    triggers = _triggers(last, candidate, thresholds_bps, policy, now_ms)
    if not triggers:
        return Decision(False, (), "nothing worth a round has changed")
    why = ", ".join(triggers)
    wait_ms = last.at_ms + ms(policy.interval_min_s) - now_ms
    if wait_ms > 0 and not any(trigger.immediate for trigger in triggers):
        return Decision(False, triggers, f"{why}; waits for the least interval between rounds")
    return Decision(True, triggers, why)


def _triggers(
    last: Published,
    candidate: Content,
    thresholds_bps: tuple[int, ...],
    policy: Publishing,
    now_ms: int,
) -> tuple[Trigger, ...]:
    before = last.content
    margin_s = policy.expiry_margin_s
    holds = {
        Trigger.DEVIATION: _moved_bps(before.nolv, candidate.nolv) >= policy.deviation_bps,
        Trigger.HEARTBEAT: now_ms - last.at_ms >= ms(policy.heartbeat_s),
        Trigger.THRESHOLD: _crossed(before, candidate, thresholds_bps, policy),
        Trigger.COVERAGE: _coverage_moved(before, candidate, policy),
        Trigger.ASSURANCE: before.assurance != candidate.assurance,
        Trigger.FLAGS: before.flags != candidate.flags,
        Trigger.EXPIRY: before.valid_until_s * 1000 - now_ms <= ms(margin_s)
        and candidate.valid_until_s > before.valid_until_s,
    }
    return tuple(trigger for trigger, held in holds.items() if held)


def _moved_bps(before: Usd, now: Usd) -> int:
    """Size of the move in basis points; from nothing to something, all of it."""
    if before == now:
        return 0
    if before.micros == 0:
        return LTV_BPS_MAX
    return ratio_bps_down(abs(now.micros - before.micros), before.micros)


def _crossed(
    before: Content, now: Content, thresholds_bps: tuple[int, ...], policy: Publishing
) -> bool:
    """Up through a threshold; or down through it by more than the hysteresis."""
    was, is_ = before.ltv_gross_bps, now.ltv_gross_bps
    margin_bps = policy.threshold_hysteresis_bps
    return any(
        was < threshold <= is_ or is_ + margin_bps < threshold <= was
        for threshold in thresholds_bps
    )


def _coverage_moved(before: Content, now: Content, policy: Publishing) -> bool:
    """A fall worth saying, or any change to or from "nothing is counted"."""
    fell = before.coverage_bps - now.coverage_bps >= policy.coverage_drop_bps
    return fell or (before.coverage_bps == 0) != (now.coverage_bps == 0)
