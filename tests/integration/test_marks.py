"""Marks and forecasts are on record when a fit comes into use, never change, and are scored later."""

from __future__ import annotations

import json
from datetime import date

import msgspec
import pytest
from sqlalchemy import func, insert, select

from assay_core.instants import DAY_MS
from assay_core.money import Usd
from assay_valuer.cases import day_of
from assay_valuer.cli import main, score
from assay_valuer.forecast.outcomes import first_due
from assay_valuer.ledger.read import entries_from, entry
from assay_valuer.market_store import newest_parameters
from assay_valuer.marks import MarkRecord, keep_marks, load_forecasts, load_marks, marks_of
from assay_valuer.policy import DEFAULT
from assay_valuer.replay import check_entry
from assay_valuer.store.schema import MARK, MARK_FORECAST
from assay_valuer.valuation.fixed import exp_e6, usd_of_log
from tests.fakes.host import START_MS
from tests.fakes.lives import EARLY_PRICES
from tests.fakes.priced import PricedBooks

TODAY = day_of(START_MS)
QUANTITIES = {"rental", "new_ask", "used_ask", "sold", "value"}


@pytest.fixture
def world(tmp_path):
    made = PricedBooks(tmp_path)
    made.prices(EARLY_PRICES)
    made.quote(START_MS)
    made.refresh(START_MS)
    made.tick(START_MS)
    yield made
    made.check()
    made.close()


def kept(world):
    """Marks by product, quantity and day; forecasts by those and their horizon."""

    def job(connection):
        marks = {(one.product, one.quantity, one.day): one for one in load_marks(connection)}
        forecasts = load_forecasts(connection, marks)
        keyed = {(one.mark.product, one.mark.quantity, one.mark.day, one.quantiles.horizon_days): one
                 for one in forecasts}  # fmt: skip
        return marks, keyed

    return world.database.read(job)


def fitted(world):
    return world.database.read(newest_parameters)


def test_each_quantity_is_marked_as_the_fit_has_it_and_forecast_as_its_outlook(world):
    marks, forecasts = kept(world)
    assert {quantity for _, quantity, _ in marks} == QUANTITIES
    assert {day for _, _, day in marks} == {TODAY}
    product = fitted(world).of("H100 SXM5")
    rental = marks["H100 SXM5", "rental", TODAY].micros
    assert rental == usd_of_log(product.rental.log_e6).micros
    for outlook in product.rental_outlook:
        one = forecasts["H100 SXM5", "rental", TODAY, outlook.horizon_days].quantiles
        assert one.q50_micros == rental * exp_e6(outlook.q50_e6) // 1_000_000
        assert one.q025_micros <= one.q10_micros <= one.q50_micros <= one.q90_micros
        assert one.q90_micros <= one.q975_micros
    assert {horizon for *_, horizon in forecasts} == {30, 90, 180}


def test_the_value_marked_is_what_a_healthy_gpu_alone_is_worth(world):
    """No host is enrolled here; an asset that is expected has no name. So: by its case."""
    marks, _ = kept(world)
    from assay_valuer.cases import Author, Basis, valued
    from assay_valuer.market.prices import read_prices
    from assay_valuer.valuation.case import Subject

    basis = Basis(read_prices(EARLY_PRICES, "prices.csv"), fitted(world))
    case = Author(basis, DEFAULT, TODAY).case(Subject(name="NVIDIA H100 80GB HBM3"))
    assert Usd(marks["H100 SXM5", "value", TODAY].micros) == valued(case).values.fmv.mid


def test_what_nobody_quotes_is_no_mark_of_a_level(world):
    marks, _ = kept(world)
    levels = [one for one in marks.values() if one.quantity != "value"]
    for one in levels:
        level = getattr(fitted(world).of(one.product), one.quantity)
        assert level.sellers > 0
    assert fitted(world).of("B200 SXM6").rental is None or (
        ("B200 SXM6", "rental", TODAY) not in marks
    )


def test_all_of_it_is_one_signed_record_made_on_its_day(world):
    _, forecasts = kept(world)
    (position,) = {one.position for one in forecasts.values()}
    found = world.database.read(lambda c: entry(c, position))
    assert (found.kind, found.received_ms) == ("mark", START_MS)
    assert check_entry(found.body.envelope, world.key.public_key)
    record = msgspec.json.decode(found.body.envelope.payload, type=MarkRecord)
    assert record.parameters_sha256 == fitted(world).sha256
    told = {(one.product, one.quantity, one.day, each.horizon_days): each
            for one in record.marks for each in one.forecasts}  # fmt: skip
    assert told == {key: one.quantiles for key, one in forecasts.items()}


def test_what_was_forecast_once_is_never_changed(world):
    """Other prices come on the same day, and the valuer is started anew: the day's marks stand."""
    marks, forecasts = kept(world)
    world.quote(START_MS, factor=1.3)
    world.refresh(START_MS + 1)
    world.restarted()
    world.tick(START_MS + 60_000)
    assert kept(world) == (marks, forecasts)
    assert len(world.database.read(lambda c: entries_from(c, 0, kind="mark"))) == 1
    world.quote(START_MS + DAY_MS, factor=1.3)
    world.refresh(START_MS + DAY_MS)
    world.tick(START_MS + DAY_MS)
    later, _ = kept(world)
    assert {key: one for key, one in later.items() if key[2] == TODAY} == marks
    assert {key[2] for key in later} == {TODAY, TODAY + 1}


def test_no_forecast_is_logged_whose_outcome_may_be_known(world):
    """A fit that comes into use late: of 30 days, the tenth around its end begins on the 27th."""
    parameters = fitted(world)

    def horizons(days):
        marks = marks_of(parameters, None, DEFAULT, TODAY + days)
        return {each.horizon_days for one in marks for each in one.forecasts}

    assert horizons(26) == {30, 90, 180}
    assert horizons(27) == {90, 180}
    assert horizons(80) == {90, 180}
    assert horizons(81) == {180}
    assert horizons(162) == set()
    assert marks_of(parameters, None, DEFAULT, TODAY - 1) == ()
    rows = world.database.write(
        lambda c: keep_marks(
            c,
            parameters=parameters,
            prices=None,
            policy=DEFAULT,
            signer=world.key,
            now_ms=START_MS + 200 * DAY_MS,
        )
    )
    assert rows == 0  # its day has all its marks already


def test_until_something_falls_due_the_day_when_it_will_is_said(world, capsys):
    made, marks = world.database.read(score._loaded)
    assert score.score(made, marks, {}, TODAY + 29) == []
    due = date.fromordinal(TODAY + 30).isoformat()
    assert first_due(made, TODAY + 29) == TODAY + 30
    assert score._why_none(made, TODAY + 29).endswith(f"the next falls due on {due}")
    assert "no forecast has been logged yet" in score._why_none([], TODAY)
    # By today's clock, long after these were made, and with no mark since.
    assert main(["score", *world.words]) == 1
    assert "with no mark within a tenth of it" in capsys.readouterr().err


def test_forecasts_are_scored_against_the_marks_that_came(world, capsys):
    """A month later prices stand a tenth higher, by the marks of that day."""
    marks, _ = kept(world)
    came = [
        {"product": one.product, "quantity": one.quantity, "day": TODAY + 31,
         "micros": one.micros * 11 // 10, "parameters_sha256": None}
        for one in marks.values()
    ]  # fmt: skip
    world.database.write(lambda c: c.execute(insert(MARK), came))
    assert main(["score", "--json", *world.words]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {(row["quantity"], row["asset_class"], row["horizon_days"]): row for row in told["rows"]}
    assert {quantity for quantity, _, _ in rows} == QUANTITIES
    row = rows["rental", "data_centre", 30]
    assert row["no_change_mape_pct"] == pytest.approx(100 * (1 - 1 / 1.1), rel=1e-3)
    assert row["n"] < 30
    assert not row["validated"]
    held = world.database.read(
        lambda c: c.execute(select(func.count()).select_from(MARK_FORECAST)).scalar()
    )
    assert told["logged"] == held
    assert main(["score", *world.words]) == 0
    assert "unvalidated" in capsys.readouterr().out
