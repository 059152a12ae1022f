"""A valuer's state folder with a market in it: made-up price rows, judged, fitted and valued."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from assay_core.instants import DAY_MS
from assay_valuer.cases import day_of
from assay_valuer.cli import main
from assay_valuer.config import load
from assay_valuer.market.observations import Market
from assay_valuer.market_desk import MarketDesk, Refreshed
from assay_valuer.market_store import add_rows
from assay_valuer.state import open_state
from tests.fakes import quoted_market
from tests.fakes.books import FakeBooks
from tests.fakes.host import START_MS
from tests.fakes.price_files import RENTAL_HEAD, RESALE_HEAD


@dataclass
class PricedBooks(FakeBooks):
    """`FakeBooks` on a state folder that the commands open too; `words` are commands' last words."""

    def __post_init__(self) -> None:
        self.config = Path(self.folder) / "valuer.yaml"
        self.config.write_text(f"state_dir: {self.folder}/state\n", encoding="utf-8")
        self.words = ["--config", str(self.config)]
        if main(["init", *self.words]) != 0:
            raise AssertionError("init failed")
        state = open_state(load(self.config))
        self.database, self.key, self.policy = state.database, state.ledger_key, state.config.policy
        self.pipeline = self.restarted()
        self.serve(START_MS - 90 * DAY_MS, START_MS + 400 * DAY_MS)

    def quote(self, now_ms: int, factor: float = 1.0) -> None:
        """Rows of every seller, the newest of about `now_ms`: prices times `factor`."""
        later = day_of(now_ms) - quoted_market.DAY
        rows = quoted_market.rows(factor=factor, since=0)

        def job(connection):
            for market, head, lines in (
                (Market.RENTAL, RENTAL_HEAD, rows.rental),
                (Market.RESALE, RESALE_HEAD, rows.resale),
            ):
                names = head.split(",")
                cells = [
                    dict(zip(names, _moved(line, later).split(","), strict=True))
                    for _, line in lines
                ]
                add_rows(connection, "made_up", market, cells, now_ms)

        self.database.write(job)

    def refresh(self, now_ms: int) -> Refreshed | None:
        """Judges and fits, as a market desk that has just been started does."""
        return MarketDesk(self.database, self.key).refresh(now_ms)


def _moved(line: str, days: int) -> str:
    day = date.fromisoformat(line[:10]).toordinal() + days
    return date.fromordinal(day).isoformat() + line[10:]
