"""Findings: what a number rests on, one sentence each, carried with the number wherever it goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for a number or a state.

    `code` is stable and for machines ("price.row"); `detail` is one sentence for a person;
    `effect_bps` is the factor it put on a value, in basis points, where it put one.
    """

    code: str
    detail: str
    effect_bps: int | None = None
