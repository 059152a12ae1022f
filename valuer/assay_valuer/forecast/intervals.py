"""Intervals: Assay's adaptive conformal ones, and those of the baselines.

Each month, of each horizon, the errors whose outcomes are dated before that month are one pool. A
case's error distribution is a mixture: its prior (prior.py), replaced by the pool's errors of its
class, feed and pace, these by those of its seller, these by its own, each as far as there are
outcomes: n/(n + k), where n counts recent ones (half-life 400 d) and overlapping windows once. No
seller outweighs another in its class, however many configurations it lists. Quantiles are asymmetric
and hold the mass at no change. The share outside, α, is then moved after each month by what was missed
(γ per miss too many), pooled by horizon and by class of rentals or feed of hardware, within bounds:
adaptive conformal inference (Gibbs and Candès, NeurIPS 2021), bounded since a price that stands still
is always inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np

from assay_valuer.forecast.cases import HORIZONS, Bools, Cases, Floats, Ints
from assay_valuer.forecast.centres import variance
from assay_valuer.forecast.prior import GRID, move_rate, prior
from assay_valuer.market.observations import Market

LEVELS: Final = (0.80, 0.95)
HALF_LIFE_DAYS: Final = 400.0
PACES: Final = (0.03, 0.08, 0.2, 0.5)
"""Moves a month, that part lists which stand still from those that follow demand."""
OUTCOMES_FOR_GROUPS: Final = {Market.RENTAL: (10.0, 6.0, 1.5), Market.RESALE: (30.0, 30.0, 30.0)}
"""k: how many outcomes of the class, the seller or model, the series weigh as much as what is below."""
SELLERS_WORTH: Final = 2.0
"""In its class a seller counts as so many outcomes at most: prices of one list move together."""
GAMMA: Final = 0.05
ALPHA_SPAN: Final = {Market.RENTAL: (0.25, 0.5, 0.5), Market.RESALE: (0.25, 0.25, 0.25)}
"""How far α may go from its nominal value, as a share of it, by horizon. Where most prices stand still,
as over 30 days, intervals hold too much whatever α is, and those of the few that move would be the ones
to pay for it."""
ALPHA_POOL: Final = {Market.RENTAL: "asset_class", Market.RESALE: "feed"}
"""Whose misses are counted together."""
MONTH_CASES: Final = 8.0
"""From so many outcomes a month on, a month's misses count in full."""
POOL_MIN: Final = 20
POOL_MAX: Final = 4_000
"""The newest outcomes count: a file ten times as long takes ten times as long, not a hundred."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told (done, all)."""


def random_walk(cases: Cases, centre: Floats) -> Floats:
    """Plain intervals: normal, by the series' own variance up to the origin, growing with √h."""
    width = np.sqrt(variance(cases) * cases.horizon)
    scores = [NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS]
    return np.stack([c for z in scores for c in (centre - z * width, centre + z * width)], axis=1)


def conformal(cases: Cases, centre: Floats) -> Floats:
    """Split conformal about a centre: the quantile of all earlier absolute errors of the class and
    horizon; of the horizon where the class has fewer than 20; plain intervals before that.
    """
    edges = random_walk(cases, centre)
    errors = np.abs(cases.change - centre)
    classes = cases.of_series("asset_class")
    for month, horizon, which in _batches(cases):
        known = (cases.outcome < month) & (cases.horizon == horizon)
        for name in np.unique(classes[which]):
            mine = which[classes[which] == name]
            pool = errors[known & (classes == name)]
            pool = pool if len(pool) >= POOL_MIN else errors[known]
            if len(pool) < POOL_MIN:
                continue
            for at, level in enumerate(LEVELS):
                share = min(1.0, np.ceil((len(pool) + 1) * level) / len(pool))
                width = float(np.quantile(pool, share, method="higher"))
                edges[mine, 2 * at] = centre[mine] - width
                edges[mine, 2 * at + 1] = centre[mine] + width
    return edges


def _batches(cases: Cases) -> list[tuple[int, float, Ints]]:
    """(month, horizon, which cases) in order of time."""
    found = []
    for month in np.unique(cases.month).tolist():
        for horizon in HORIZONS:
            which = np.flatnonzero((cases.month == month) & (cases.horizon == horizon))
            if len(which):
                found.append((month, float(horizon), which))
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    weight: float
    units: int
    share: Floats
    total: float


@dataclass
class Walk:
    """Goes through the months in order; what it knows in one are the outcomes before it."""

    cases: Cases
    centre: Floats
    edges: Floats = field(init=False)
    _alphas: dict[tuple[str, float, int], float] = field(default_factory=dict)
    _updated_to: int = 0

    def __post_init__(self) -> None:
        cases = self.cases
        rental = cases.market is Market.RENTAL
        self.edges = np.zeros((len(cases), 2 * len(LEVELS)))
        self._scale = np.ones(len(cases)) if rental else np.sqrt(variance(cases) * cases.horizon)
        self._errors = (cases.change - self.centre) / self._scale
        self._prior = prior(cases)
        self._pools = cases.of_series(ALPHA_POOL[cases.market])
        sellers, names = cases.of_series("seller"), cases.of_series("name")
        pace = np.digitize(move_rate(cases), PACES) if rental else np.zeros(len(cases), np.int64)
        behaviour = _joined(cases.of_series("feed"), pace.astype(np.str_).tolist())
        whose = sellers if rental else cases.of_series("accelerator")
        self._units = _codes(sellers if rental else names)
        self._groups = (
            _codes(_joined(cases.of_series("asset_class"), behaviour)),
            _codes(_joined(whose, behaviour)),
            _codes(names),
        )

    def run(self, progress: Progress | None = None) -> Floats:
        """The edges of every case's intervals: low80, high80, low95, high95, as log changes."""
        batches = _batches(self.cases)
        for done, (month, horizon, which) in enumerate(batches, 1):
            self._learn_from_misses(month)
            self._forecast(month, horizon, which)
            if progress is not None:
                progress(done, len(batches))
        return self.edges

    def _forecast(self, month: int, horizon: float, which: Ints) -> None:
        """Every case of a month and a horizon: its mixture's quantiles."""
        cases = self.cases
        pool = np.flatnonzero((cases.outcome < month) & (cases.horizon == horizon))
        pool = pool[np.argsort(-cases.outcome[pool], kind="stable")[:POOL_MAX]]
        pool = pool[np.lexsort((cases.index[pool], cases.origin[pool], self._errors[pool]))]
        weight = 2.0 ** (-(month - cases.outcome[pool]) / HALF_LIFE_DAYS)
        even = weight / _sums(self._units[pool], weight) if len(pool) else weight
        groups: dict[tuple[int, int], _Group | None] = {}
        for case in which.tolist():
            values, cumulated = self._mixture(case, pool, weight, even, groups)
            shares = []
            for at, level in enumerate(LEVELS):
                alpha = self._alphas.get((self._pools[case], horizon, at), 1 - level)
                shares += [alpha / 2 - 1e-9, 1 - alpha / 2 - 1e-9]
            places = np.minimum(np.searchsorted(cumulated, shares), len(values) - 1)
            self.edges[case] = self.centre[case] + self._scale[case] * values[places]

    def _mixture(
        self,
        case: int,
        pool: Ints,
        weight: Floats,
        even: Floats,
        groups: dict[tuple[int, int], _Group | None],
    ) -> tuple[Floats, Floats]:
        """Sorted errors in units of the case's scale, and the cumulated probability of each."""
        belief = 1.0
        mixed = np.zeros(len(pool))
        overlap = 30.0 / self.cases.horizon[case]
        counts = OUTCOMES_FOR_GROUPS[self.cases.market]
        for depth, (group, k) in enumerate(zip(self._groups, counts, strict=True)):
            key = (depth, int(group[case]))
            if key not in groups:
                groups[key] = self._group(depth, key[1], pool, weight, even)
            known = groups[key]
            if known is None:
                continue
            count = known.weight * overlap
            if depth == 0 and self.cases.market is Market.RENTAL:
                count = min(count, SELLERS_WORTH * known.units)
            part = count / (count + k)
            mixed = (1 - part) * mixed + part * known.share / known.total
            belief *= 1 - part
        still = self._prior.still[case]
        jumps = GRID * (self._prior.deviation[case] / self._scale[case])
        errors = self._errors[pool]
        values = np.concatenate((errors, [0.0], jumps))
        each = np.full(len(GRID), belief * (1 - still) / len(GRID))
        masses = np.concatenate((mixed, [belief * still], each))
        order = np.argsort(values, kind="stable")
        return values[order], np.cumsum(masses[order])

    def _group(
        self, depth: int, code: int, pool: Ints, weight: Floats, even: Floats
    ) -> _Group | None:
        """A group's part of a month's pool; None where it has none. All of its cases share it."""
        mine = self._groups[depth][pool] == code
        if not mine.any():
            return None
        share = (even if depth == 0 else weight) * mine
        units = len(np.unique(self._units[pool][mine])) if depth == 0 else 0
        return _Group(float(weight[mine].sum()), units, share, float(share.sum()))

    def _learn_from_misses(self, month: int) -> None:
        """Moves α by what came out between the last month's first day and this one's."""
        if month == self._updated_to:
            return
        cases = self.cases
        fresh = (cases.outcome >= self._updated_to) & (cases.outcome < month)
        self._updated_to = month
        inside = within(cases.change, self.edges)
        for horizon, share in zip(HORIZONS, ALPHA_SPAN[cases.market], strict=True):
            for pool in np.unique(self._pools[fresh & (cases.horizon == horizon)]):
                mine = fresh & (cases.horizon == horizon) & (self._pools == pool)
                trust = min(1.0, float(mine.sum()) / MONTH_CASES)
                for at, level in enumerate(LEVELS):
                    nominal = 1 - level
                    alpha = self._alphas.get((pool, float(horizon), at), nominal)
                    missed = 1.0 - float(inside[mine, at].mean())
                    # γ is for the 80% interval; the 95% one moves in proportion.
                    alpha += GAMMA * nominal / 0.2 * (nominal - missed) * trust
                    span = share * nominal
                    bounded = float(np.clip(alpha, nominal - span, nominal + span))
                    self._alphas[pool, float(horizon), at] = bounded


def within(change: Floats, edges: Floats) -> Bools:
    """Whether each outcome lies in each interval, its edges included: one column per level."""
    tiny = 1e-9  # a price that did not change is inside an interval that ends at no change
    pairs = [
        (change >= edges[:, 2 * at] - tiny) & (change <= edges[:, 2 * at + 1] + tiny)
        for at in range(len(LEVELS))
    ]
    return np.stack(pairs, axis=1)


def _codes(names: object) -> Ints:
    return np.unique(np.asarray(names, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def _joined(first: object, second: list[str]) -> list[str]:
    return [f"{a}|{b}" for a, b in zip(np.asarray(first).tolist(), second, strict=True)]


def _sums(groups: Ints, weight: Floats) -> Floats:
    """For each element, the sum of the weights of its group."""
    return np.bincount(groups, weights=weight)[groups].astype(np.float64)
