"""Covenant files, signed or not, and loans that they measure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from assay_core.covenant import (
    Basis,
    Covenant,
    Parties,
    Premise,
    Thresholds,
    ValueSource,
    encode,
)
from assay_core.instants import format_instant
from assay_core.seal import COVENANT_TYPE, Ed25519Signer, Envelope, sign_envelope
from assay_valuer.book import Book, BookSnapshot, appraise
from assay_valuer.credit.covenant_position import CovenantPosition
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.policy import ValuerPolicy
from tests.fakes.collateral import NOW, asset, loan_text, snapshot

OLV_MICROS = 18_700_425_000
"""Of one H100 in `collateral.PRICES`: 22,000.50 × 85%."""
DEBT_80_MICROS = 59_841_350_000
"""80% of four of them, less a cent: 4 × 18,700.425 × 0.8 is 59,841.36. It bears next to no interest."""


def covenant_file(**changed: object) -> Covenant:
    """Watched from 82%, called from 85% on two valuations a day apart, in default from 95%."""
    plain: dict[str, Any] = {
        "loan": "loan-1",
        "version": 1,
        "effective_from_ms": 0,
        "parties": Parties(lender="alice", borrower="bob"),
        "value_source": ValueSource.AUTOMATED,
        "premise": Premise.OLV,
        "ltv_basis": Basis.GROSS,
        "thresholds": Thresholds(watch_bps=8_200, call_bps=8_500, default_bps=9_500),
        "hysteresis_bps": 100,
        "call_valuations": 2,
        "call_apart_hours": 24,
        "value_cure_hours": 240,
        "reporting_cure_hours": 72,
    }
    return Covenant(**{**plain, **changed})


def signed(covenant: Covenant, *keys: Ed25519Signer) -> Envelope:
    payload = encode(covenant)
    signatures = [sign_envelope(COVENANT_TYPE, payload, key).signatures[0] for key in keys]
    return Envelope(payload, COVENANT_TYPE, tuple(signatures))


def raw(covenant: Covenant, **changed: object) -> bytes:
    """The canonical bytes of the file with other members, whatever they are; None takes one out."""
    members = {**msgspec.to_builtins(covenant), **changed}
    kept = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(kept, order="sorted")


class Measured:
    """Four H100s and a loan of 80% made just now, appraised again and again by its covenant."""

    def __init__(self, covenant: Covenant | None = None, debt_micros: int = DEBT_80_MICROS) -> None:
        self.covenant = covenant or covenant_file()
        self.gpus = [asset(number) for number in range(1, 5)]
        text = loan_text(
            [one.serial or "" for one in self.gpus],
            amount=debt_micros,
            originated_at=format_instant(NOW),
        )
        self.loan = read_loan(text.replace("rate: 3805175038", "rate: 1"), "loan.yaml")
        self.known: BookSnapshot = replace(
            snapshot(self.gpus, loan=self.loan),
            covenants={"loan-1": (self.covenant,)},
        )
        self.policy = ValuerPolicy()

    def appraise(self, now_ms: int = NOW, **changed: object) -> Book:
        """The book, whose states and memory the next one goes on from."""
        self.known = replace(self.known, **changed)  # type: ignore[arg-type]  # test data
        book = appraise(self.known, self.policy, now_ms)
        states = {name: one.state for name, one in book.covenants.items()}
        self.known = replace(self.known, remembered=book.remembered, covenant_states=states)
        return book

    def position(self, now_ms: int = NOW, **changed: object) -> CovenantPosition:
        return self.appraise(now_ms, **changed).covenants["loan-1"]
