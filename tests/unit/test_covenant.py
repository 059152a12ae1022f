"""A loan's state by its covenant, appraised over time through the whole book.

The file: watched from 82%, called from 85% on two valuations 24 h apart, in default from 95%, 100 bp
of hysteresis, 240 h to cure, 72 h of silence before there is notice. The loan: 80% of four H100s.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct

from assay_core.covenant import Basis, Premise, Thresholds
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_core.units import LTV_BPS_MAX
from assay_valuer.credit.covenant import Level, Record, ReplayDiffers, replay, sha256_of, step
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.position import State
from assay_valuer.credit.schedule import Debt
from assay_valuer.credit.tranches import tranche_covers
from assay_valuer.policy import ValuerPolicy
from assay_valuer.publish import content
from assay_valuer.standing.assurance import CUSTODY, L1
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.trust import Custody, Freeze, FreezeCode
from assay_valuer.standing.types import Condition
from tests.fakes.collateral import NOW, PRICES, asset, host, loan_file, loan_text, prices, record
from tests.fakes.covenant import DEBT_80_MICROS, OLV_MICROS, Measured, covenant_file
from tests.fakes.proofs import tpm

WHOLE = merge([Span(NOW - 30 * DAY_MS, NOW + 90 * DAY_MS)])


def codes(position):
    return [one.code for one in position.transitions]


def priced(percent):
    """The market at so many percent of what it was."""
    of = [f"{amount * percent / 100:.2f}" for amount in (18_000, 22_000.50, 26_000)]
    return prices(PRICES.replace("18000,22000.50,26000", ",".join(of)))


def gone(one, since_ms):
    """A GPU that its host says is gone."""
    lost = Condition(boot_id="aa", lost=True)
    return replace(one, track=replace(one.track, missing_since_ms=since_ms, condition=lost))


def heard(loan, now_ms, *, away=(), **changed):
    """Everything seen at `now_ms`, but for the GPUs away, which have been since `NOW`."""
    assets = {
        one.id: gone(one, NOW) if one.id in away
        else replace(one, track=replace(one.track, seen_ms=now_ms))
        for one in loan.gpus
    }  # fmt: skip
    hosts = {1: replace(host(), observed_ms=now_ms)}
    return loan.position(now_ms, assets=assets, hosts=hosts, **{"uptime": WHOLE, **changed})


# ---------------------------------------------------------------------------- a new loan


def test_a_new_80_percent_loan_on_l1_and_custody_is_current_with_risk_findings():
    loan = Measured()
    inspected = Custody(event_id=1, custodian="kurt", until_ms=NOW + DAY_MS, document_sha256="d")
    held = {
        one.id: replace(one, trust=replace_struct(one.trust, custody=(inspected,)))
        for one in loan.gpus
    }
    book = loan.appraise(assets=held, proofs={1: tpm()})
    risk, covenant = book.positions["loan-1"], book.covenants["loan-1"]
    assert risk.assurance == L1 | CUSTODY
    assert risk.ltv_gross_bps == 8_000
    assert (covenant.state.level, covenant.inputs.ltv_bps) == (Level.CURRENT, 8_000)
    assert codes(covenant) == ["covenant.effective"]
    assert (covenant.coverage_bps, covenant.assurance, covenant.observed_ms) == (
        10_000,
        L1 | CUSTODY,
        NOW,
    )
    assert risk.state is State.WATCH
    assert {"watch.ltv", "lendable.short", "covenant.apart"} <= {one.code for one in risk.findings}
    # L1 and custody lend 40% of what each is lent on for; four times nothing is not enough for 80%.
    (lending,) = {line.valuation.lending for line in book.lines.values()}
    assert Usd(0) < lending < Usd(OLV_MICROS * 70 // 100)
    assert risk.lendable == Usd(lending.micros * 4_000 // 10_000 * 4)


def test_without_a_file_and_before_it_takes_effect_there_is_no_covenant_position():
    assert Measured().appraise(covenants={}).covenants == {}
    later = covenant_file(effective_from_ms=NOW + 1)
    loan = Measured(later)
    book = loan.appraise()
    assert book.covenants == {}
    assert "covenant.none" in {one.code for one in book.positions["loan-1"].findings}
    assert codes(heard(loan, NOW + 1)) == ["covenant.effective"]


# ---------------------------------------------------------------------------- up


def test_a_fall_in_price_is_watched_at_once_and_calls_only_when_it_lasts():
    loan = Measured()
    assert heard(loan, NOW).state.level is Level.CURRENT
    # 80% of 93% is 86.02%
    fell = {"prices": priced(93)}
    first = heard(loan, NOW + HOUR_MS, **fell)
    assert codes(first) == ["call.valuation", "watch.begun"]
    early = heard(loan, NOW + 25 * HOUR_MS - 1, **fell)
    assert (early.state.level, codes(early)) == (Level.WATCH, [])
    second = heard(loan, NOW + 25 * HOUR_MS, **fell)
    assert codes(second) == ["call.valuation", "call.made"]
    assert (second.state.level, second.state.called_ms) == (Level.CALL, NOW + 25 * HOUR_MS)
    (told,) = [one.detail for one in second.findings if one.code == "covenant.called"]
    assert told.startswith("Called: 10.0 d")


def test_a_single_wild_price_calls_nothing_however_wild():
    loan = Measured()
    heard(loan, NOW)
    wild = heard(loan, NOW + HOUR_MS, prices=priced(12))
    assert wild.state.level is Level.WATCH
    back = heard(loan, NOW + 2 * HOUR_MS, prices=prices())
    assert (back.state.level, back.state.call_counted_ms) == (Level.CURRENT, ())
    assert codes(back) == ["call.reset", "default.reset", "watch.ended"]
    again = heard(loan, NOW + 26 * HOUR_MS, prices=priced(12))
    assert again.state.level is Level.WATCH  # it counts anew


def called():
    """A loan that was called at NOW + 24 h, at 86.02%."""
    loan = Measured()
    heard(loan, NOW, prices=priced(93))
    assert heard(loan, NOW + DAY_MS).state.level is Level.CALL
    return loan


def test_a_call_that_is_not_cured_in_time_is_a_default_and_a_default_stays():
    loan = called()
    last = NOW + DAY_MS + 240 * HOUR_MS
    assert heard(loan, last - 1).state.level is Level.CALL
    late = heard(loan, last)
    assert (late.state.level, codes(late)) == (Level.DEFAULT, ["default.uncured"])
    after = heard(loan, last + DAY_MS, prices=priced(200))
    assert (after.state.level, codes(after)) == (Level.DEFAULT, [])


def test_a_call_is_cured_only_beyond_the_hysteresis():
    loan = called()
    # 80 / 94.5 = 84.66%: under the call, but not by 100 bp; 80 / 95.5 = 83.77%
    assert heard(loan, NOW + 2 * DAY_MS, prices=priced(94.5)).state.level is Level.CALL
    cured = heard(loan, NOW + 3 * DAY_MS, prices=priced(95.5))
    assert (cured.state.level, cured.state.called_ms) == (Level.WATCH, None)
    assert codes(cured) == ["call.reset", "call.cured"]
    whole = heard(loan, NOW + 4 * DAY_MS, prices=prices())
    assert whole.state.level is Level.CURRENT


def test_ltv_beyond_the_default_threshold_is_a_default_after_as_many_valuations():
    loan = Measured()
    first = heard(loan, NOW, prices=priced(80))  # 100%
    assert (first.state.level, first.state.called_ms) == (Level.WATCH, None)
    second = heard(loan, NOW + DAY_MS)
    assert (second.state.level, codes(second)[-1]) == (Level.DEFAULT, "default.ltv")


def test_the_cure_clock_stops_while_we_were_down():
    loan = called()
    cure_ms, down_ms = 240 * HOUR_MS, 5 * DAY_MS
    begun = NOW + DAY_MS
    spans = merge(
        [
            Span(NOW - DAY_MS, begun + HOUR_MS),
            Span(begun + HOUR_MS + down_ms, NOW + 90 * DAY_MS),
        ]
    )

    def at(now_ms):
        seen = {one.id: replace(one, track=replace(one.track, seen_ms=now_ms)) for one in loan.gpus}
        hosts = {1: replace(host(), observed_ms=now_ms)}
        return loan.position(now_ms, assets=seen, hosts=hosts, uptime=spans).state.level

    assert at(begun + cure_ms + down_ms - 1) is Level.CALL
    assert at(begun + cure_ms + down_ms) is Level.DEFAULT


def test_what_was_heard_and_does_not_count_is_worth_nothing_and_going_silent_makes_it_no_more():
    loan = Measured()
    assert heard(loan, NOW).inputs.ltv_bps == 8_000
    loan.gpus[0] = asset(1, incidents=(record(Severity.IMPAIRED),))
    bad = heard(loan, NOW + HOUR_MS)
    # 80% over three of four
    assert (bad.inputs.ltv_bps, bad.inputs.complete) == (10_667, True)
    silent = heard(loan, NOW + 3 * HOUR_MS, away={1})
    assert (silent.inputs.silent, silent.inputs.silent_micros) == (1, 0)
    assert (silent.inputs.ltv_bps, silent.inputs.complete) == (10_667, True)


@pytest.mark.parametrize("away", [set(), {1}])
def test_a_frozen_gpu_is_worth_nothing_silent_or_not_and_disputes_the_loan(away):
    loan = Measured()
    heard(loan, NOW)
    reason = Freeze(code=FreezeCode.FORK, detail="two", since_ms=NOW, position=3)
    frozen = replace(loan.gpus[0], trust=replace_struct(loan.gpus[0].trust, freezes=(reason,)))
    loan.gpus[0] = frozen
    position = heard(loan, NOW + HOUR_MS, away=away)
    assert position.state.disputed
    assert "disputed.begun" in codes(position)
    assert (position.inputs.ltv_bps, position.inputs.silent_micros) == (10_667, 0)


def test_a_call_is_not_uncured_while_nobody_knows_what_the_ltv_is():
    loan = called()
    known = loan.gpus[3]
    loan.gpus[3] = asset(4, name="NVIDIA H999")
    late = NOW + 30 * DAY_MS
    ceiling = heard(loan, late)
    assert (ceiling.inputs.complete, ceiling.state.level) == (False, Level.CALL)
    loan.gpus[3] = known
    assert heard(loan, late + HOUR_MS).state.level is Level.DEFAULT


# ---------------------------------------------------------------------------- silence


def test_a_silent_gpu_goes_on_at_its_value_and_in_the_end_is_a_notice_and_nothing_else():
    loan = Measured()
    heard(loan, NOW)
    quiet = heard(loan, NOW + HOUR_MS, away={1, 2, 3})
    assert codes(quiet) == ["stale.begun"]
    assert (quiet.state.level, quiet.inputs.ltv_bps) == (Level.CURRENT, 8_000)
    assert (quiet.inputs.silent, quiet.inputs.silent_micros) == (3, 3 * OLV_MICROS)
    assert quiet.coverage_bps == 2_500
    assert "covenant.silent" in {one.code for one in quiet.findings}
    risk = loan.appraise(NOW + HOUR_MS).positions["loan-1"]
    assert risk.ltv_gross_bps == 32_000  # of what counts: the house's view is its own

    assert codes(heard(loan, NOW + 72 * HOUR_MS - 1, away={1, 2, 3})) == []
    late = heard(loan, NOW + 72 * HOUR_MS, away={1, 2, 3})
    assert (codes(late), late.state.level) == (["reporting.notice"], Level.CURRENT)
    for days in range(4, 60):
        after = heard(loan, NOW + days * DAY_MS, away={1, 2, 3})
        assert (after.state.level, codes(after)) == (Level.CURRENT, [])
    back = heard(loan, NOW + 61 * DAY_MS)
    assert codes(back) == ["stale.ended", "reporting.restored"]


def test_the_reporting_clock_stops_while_we_were_down():
    loan = Measured()
    heard(loan, NOW)
    down_ms = 5 * DAY_MS
    up = merge(
        [
            Span(NOW - DAY_MS, NOW + HOUR_MS),
            Span(NOW + HOUR_MS + down_ms, NOW + 90 * DAY_MS),
        ]
    )
    due = NOW + down_ms + 72 * HOUR_MS
    assert heard(loan, NOW + HOUR_MS, away={1}, uptime=up).state.stale
    assert not heard(loan, due - 1, away={1}, uptime=up).state.notice
    assert heard(loan, due, away={1}, uptime=up).state.notice


def test_the_whole_fleet_silent_is_a_notice_too():
    loan = Measured()
    heard(loan, NOW)
    late = loan.position(NOW + 30 * DAY_MS, uptime=WHOLE)
    assert (late.inputs.counted, late.inputs.ltv_bps) == (0, 8_000)
    assert (late.state.level, late.state.notice) == (Level.CURRENT, True)
    assert late.observed_ms is None


def test_what_was_never_seen_makes_the_ltv_a_ceiling_that_calls_nothing_but_is_noticed():
    loan = Measured()
    loan.gpus[3] = asset(4, seen=False)
    unseen = {one.id: one for one in loan.gpus}
    first = loan.position(assets=unseen)
    # Three of four are seen, and three are no whole baseboard: 80% × 4/3 ÷ 85%.
    assert (first.inputs.ltv_bps, first.inputs.complete) == (12_550, False)
    assert first.state.level is Level.WATCH
    for days in (1, 2, 30):
        later = loan.position(
            NOW + days * DAY_MS, hosts={1: replace(host(), observed_ms=NOW + days * DAY_MS)},
            assets={n: one if n == 4 else replace(one, track=replace(one.track, seen_ms=NOW + days * DAY_MS))
                    for n, one in unseen.items()},
            uptime=WHOLE,
        )  # fmt: skip
        assert (later.state.level, later.state.call_counted_ms) == (Level.WATCH, ())
    assert later.state.notice


def test_where_prices_ran_out_nothing_moves():
    loan = called()
    unknown = heard(loan, NOW + 30 * DAY_MS, prices=None)
    assert (unknown.inputs.ltv_bps, unknown.state.level) == (None, Level.CALL)
    assert codes(unknown) == []


# ---------------------------------------------------------------------------- files


def test_another_file_begins_anew_even_from_a_default():
    loan = Measured()
    heard(loan, NOW, prices=priced(80))
    assert heard(loan, NOW + DAY_MS).state.level is Level.DEFAULT
    waived = covenant_file(
        version=2, thresholds=Thresholds(watch_bps=10_500, call_bps=11_000, default_bps=12_000)
    )
    position = heard(loan, NOW + 2 * DAY_MS, covenants={"loan-1": (loan.covenant, waived)})
    assert (position.state.level, codes(position)) == (Level.CURRENT, ["covenant.effective"])
    assert position.transitions[0].level_before is Level.DEFAULT


@pytest.mark.parametrize(
    ("premise", "basis", "ltv_bps"),
    [
        (Premise.OLV, Basis.GROSS, 8_000),
        # NOLV is 70% of OLV: 80 / 0.7; FMV is OLV / 0.85: 80 × 0.85
        (Premise.NOLV, Basis.NET, 11_429),
        (Premise.FMV, Basis.GROSS, 6_800),
    ],
)
def test_ltv_is_of_the_premise_that_was_agreed_silent_or_not(premise, basis, ltv_bps):
    loan = Measured(covenant_file(premise=premise, ltv_basis=basis))
    assert heard(loan, NOW).inputs.ltv_bps == ltv_bps
    assert heard(loan, NOW + HOUR_MS, away={1, 4}).inputs.ltv_bps == ltv_bps


def test_the_oracles_ltv_is_the_covenants_where_there_is_a_file_and_the_values_are_what_counts():
    loan = Measured()
    heard(loan, NOW)
    heard(loan, NOW + HOUR_MS, away={1, 2, 3})
    book = loan.appraise(NOW + HOUR_MS)
    risk, covenant = book.positions["loan-1"], book.covenants["loan-1"]
    alone = content(risk, ValuerPolicy(), NOW)
    both = content(risk, ValuerPolicy(), NOW, covenant)
    assert (alone.ltv_gross_bps, alone.ltv_net_bps) == (32_000, 45_715)
    assert (both.ltv_gross_bps, both.ltv_net_bps) == (8_000, 11_429)
    assert (both.olv, both.coverage_bps) == (Usd(OLV_MICROS), 2_500)


# ---------------------------------------------------------------------------- records


def recorded(loan, position, at_ms):
    return Record(
        loan="loan-1",
        covenant_sha256=sha256_of(loan.covenant),
        methodology="",
        at_ms=at_ms,
        inputs=position.inputs,
        state=position.state,
        transitions=position.transitions,
    )


def test_a_record_that_was_changed_does_not_replay():
    loan = Measured()
    records = [
        recorded(loan, heard(loan, NOW + n * DAY_MS, prices=priced(93)), NOW + n * DAY_MS)
        for n in range(2)
    ]
    files = {sha256_of(loan.covenant): loan.covenant}
    assert replay(files, records).level is Level.CALL
    other = replace_struct(records[1].inputs, ltv_bps=8_000)
    with pytest.raises(ReplayDiffers, match="comes out otherwise"):
        replay(files, [records[0], replace_struct(records[1], inputs=other)])
    with pytest.raises(ReplayDiffers):
        replay(files, records[1:])
    with pytest.raises(ReplayDiffers, match="file is not there"):
        replay({}, records)


def test_nothing_worth_nothing_is_no_cover_and_no_debt_is_none():
    loan = Measured()
    inputs = heard(loan, NOW).inputs
    worthless = replace_struct(inputs, ltv_bps=LTV_BPS_MAX)
    state, _ = step(None, worthless, loan.covenant, NOW)
    assert state.level is Level.WATCH
    broken = [asset(n, incidents=(record(Severity.IMPAIRED),)) for n in range(1, 5)]
    loan.gpus[:] = broken
    assert heard(loan, NOW + MINUTE_MS).inputs.ltv_bps == LTV_BPS_MAX
    repaid = Measured()
    repaid.loan = loan_file(["S0001"], extra="status: repaid\n")
    repaid.known = replace(repaid.known, loans=(replace(repaid.known.loans[0], file=repaid.loan),))
    assert repaid.position().inputs.ltv_bps == 0


# ---------------------------------------------------------------------------- tranches


def test_tranches_attach_one_after_the_other_and_sum_up_to_the_debt():
    text = loan_text(["S0001"], amount=60_000_000_000).replace(
        "originated_at",
        '  - lender: "0x0000000000000000000000000000000000000002"\n'
        "    amount: 20_000_000_000\n    rate: 7610350076\noriginated_at",
    )
    loan = read_loan(text, "loan.yaml")
    # Half repaid; 1,000 dollars of interest, shared 60×1 to 20×2
    debt = Debt(40_000 * 10**18, 1_000 * 10**18)
    senior, junior = tranche_covers(loan, debt, Usd.parse("36000"))
    assert (senior.owed, junior.owed) == (Usd.parse("30600"), Usd.parse("10400"))
    assert (senior.attaches_bps, senior.detaches_bps, senior.covered_bps) == (0, 8_500, 10_000)
    # 30,600 / 36,000 and 41,000 / 36,000, rounded up; 5,400 of 10,400 is covered, rounded down
    assert (junior.attaches_bps, junior.detaches_bps, junior.covered_bps) == (8_500, 11_389, 5_192)
    unknown, _ = tranche_covers(loan, debt, None)
    assert (unknown.attaches_bps, unknown.detaches_bps, unknown.covered_bps) == (None, None, None)


def test_both_positions_show_their_tranches():
    book = Measured().appraise()
    (risk,), (covenant,) = book.positions["loan-1"].tranches, book.covenants["loan-1"].tranches
    assert risk == covenant
    assert (risk.owed, risk.detaches_bps) == (Usd(DEBT_80_MICROS), 8_000)
