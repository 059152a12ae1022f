"""From one fit to the next by bounded steps: no seller, whatever it writes, moves a value by much.

All in whole micro-nats, so that the bounds hold exactly. For a product and a kind of level, with the
previous fit's level L and references r_j of n sellers, and their own prices x_j now:

    L' = L + a + Σ_j clip(w_j·(x_j − r_j − a), ±b) + clip((g − L − a)/10, ±c),  w_j = 2^(−age_j/h)/n

where a is what hardware ages by in the days between (0 of rentals), and g the cross-section's own
estimate of the level. r_j moves by what was absorbed, divided by w_j: the rest is absorbed at later
fits. A seller that the previous fit did not have enters with r_j = x_j and moves nothing; one that has
gone is forgotten, and its place in n with it, at the fit after. So of two snapshots that differ in one
seller's rows the levels that follow differ by 2·(b + c) at most: n and the others' terms are the same.
Splitting into many sellers is not covered: who counts as one is `market.labels.seller`'s to say.

Where nobody quotes a product (n = 0) its level moves by the median move of its class's that have
sellers, and by the correction. How many sellers count, the basis, and whether a level is in use are what
the previous fit had: a kind of price that is new to a product waits until three sellers stand behind it.

The steps are for one fit a day. `previous` is the last fit of an earlier day; given a fit of the same
day, nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

from assay_valuer.forecast.rounding import E6
from assay_valuer.valuation.parameters import Level, Outlook, Reference

SELLER_STEP_E6: Final = 4_500
"""b."""
CORRECTION_STEP_E6: Final = 2_500
"""c. In a month the level follows its cross-section by 7%. Judgement, both."""
CORRECTION_PART: Final = 10
ERROR_STEP: Final = 100
"""An error moves by 1/100 of itself at most,"""
ERROR_STEP_E6: Final = 4_000
"""and by no more than this: of what is hardly known 1/100 would be much."""
RATIO_STEP_E6: Final = 1_000
IN_USE_FROM: Final = 3
"""Sellers that a kind of price needs to come into use where an earlier fit had none of it. Judgement."""
QUOTED_FROM: Final = 3
"""Sellers that a rental level needs to be of quotes. Judgement."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one seller asks for a product now: the mean of its own series, in logs."""

    seller: str
    log_e6: int
    weight_e6: int
    """2^(−age/h), in millionths."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a snapshot shows of one product's level."""

    offers: tuple[Offer, ...]
    """By seller, ascending."""
    quotes: int
    newest_day: int
    log_e6: int
    """g, and its standard error."""
    error_e6: int


@dataclass(frozen=True, slots=True)
class Pace:
    """What is the same for every level of a class and kind between two fits."""

    days: int
    """Since the previous fit; 0: nothing moves."""
    ageing_e6: int
    """a."""
    unknown_e6: int
    """By how much a level that nothing was seen of becomes unknown in a day (deviation)."""
    quoted_from: int
    """Sellers that a level needs to be of quotes."""


def first(seen: Seen, pace: Pace, *, in_use: bool) -> Level:
    """A level without a previous one: the cross-section's, with nothing to hold it."""
    return Level(
        log_e6=seen.log_e6,
        error_e6=seen.error_e6,
        sellers=len(seen.offers),
        quotes=seen.quotes,
        newest_day=seen.newest_day,
        basis="quotes" if len(seen.offers) >= pace.quoted_from else "hedonic",
        in_use=in_use,
        references=tuple(Reference(seller=o.seller, log_e6=o.log_e6) for o in seen.offers),
    )


def own_move(previous: Level, seen: Seen | None, pace: Pace) -> tuple[int, tuple[Reference, ...]]:
    """Σ of what its sellers move it by, beyond ageing, and their references after it."""
    before = {one.seller: one.log_e6 + pace.ageing_e6 for one in previous.references}
    total, after = 0, []
    for offer in seen.offers if seen else ():
        reference = before.get(offer.seller)
        if reference is None:
            after.append(Reference(seller=offer.seller, log_e6=offer.log_e6))
            continue
        weight_e6 = max(offer.weight_e6 // len(before), 1)
        wanted = (offer.log_e6 - reference) * weight_e6 // E6
        absorbed = clip(wanted, SELLER_STEP_E6)
        total += absorbed
        whole = absorbed == wanted
        reached = offer.log_e6 if whole else reference + absorbed * E6 // weight_e6
        after.append(Reference(seller=offer.seller, log_e6=reached))
    return total, tuple(after)


def moved(previous: Level, seen: Seen | None, pace: Pace, family_e6: int) -> Level:
    """The level after a fit. `family_e6` is the class's median move, for one without sellers."""
    if pace.days <= 0:
        return previous
    own, references = own_move(previous, seen, pace)
    count = len(previous.references)
    log = previous.log_e6 + pace.ageing_e6 + (own if count else family_e6)
    if seen is None:
        wider = isqrt(previous.error_e6**2 + pace.unknown_e6**2 * pace.days)
    else:
        log += clip((seen.log_e6 - previous.log_e6 - pace.ageing_e6) // CORRECTION_PART,
                    CORRECTION_STEP_E6)  # fmt: skip
        wider = isqrt(seen.error_e6**2 + (seen.log_e6 - log) ** 2)
    least = pace.quoted_from if previous.basis == "hedonic" else max(pace.quoted_from - 1, 1)
    return Level(
        log_e6=log,
        error_e6=stepped(previous.error_e6, wider),
        sellers=count,
        quotes=seen.quotes if seen else 0,
        newest_day=max(previous.newest_day, seen.newest_day if seen else 0),
        basis="quotes" if count >= least else "hedonic",
        in_use=previous.in_use or count >= IN_USE_FROM,
        references=references,
    )


def stepped(previous_e6: int, aim_e6: int) -> int:
    """A deviation after a fit: nearer to what was found, by 1/100 of itself at most."""
    most = min(max(previous_e6 // ERROR_STEP, 1), ERROR_STEP_E6)
    return previous_e6 + clip(aim_e6 - previous_e6, most)


def ratio(previous_e6: int | None, aim_e6: int | None) -> int | None:
    """A ratio or drift after a fit; kept where nothing was found."""
    if previous_e6 is None or aim_e6 is None:
        return aim_e6 if previous_e6 is None else previous_e6
    return previous_e6 + clip(aim_e6 - previous_e6, RATIO_STEP_E6)


def outlooks(previous: Sequence[Outlook], aims: Sequence[Outlook]) -> tuple[Outlook, ...]:
    """Outlooks after a fit. Their quantiles stay in order: each is moved by the same rule."""
    before: Mapping[int, Outlook] = {one.horizon_days: one for one in previous}
    found = []
    for aim in aims or previous:
        old = before.get(aim.horizon_days, aim)
        found.append(
            Outlook(
                horizon_days=aim.horizon_days,
                q025_e6=old.q025_e6 + clip(aim.q025_e6 - old.q025_e6, RATIO_STEP_E6),
                q10_e6=old.q10_e6 + clip(aim.q10_e6 - old.q10_e6, RATIO_STEP_E6),
                q50_e6=old.q50_e6 + clip(aim.q50_e6 - old.q50_e6, RATIO_STEP_E6),
                q90_e6=old.q90_e6 + clip(aim.q90_e6 - old.q90_e6, RATIO_STEP_E6),
                q975_e6=old.q975_e6 + clip(aim.q975_e6 - old.q975_e6, RATIO_STEP_E6),
            )
        )
    return tuple(found)


def clip(value: int, most: int) -> int:
    """Within ±most."""
    return max(-most, min(value, most))
