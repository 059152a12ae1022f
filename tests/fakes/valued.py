"""A host with two H100s on a loan, its lenders and an appraiser, valued at each tick."""

from __future__ import annotations

from pathlib import Path

from assay_core.asset_events import StatedValue, Subject
from assay_core.signatories import Role
from assay_valuer.appraisals import import_appraisal
from assay_valuer.events import propose
from assay_valuer.parties import Party, add_party
from assay_valuer.valuation.value import Valuation
from tests.fakes.appraisal import appraisal_of, signed
from tests.fakes.books import FakeBooks
from tests.fakes.collateral import PART, PRICES
from tests.fakes.events import DAY_MS, envelope, event, new_key
from tests.fakes.host import START_MS, FakeHost


class Valued:
    """Everything goes through a real store and pipeline."""

    def __init__(self, folder: Path) -> None:
        self.books = FakeBooks(folder)
        self.host = FakeHost(gpu_count=2)
        self.books.enrol(self.host)
        self.books.serve(START_MS - DAY_MS, START_MS + 60 * DAY_MS)
        self.books.prices(PRICES.replace("2026-11-01", "2026-09-01"))
        self.books.loan([gpu.serial for gpu in self.host.gpus], amount=10_000_000_000)
        self.keys = {name: new_key() for name in ("alice", "carol", "dora")}
        for name, key in self.keys.items():
            role = Role.APPRAISER if name == "dora" else Role.LENDER
            self._register(Party(name, role, key.public_key, (), START_MS, None))

    def _register(self, party: Party) -> None:
        self.books.database.write(lambda c: add_party(c, party, self.books.key, START_MS))

    def tick(self, now_ms: int = START_MS) -> list[Valuation]:
        self.host.now_ms = now_ms
        self.books.take(self.host, self.host.seal())
        return [line.valuation for line in self.books.tick(self.host.now_ms).lines.values()]

    def override(self, fmv_micros: int, until_ms: int) -> None:
        first = self.host.gpus[0]
        of = event(
            "value_override",
            assets=(Subject(serial=first.serial, board_part_number=PART),),
            value=StatedValue(fmv_usd_micros=fmv_micros, until_ms=until_ms),
            why="the maker recalls this batch",
        )
        sealed = envelope(of, self.keys["alice"], self.keys["carol"])
        self.books.database.write(
            lambda c: propose(
                c, sealed, policy=self.books.policy, signer=self.books.key, now_ms=START_MS
            )
        )

    def appraise(self, **changed: object) -> None:
        """Dora's word on the first GPU."""
        made = appraisal_of(self.host.gpus[0].serial, **changed)
        sealed = signed(made, self.keys["dora"])
        self.books.database.write(
            lambda c: import_appraisal(
                c, sealed, age_max_days=365, signer=self.books.key, now_ms=START_MS
            )
        )


def fmv(valuation: Valuation) -> int:
    assert valuation.values is not None
    return valuation.values.fmv.mid.micros
