"""What a lying operator gets for it: attacks on what is lent, through enrolment, door and pipeline.

Where each attack of the threat table is tested; `test_the_table_names_tests_that_are_there` holds it
to the files. Those of this file have no path.

| attack | tests |
|---|---|
| bytes of a report flipped, cut, extended | unit/test_evidence_attacks.py::test_no_flip_of_a_byte_is_believed, unit/test_evidence_attacks.py::test_no_cut_and_no_more_is_believed, unit/test_evidence_attacks.py::test_no_field_taken_out_or_doubled_is_believed |
| chains mixed between devices | unit/test_evidence_attacks.py::test_no_chain_mixed_of_several_devices_is_believed, unit/test_evidence_attacks.py::test_no_chain_mixed_of_real_devices_is_believed |
| a self-made root | unit/test_evidence_attacks.py::test_a_self_made_root_is_not_believed_whatever_it_calls_itself, test_devices_of_a_maker_that_nobody_named_lend_nothing |
| the twin (r, n - s) as a second proof | unit/test_evidence_attacks.py::test_the_twin_of_a_proof_is_the_same_proof, test_the_twin_of_a_report_is_no_second_proof |
| a replayed nonce | integration/test_evidence_stream.py::test_an_answer_counts_once, test_an_answer_of_yesterday_proves_nothing_today |
| evidence from another host | integration/test_evidence_stream.py::test_another_hosts_challenge_is_nobody_elses, test_evidence_of_another_host_is_not_this_ones, test_reports_that_another_hosts_devices_gave_raise_no_level |
| one GPU on two hosts | integration/test_trust_pipeline.py::test_a_device_that_answers_on_two_hosts_freezes_its_gpu, test_sock_puppets_do_not_hide_a_clone |
| one GPU in two loans | integration/test_trust_pipeline.py::test_a_gpu_secures_one_loan_and_a_host_that_claims_it_for_another_gets_nothing, integration/test_asset_events.py::test_what_is_pledged_elsewhere_takes_nobodys_place |
| a state directory copied and run twice | integration/test_evidence_stream.py::test_a_cloned_host_run_twice_forks_its_chain, test_a_copied_state_directory_that_is_run_twice_freezes_both |
| a fork after a restored snapshot | test_a_snapshot_that_is_restored_forks_and_freezes |
| a TPM's state copied | test_a_copied_tpm_is_known_by_its_clock, unit/test_proving.py::test_a_tpm_clock_that_went_back_freezes_its_host_and_proves_nothing |
| a host at L0 that claims another's serial | test_a_bare_host_that_claims_anothers_serial_freezes_only_itself |
| an EK of a software TPM | unit/test_evidence_ek.py::test_a_software_tpm_is_nobodys_that_is_listed_and_is_seen_to_be_one, test_a_software_tpm_is_worth_no_more_than_a_software_key |
| an AK with other attributes | integration/test_tpm_enrolment.py::test_an_attestation_key_that_could_lie_is_refused_before_anything_else, unit/test_evidence_tpm.py::test_a_key_with_other_attributes_attests_nothing, test_an_attestation_key_that_signs_anything_enrols_nothing |
| a quote over other PCRs | unit/test_evidence_tpm.py::test_a_quote_says_which_pcrs_it_is_over_and_over_others_it_is_none, test_a_quote_over_other_pcrs_proves_nothing |
| another TPM under the same host | integration/test_trust_pipeline.py::test_another_tpm_freezes_the_host_unless_a_board_swap_was_agreed |
| one TPM under two hosts | integration/test_tpm_enrolment.py::test_one_chip_is_one_hosts_for_ever |
| another card under the same serial | unit/test_proving.py::test_the_same_serial_with_another_device_freezes_the_gpu |
| a freeze washed off by a move | test_a_freeze_is_not_washed_off_by_a_swap |
| silence excused again and again | integration/test_trust_pipeline.py::test_maintenance_again_and_again_excuses_a_day_and_no_more |
| maintenance to keep a revoked host's GPUs | integration/test_hostile_lives.py::test_no_maintenance_keeps_a_revoked_hosts_gpus_counted |
| a GPU on two hosts in turns, while it moves | integration/test_hostile_lives.py::test_a_move_to_a_site_gives_a_gpu_to_one_host_there_and_not_to_the_next, unit/test_claims.py::test_a_move_there_and_one_back_let_no_two_hosts_show_it_in_turns |
| a cheaper card vouches for a dearer one | integration/test_hostile_lives.py::test_a_cheaper_card_vouches_for_no_dearer_one |
| a device that is rented for the occasion | integration/test_evidence_stream.py::test_when_devices_answer_is_not_their_hosts_choice, unit/test_examination.py::test_who_hangs_up_does_not_choose_when_devices_are_asked |
| somebody else's inspection | integration/test_hostile_lives.py::test_an_inspection_goes_to_nobody_who_shows_the_serial_first |
| a retired key's certificate | integration/test_rotation.py::test_what_a_key_renews_while_another_takes_its_place_ends_with_it, integration/test_rotation.py::test_a_token_that_was_used_is_no_way_back_for_a_retired_key |
| proposals without end | integration/test_evidence_stream.py::test_one_host_cannot_fill_the_desk_with_proposals, integration/test_hostile_lives.py::test_what_was_ever_proposed_is_not_read_at_the_next_proposal_nor_at_each_tick |
| billion laughs, XML too large | unit/test_evidence_rim.py::test_entities_are_refused_before_they_are_read, unit/test_evidence_rim.py::test_too_long_too_deep_and_too_many_are_refused |
"""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import pytest

from assay_core.errors import Refusal
from assay_core.evidence.bundle import EvidenceRefused, Outcome
from assay_core.evidence.nvidia import Evidence
from assay_core.evidence.statement import device_nonce
from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.money import Usd
from assay_valuer.credit.position import State
from assay_valuer.denial import Denial, Denied
from assay_valuer.standing.assurance import L0, L1, L2
from assay_valuer.standing.trust import CLAIMS_MAX
from tests.fakes import nvidia
from tests.fakes.books import DAY_MS
from tests.fakes.chassis import new_tpm
from tests.fakes.endorsing import Maker
from tests.fakes.host import START_MS
from tests.fakes.lives import Lives, frozen
from tests.fakes.tpm import TpmKey

TESTS = Path(__file__).resolve().parent.parent
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
    "581a0db248b0a77aecec196accc52973",
    16,
)


@pytest.fixture
def books(tmp_path):
    with Lives(tmp_path) as made:
        yield made


@pytest.fixture
def victim(books):
    """Two GPUs at L2, lent on."""
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    return host


def refused(books, host, asked, sealed) -> Outcome:
    before = books.check()
    with pytest.raises(EvidenceRefused) as caught:
        books.take_answer(host, asked, sealed)
    assert books.check() == before
    return caught.value.outcome


def level(books, host, at: int = 0) -> int:
    return books.line(host.serials[at], host.now_ms + MINUTE_MS).standing.assurance


def unharmed(books, host) -> None:
    """The victim's loan is what it was."""
    one = books.position(host.now_ms + MINUTE_MS)
    assert (one.counted, one.lendable) == (2, Usd(books.lending.micros * 6_000 // 10_000 * 2))
    assert not any(name.startswith(host.id) for name in frozen(books.tick(host.now_ms)))


def test_the_table_names_tests_that_are_there():
    named = re.findall(r"(?:([a-z]+/\w+\.py)::)?(test_\w+)(?=[, |])", __doc__ or "")
    assert len(named) > 30
    for path, name in named:
        text = (TESTS / path if path else Path(__file__)).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), (path, name)


# ---------------------------------------------------------------------------- evidence


def test_evidence_of_another_host_is_not_this_ones(books, victim):
    thief = books.machine(seed=9, gpus=1)
    books.show(thief)
    asked = books.ask(victim)
    assert refused(books, thief, asked, books.answer(victim, asked)) is Outcome.BAD_SIGNATURE


def test_reports_that_another_hosts_devices_gave_raise_no_level(books, victim):
    """The devices answered the victim's TPM and window, not the thief's."""
    thief = books.machine(seed=9, gpus=2, devices=True)
    own, thief.devices = thief.devices, list(victim.devices)
    books.show(thief)
    asked = books.ask(thief)
    nonce = device_nonce(asked.nonce, victim.tpm.ak.name, victim.host.previous)
    relayed = [one.answer(nonce) for one in victim.devices]
    proven = books.take_answer(thief, asked, books.answer(thief, asked, evidence=relayed))
    assert (proven.devices, len(proven.failed)) == ((), 2)
    assert level(books, thief) == L1
    assert own[0].pdi not in {one.pdi for one in thief.devices}
    unharmed(books, victim)


def test_an_answer_of_yesterday_proves_nothing_today(books, victim):
    asked = books.ask(victim)
    sealed = books.answer(victim, asked)
    books.take_answer(victim, asked, sealed)
    used = dataclasses.replace(asked, answered=True)
    assert refused(books, victim, used, sealed) is Outcome.REPLAYED
    victim.now_ms += DAY_MS
    books.show(victim)
    assert level(books, victim) == L0
    again = books.ask(victim)
    old = books.answer(victim, again, nonce=asked.nonce)  # today's window, yesterday's challenge
    with pytest.raises(EvidenceRefused) as caught:
        books.take_answer(victim, None, old)
    assert caught.value.outcome is Outcome.UNKNOWN_CHALLENGE
    # What was sealed then names a window that is not the newest now.
    assert refused(books, victim, again, sealed) is Outcome.UNKNOWN_WINDOW
    assert level(books, victim) == L0


def test_the_twin_of_a_report_is_no_second_proof(books, victim):
    """Both of one card's reports verify; the second card, which is gone, is not proved by it."""
    victim.devices.pop()
    books.show(victim)
    asked = books.ask(victim)
    nonce = device_nonce(asked.nonce, victim.tpm.ak.name, victim.host.previous)
    good = victim.devices[0].answer(nonce)
    s = int.from_bytes(good.report[-48:], "big")
    twin = Evidence(good.report[:-48] + (P384_ORDER - s).to_bytes(48, "big"), good.chain)
    proven = books.take_answer(victim, asked, books.answer(victim, asked, evidence=[good, twin]))
    assert len(proven.devices) == 1
    assert "answered twice" in proven.failed[0]


def test_devices_of_a_maker_that_nobody_named_lend_nothing(books):
    host = books.machine()
    own = nvidia.Maker()
    host.devices = [own.device(0x9000 + at) for at in range(2)]
    books.live(host)
    assert level(books, host) == L1


def test_a_quote_over_other_pcrs_proves_nothing(books):
    host = books.machine()
    books.show(host)
    asked = books.ask(host)
    for pcrs in ((0, 2, 4), (0, 2, 4, 7, 16), (16, 23)):
        assert refused(books, host, asked, books.answer(host, asked, pcrs=pcrs)) is (
            Outcome.WRONG_PCRS
        )
    assert refused(books, host, asked, books.answer(host, asked, tpm=None)) is Outcome.NO_QUOTE
    assert level(books, host) == L0


def test_a_quote_by_a_key_that_was_not_enrolled_proves_nothing(books):
    host = books.machine()
    books.show(host)
    asked = books.ask(host)
    sealed = books.answer(host, asked, quote_by=TpmKey(0x00050072))
    assert refused(books, host, asked, sealed) is Outcome.BAD_QUOTE
    assert level(books, host) == L0


# ---------------------------------------------------------------------------- TPMs


def test_a_software_tpm_is_worth_no_more_than_a_software_key(books):
    host = books.machine(tpm=new_tpm(Maker()), devices=True)
    books.live(host)
    one = books.line(host.serials[0], host.now_ms + MINUTE_MS).standing
    assert (one.assurance, one.cap_bps) == (L0, 1_000)
    assert "assurance.tpm_unknown" in {finding.code for finding in one.findings}


@pytest.mark.parametrize(
    "attributes",
    [
        0x00040072,  # not restricted: it signs whatever it is given, quotes that no TPM made too
        0x00050070,  # may leave its TPM
        0x00050052,  # was made elsewhere
    ],
)
def test_an_attestation_key_that_signs_anything_enrols_nothing(books, attributes):
    liar = new_tpm(ak_attributes=attributes)
    with pytest.raises(Denied) as denied:  # before it is asked anything
        books.registrar.tpms.activate(liar.certificates, liar.ak.public, START_MS)
    assert denied.value.reason is Denial.BAD_TPM
    with pytest.raises(Denied):
        books.machine(tpm=liar)


def test_a_copied_tpm_is_known_by_its_clock(books, victim):
    """A simulated TPM's state is copied, and another chassis answers with the copy in turns."""
    copied = copy.copy(victim.tpm)
    for _ in range(3):
        books.live(victim)
    assert frozen(books.tick(victim.now_ms)) == set()
    victim.tpm = copied
    books.live(victim)
    assert frozen(books.tick(victim.now_ms)) == {f"{victim.id}: tpm_clock_regression"}
    assert books.position(victim.now_ms).lendable == Usd(0)


# ---------------------------------------------------------------------------- copies of a host


def test_a_copied_state_directory_that_is_run_twice_freezes_both(books, victim):
    twin = copy.copy(victim)
    twin.host = copy.copy(victim.host)
    first = victim.host.seal(contents=victim.contents())
    second = twin.host.seal(contents=twin.contents())
    assert books.send(victim, first) is None
    assert books.send(twin, second) is Refusal.FORK
    one = books.position(victim.now_ms)
    assert (one.state, one.counted, one.lendable) == (State.DISPUTED, 0, Usd(0))
    assert frozen(books.tick(victim.now_ms)) == {f"{victim.id}: chain_fork"}


def test_a_snapshot_that_is_restored_forks_and_freezes(books, victim):
    """A virtual disk goes back by an hour; the host goes on from there."""
    snapshot = copy.copy(victim.host)
    books.show(victim, times=12)
    now_ms = victim.now_ms
    snapshot.now_ms = now_ms
    victim.host = snapshot
    assert books.send(victim, victim.host.seal(contents=victim.contents())) is Refusal.FORK
    assert frozen(books.tick(victim.now_ms)) == {f"{victim.id}: chain_fork"}
    assert books.position(victim.now_ms).lendable == Usd(0)


# ---------------------------------------------------------------------------- serials


@pytest.mark.parametrize("case", ["held at L2", "held at L1", "pledged to a host", "to a site"])
def test_a_bare_host_that_claims_anothers_serial_freezes_only_itself(books, case):
    held = case.startswith("held")
    owner = books.machine(tpm=held, devices=case == "held at L2")
    liar = books.machine(seed=9, gpus=3, tpm=False, site="den")
    reserve = {"pledged to a host": f"host: {owner.id}", "to a site": "site: lab"}.get(case, "")
    books.lend(*owner.serials, reserve=reserve)
    liar.host.gpus[0].serial = owner.serials[0]
    if held:
        books.live(owner)
    books.show(liar)  # before the owner has shown it, where that is all there is
    for _ in range(3):
        books.live(owner) if held else books.show(owner)
        books.show(liar)
        one = books.position(owner.now_ms + MINUTE_MS)
        assert one.counted == 2
    book = books.tick(owner.now_ms + MINUTE_MS)
    assert frozen(book) == {f"{liar.id}: false_claim"}
    assert book.positions["loan-1"].state is State.CURRENT
    for serial in owner.serials:
        assert books.line(serial, owner.now_ms).asset.host_key == books.found(owner).key
    for serial in liar.serials[1:]:
        assert not books.line(serial, owner.now_ms).standing.counts


def test_sock_puppets_do_not_hide_a_clone(books, victim):
    """As many bare hosts as claims are kept show the serial first; then its device answers twice."""
    for number in range(CLAIMS_MAX):
        puppet = books.machine(seed=30 + number, gpus=1, tpm=False)
        puppet.host.gpus[0].serial = victim.serials[0]
        books.show(puppet)
    thief = books.machine(seed=9, gpus=1)
    thief.host.gpus[0].serial = victim.serials[0]
    thief.devices = [victim.devices[0]]
    victim.now_ms = thief.now_ms = max(victim.now_ms, thief.now_ms) + HOUR_MS
    for _ in range(2):
        books.live(thief, victim)
    found = frozen(books.tick(victim.now_ms))
    assert f"{victim.serials[0]}: clone" in found
    assert not any(name.startswith(victim.id) for name in found)


def test_a_freeze_is_not_washed_off_by_a_swap(books, victim):
    """The host is frozen; its GPUs go on in another one, as operator and one lender agree."""
    one = victim.host.seal(contents=victim.contents(), advance=False)
    two = victim.host.seal(contents=victim.contents())
    books.send(victim, one)
    books.send(victim, two)
    fresh = books.machine(seed=9, gpus=0)
    books.live(fresh)
    now_ms = fresh.now_ms = victim.now_ms + HOUR_MS
    books.sign("host_swap", now_ms=now_ms, host=victim.id, to_host=fresh.id)
    for _ in range(2):
        fresh.put(victim.pull(0))
    books.show(fresh, identity=True)
    books.prove(fresh)
    at_ms = fresh.now_ms + MINUTE_MS
    position = books.position(at_ms)
    assert (position.counted, position.lendable) == (0, Usd(0))
    assert position.state is State.DISPUTED
    serials = fresh.serials
    told = {"now_ms": at_ms, "by": ("lena", "luis"), "holder": fresh.id}
    books.sign("re_enrol", *serials, **told)
    books.live(fresh)
    position = books.position(fresh.now_ms + MINUTE_MS)
    assert (position.counted, position.assurance) == (2, L2)
