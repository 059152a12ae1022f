"""`assay-valuer stress` over a real state folder, and over a real store with a market's history."""

from __future__ import annotations

import json
import math
import time
from datetime import date

import pytest
from sqlalchemy import func, select

from assay_core.instants import format_instant
from assay_valuer.book import appraise
from assay_valuer.cli import main
from assay_valuer.market.quotes import Market
from assay_valuer.market.series import build_series
from assay_valuer.market_desk import MarketDesk, read_snapshot
from assay_valuer.market_store import add_rows, newest_snapshot
from assay_valuer.store.schema import LEDGER_ENTRY
from assay_valuer.stress import run
from assay_valuer.stress_market import market_shocks
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES, loan_text
from tests.fakes.host import START_MS, FakeHost


@pytest.fixture
def valuer(tmp_path, capsys):
    config = tmp_path / "valuer.yaml"
    config.write_text(
        f"state_dir: {tmp_path / 'state'}\npolicy: {{stress: {{falls_bps: [4000]}}}}\n"
    )

    def command(*words):
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert command("init")[0] == 0
    return command


def test_without_a_loan_there_is_nothing_to_stress(valuer):
    code, _, said = valuer("stress")
    assert (code, "no loan is registered" in said) == (1, True)


def test_without_market_history_the_policys_judgement_stands_and_is_called_so(valuer, tmp_path):
    begun = format_instant(int(time.time() * 1000) - 10 * DAY_MS)
    (tmp_path / "loan.yaml").write_text(loan_text(["S0001"], originated_at=begun))
    assert valuer("loan", "import", str(tmp_path / "loan.yaml"))[0] == 0
    code, shown, _ = valuer("stress", "--json")
    told = json.loads(shown)
    judged = {one["name"]: one["judgement"] for one in told["shocks"]}
    assert code == 0
    assert judged["judged-40"]
    assert {"feeds-out-90d", "rates-up-300bp", "proofs-lapse-l0"} <= set(judged)
    assert [one["shock"] for one in told["loans"]] == ["none", *judged]
    # A GPU that was never seen has no value: nothing is invented, and the debt is there.
    assert {one["olv_micros"] for one in told["loans"]} == {None}
    assert {one["lendable_micros"] for one in told["loans"]} == {0}
    assert all(one["debt_micros"] > 100_000_000_000 for one in told["loans"])
    code, shown, said = valuer("stress", "--shock", "judged-40")
    assert (code, "judgement" in shown, "no forecast" in said) == (0, True, True)
    assert "feeds-out" not in shown


def test_a_shock_that_there_is_not_is_the_callers_fault_and_names_those_there_are(valuer):
    code, _, said = valuer("stress", "--shock", "flood")
    assert code == 2
    assert "judged-40" in said


def rentals() -> list[dict[str, str]]:
    """Weekly list prices of three sellers: one of them halves within a month."""
    first = date(2025, 10, 6).toordinal()
    found = []
    for seller in ("acme", "initech", "hooli"):
        for week in range(45):
            usd = 4.0 * (0.5 ** min(max(week - 20, 0) / 4, 1.0) if seller == "acme" else 1.0)
            found.append(
                {
                    "date": date.fromordinal(first + 7 * week).isoformat(),
                    "provider": seller,
                    "accelerator": "H100",
                    "variant": "SXM",
                    "gpu_count": "8",
                    "usd_per_gpu_hour": f"{usd:.4f}",
                    "kind": "on_demand",
                    "region": "eu",
                    "source_repo": "made-up",
                }
            )
    return found


def test_the_markets_own_worst_fall_is_found_in_the_store_and_nothing_is_written(tmp_path):
    books = FakeBooks(tmp_path)
    books.serve(START_MS - 90 * DAY_MS, START_MS + 90 * DAY_MS)
    books.prices(PRICES.replace("2026-11-01", "2026-09-01"))
    host = FakeHost(gpu_count=4)
    books.enrol(host)
    serials = [gpu.serial for gpu in host.gpus]
    books.loan(serials, originated_at="2026-09-01T00:00:00Z", amount=40_000_000_000)
    books.take(host, host.seal())
    books.tick(host.now_ms)
    books.database.write(lambda c: add_rows(c, "made", Market.RENTAL, rentals(), host.now_ms))
    assert MarketDesk(books.database, books.key).refresh(host.now_ms) is not None
    entries = books.database.read(
        lambda c: c.execute(select(func.count(LEDGER_ENTRY.c.position))).scalar()
    )

    known = books.restarted().known(host.now_ms)
    book = appraise(known, books.policy, host.now_ms)
    stored = books.database.read(newest_snapshot)
    snapshot = read_snapshot(books.database, stored)
    assert snapshot.sha256 == stored.sha256
    rental, resale = (build_series(one) for one in (snapshot.rental, snapshot.resale))
    shocks = {one.name: one for one in market_shocks(book, rental, resale, snapshot.sha256)}
    worst = shocks["data_centre-rental-30d"]
    assert worst.source.startswith("acme|H100|SXM|8|on_demand|eu, 2026-0")
    before, after = run(book, known, [worst])
    assert before.olv_micros == book.positions["loan-1"].values.olv.mid.micros
    # It halves in 28 days, so the worst month is nearly a half.
    assert math.isclose(after.olv_micros, before.olv_micros / 2, rel_tol=0.1)
    assert after.ltv_gross_bps > before.ltv_gross_bps
    assert after.lendable_micros < before.lendable_micros
    assert (after.covenant_at_once, after.covenant_lasting) == (None, None)
    assert entries == books.database.read(
        lambda c: c.execute(select(func.count(LEDGER_ENTRY.c.position))).scalar()
    )
    books.check()
    books.close()
