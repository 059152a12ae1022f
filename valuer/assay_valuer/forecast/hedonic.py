"""The level of a rental price from what it is a price of: model, memory, form, seller's tier, terms.

    ln p = Σ effects + ε

Each effect is one number per label (one per H100, one per hyperscaler, one per hyperscaler's H100),
normal about zero with a stated deviation: how far such labels lie apart, judgement. The data then
decide each of them, and a label with few quotes stays near its family. ε, and the sellers' effects,
are Student's t with ν = 3: a quote that fits nothing loses its weight, and a seller far off everybody
else is itself and moves nobody. Old quotes weigh 2^(−age/30 d), and twenty configurations
of one seller's model weigh as √20. It is kriging over labels, solved exactly; nothing is sampled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import Floats
from assay_valuer.market import labels

SELLER_DEVIATION: Final = 0.15
EFFECTS: Final = (
    ("accelerator", 1.0),
    ("accelerator,memory", 0.3),
    ("accelerator,form", 0.2),
    ("form", 0.2),
    ("tier", 1.0),
    ("tier,accelerator", 0.1),
    ("feed", 0.8),
    ("kind", 0.2),
    ("feed,tier", 0.2),
    ("feed,accelerator", 0.15),
    ("region", 0.1),
    ("seller", SELLER_DEVIATION),
)
"""(labels, deviation of their effect in logs). Judgement."""
LEVEL_DEVIATION: Final = 5.0
COUNT_DEVIATION: Final = 0.02
"""Per doubling of the GPUs in a node."""
NOISE: Final = 0.15
FREEDOM: Final = 3.0
HALF_LIFE_DAYS: Final = 30.0
ROUNDS: Final = 8
SETTLED: Final = 1e-3
"""Of a price, in logs: less than this from one round to the next is as good as none."""
QUOTES_MAX: Final = 400
"""The newest count. A fit's time grows with the cube: at 400 it is some hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A price with its labels: log US dollars per GPU-hour, as of a day."""

    names: tuple[str, ...]
    """provider, accelerator, variant, gpu_count, kind, region."""
    day: int
    log: float

    @property
    def seller(self) -> str:
        """Its seller, under one name."""
        return labels.seller(self.names[0])


@dataclass(frozen=True, slots=True)
class Fit:
    """Quotes and what was solved for them; predicts any labels."""

    design: tuple[tuple[str, ...], ...]
    counts: Floats
    apart: Floats
    """How many times the stated variance the effect of each quote's seller has."""
    solved: Floats
    """(K + D)⁻¹(y − level)."""
    total: Floats
    """K + D: the covariance of what was quoted."""
    level: float

    def predict(self, wanted: Sequence[tuple[str, ...]]) -> Floats:
        """The log price of each set of names."""
        across, _ = self._across(wanted)
        return self.level + across @ self.solved

    def errors(self, wanted: Sequence[tuple[str, ...]]) -> Floats:
        """The standard error of each, without a new quote's own noise."""
        across, counts = self._across(wanted)
        own = sum(deviation**2 for _, deviation in EFFECTS) + LEVEL_DEVIATION**2
        known = (across * np.linalg.solve(self.total, across.T).T).sum(axis=1)
        variance: Floats = own + (COUNT_DEVIATION * counts) ** 2 - known
        return np.sqrt(np.maximum(variance, 0.0))

    def _across(self, wanted: Sequence[tuple[str, ...]]) -> tuple[Floats, Floats]:
        """The covariance with what was quoted, and the counts."""
        design, counts = _design(wanted), _counts(wanted)
        across = _covariance(design, counts, self.design, self.counts)
        return across + _sellers(design, self.design) * (self.apart - 1), counts


def fit(quotes: Sequence[Priced], day: int) -> Fit | None:
    """What the quotes say on a day; None of no quotes. Quotes dated later must not be among them."""
    if not quotes:
        return None
    # The order of rows is no fact about prices, nor may it be one about rounding.
    quotes = sorted(quotes, key=lambda quote: (-quote.day, quote.names, quote.log))[:QUOTES_MAX]
    names = [quote.names for quote in quotes]
    design, counts = _design(names), _counts(names)
    logs = np.array([quote.log for quote in quotes])
    level = float(np.median(logs))
    covariance = _covariance(design, counts, design, counts)
    sellers = _sellers(design, design)
    weight = _weights(quotes, day)
    trust, apart = np.ones(len(quotes)), np.ones(len(quotes))
    total: Floats = covariance
    solved: Floats = np.zeros(len(quotes))
    for _ in range(ROUNDS):
        noise = NOISE**2 / (weight * trust)
        before = covariance @ solved
        total = covariance + sellers * (apart - 1) + np.diag(noise)
        solved = np.asarray(np.linalg.solve(total, logs - level), dtype=np.float64)
        misses = noise * solved / NOISE
        trust = (FREEDOM + 1) / (FREEDOM + misses**2)
        effects = (sellers * apart) @ solved / SELLER_DEVIATION
        apart = np.maximum((FREEDOM + effects**2) / (FREEDOM + 1), 1.0)
        if np.abs(covariance @ solved - before).max() < SETTLED:
            break
    return Fit(design, counts, apart, solved, total, level)


def _weights(quotes: Sequence[Priced], day: int) -> Floats:
    """Staleness, and one seller's many configurations of a model."""
    same: dict[tuple[str, str], int] = {}
    for quote in quotes:
        key = (quote.seller, quote.names[1])
        same[key] = same.get(key, 0) + 1
    ages = np.array([day - quote.day for quote in quotes], dtype=np.float64)
    shared = np.array([same[quote.seller, quote.names[1]] for quote in quotes], dtype=np.float64)
    return np.maximum(2.0 ** (-ages / HALF_LIFE_DAYS) / np.sqrt(shared), 1e-6)


def _design(names: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Of each row, the label of each effect; empty where the row does not say, which is no label."""
    design = []
    for provider, accelerator, variant, _, kind, region in names:
        words = {
            "accelerator": accelerator,
            "memory": labels.memory(variant),
            "form": labels.form_factor(variant),
            "tier": labels.tier(provider),
            "feed": labels.rental_feed(kind),
            "kind": kind,
            "region": region,
            "seller": labels.seller(provider),
        }
        design.append(tuple("/".join(words[w] for w in of.split(",")) for of, _ in EFFECTS))
    return tuple(design)


def _counts(names: Sequence[tuple[str, ...]]) -> Floats:
    """log₂ of how many GPUs a row is for; 0 where it does not say."""
    texts = [row[3] for row in names]
    known = [float(t) if re.fullmatch(r"\d{1,4}(\.0)?", t) else 1.0 for t in texts]
    return np.array([math.log2(max(count, 1.0)) for count in known])


def _sellers(one: Sequence[tuple[str, ...]], two: Sequence[tuple[str, ...]]) -> Floats:
    """The seller's part of the covariance, as stated."""
    left, right = (np.array([row[-1] for row in rows]) for rows in (one, two))
    same = left[:, None] == right[None, :]
    return np.where(same, SELLER_DEVIATION**2, 0.0)


def _covariance(
    one: Sequence[tuple[str, ...]], counts: Floats, two: Sequence[tuple[str, ...]], others: Floats
) -> Floats:
    """How far the effects of two sets of rows are the same."""
    total = np.full((len(one), len(two)), LEVEL_DEVIATION**2)
    total += COUNT_DEVIATION**2 * np.outer(counts, others)
    for at, (_, deviation) in enumerate(EFFECTS):
        codes = {name: code for code, name in enumerate({row[at] for row in (*one, *two)})}
        left = np.array([codes[row[at]] for row in one])
        right = np.array([codes[row[at]] for row in two])
        total += deviation**2 * (left[:, None] == right[None, :])
    return total
