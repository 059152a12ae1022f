"""Two parties decide of assets, over a real store: what takes effect when, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from assay_core.asset_events import Inspection
from assay_core.errors import AssayError, FileError, HostError
from assay_core.seal import Envelope, Signature
from assay_core.signatories import Role
from assay_valuer.events import EventError, State
from assay_valuer.events.kept import DAY_OF_HOST_MAX, OPEN_OF_ONE_MAX
from assay_valuer.parties import PartyError
from assay_valuer.policy import Lifecycle, ValuerPolicy
from tests.fakes.collateral import loan_text
from tests.fakes.events import DAY_MS, HOUR_MS, NOW, FakeDesk, envelope, event, gpu, new_key


@pytest.fixture
def desk(tmp_path):
    desk = FakeDesk(tmp_path)
    yield desk
    desk.ledger.check()
    desk.close()


def replacement(old="A", new="B"):
    return event("gpu_replacement", old, replacements=(gpu(new),))


def test_it_waits_for_the_other_party_and_takes_effect_with_its_signature(desk):
    desk.loan("A")
    one = desk.propose(replacement(), desk.bob)
    assert (one.state, one.lacking, one.new) == (State.PROPOSED, (Role.LENDER,), True)
    assert desk.asset("B") is None
    assert desk.records() == []
    desk.now += HOUR_MS
    done = desk.sign(one, desk.alice)
    assert (done.state, done.decided_ms) == (State.ACCEPTED, desk.now)
    (record,) = desk.records()
    old, new = desk.asset("A"), desk.asset("B")
    assert (record.id, record.accepted, record.event, record.decided_ms) == (
        one.id, True, one.event, desk.now)  # fmt: skip
    assert (record.asset_ids, record.replaced_by) == ((old,), {old: new})
    assert set(record.signers) == {("bob", Role.OPERATOR), ("alice", Role.LENDER)}
    pledge = desk.pledge("B")
    assert (pledge.loan_id, pledge.successor_of) == ("loan-1", old)
    assert desk.pledge("A").loan_id == "loan-1", "both stay linked to the loan"


@pytest.mark.parametrize("lender_first", [False, True])
def test_the_order_of_signatures_is_no_matter_and_one_act_may_bring_both(desk, lender_first):
    desk.loan("A", "C")
    keys = (desk.alice, desk.bob) if lender_first else (desk.bob, desk.alice)
    assert desk.propose(replacement("A", "B"), *keys).state is State.ACCEPTED
    first = desk.propose(replacement("C", "D"), keys[0])
    assert desk.sign(first, keys[1]).state is State.ACCEPTED
    assert len(desk.records()) == 2


def test_the_same_again_is_one_event_and_one_person_is_not_two(desk):
    desk.loan("A")
    wanted = replacement()
    one = desk.propose(wanted, desk.bob)
    again = desk.propose(wanted, desk.bob, desk.bob)
    assert (again.id, again.new, len(again.signed)) == (one.id, False, 1)
    assert again.state is State.PROPOSED
    partner = desk.party("ben", "operator")
    assert desk.sign(one, partner).lacking == (Role.LENDER,), "two operators are no lender"
    done = desk.sign(one, desk.alice)
    assert desk.propose(wanted, desk.bob) == dataclasses.replace(done, new=False)
    with pytest.raises(EventError, match="is decided: accepted"):
        desk.sign(one, desk.alice)
    assert len(desk.records()) == 1


def test_what_is_disputed_is_enrolled_anew_by_two_lenders(desk):
    host = desk.host("1")
    desk.shown(host, "A")
    wanted = event("re_enrol", "A", holder=host.host_id, lifts=("clone",))
    one = desk.propose(wanted, desk.alice)
    assert desk.propose(wanted, desk.alice, desk.alice).lacking == (Role.LENDER,)
    with pytest.raises(EventError, match="bob is operator"):
        desk.sign(one, desk.bob)
    adam = desk.party("adam", "lender")
    assert desk.sign(one, adam).state is State.ACCEPTED
    (record,) = desk.records()
    assert record.host_keys == {host.host_id: desk.ledger.host(host).key}


def test_custody_takes_the_custodian_of_that_site(desk):
    host = desk.host("1", "fra1")
    desk.shown(host, "A")
    desk.now += HOUR_MS
    inspection = Inspection(
        inspector="Carol", inspected_ms=NOW, document_sha256="ab" * 32, valid_until_ms=NOW + DAY_MS
    )
    one = desk.propose(event("custody", "A", inspection=inspection), desk.alice)
    elsewhere = desk.party("carl", "custodian", "fra2")
    with pytest.raises(EventError, match="carl speaks for fra2, and this is of fra1"):
        desk.sign(one, elsewhere)
    carol = desk.party("carol", "custodian", "fra1", "fra3")
    assert desk.sign(one, carol).state is State.ACCEPTED
    assert desk.records()[0].event.inspection == inspection


def test_an_operator_speaks_for_its_sites_alone_and_for_nothing_of_no_known_site(desk):
    desk.loan("A")
    local = desk.party("lou", "operator", "fra1")
    with pytest.raises(EventError, match="at no known site"):
        desk.propose(replacement(), local)
    desk.shown(desk.host("1", "fra1"), "A")
    assert desk.propose(replacement(), local).state is State.PROPOSED


def test_whoever_ended_counts_no_more_even_for_what_it_signed_before(desk):
    desk.loan("A")
    one = desk.propose(replacement(), desk.bob)
    assert desk.end("bob")
    assert not desk.end("bob")
    assert desk.sign(one, desk.alice).lacking == (Role.OPERATOR,)
    with pytest.raises(EventError, match="bob is no party any more"):
        desk.sign(one, desk.bob)
    assert desk.sign(one, desk.party("ben", "operator")).state is State.ACCEPTED
    assert {who for who, _ in desk.records()[0].signers} == {"alice", "ben"}


def test_nobody_signs_with_a_key_that_is_not_theirs(desk):
    desk.loan("A")
    wanted = replacement()
    with pytest.raises(EventError, match="is no party's"):
        desk.propose(wanted, new_key())
    stolen = envelope(wanted, new_key()).signatures[0]
    false = Signature(stolen.sig, desk.bob.public_key.fingerprint)
    sealed = envelope(wanted, desk.bob)
    with pytest.raises(EventError, match="not bob's over these bytes"):
        desk.propose_envelope(dataclasses.replace(sealed, signatures=(false,)))
    other = envelope(replacement("A", "C"), desk.bob)
    with pytest.raises(EventError, match="not bob's over these bytes"):
        desk.propose_envelope(dataclasses.replace(other, signatures=sealed.signatures))
    with pytest.raises(EventError, match="bears 1 to 8 signatures"):
        desk.propose_envelope(dataclasses.replace(sealed, signatures=()))
    with pytest.raises(EventError, match="payload type"):
        desk.propose_envelope(Envelope(sealed.payload, "other", sealed.signatures))
    carol = desk.party("carol", "custodian")
    with pytest.raises(EventError, match=r"carol is custodian; .* to sign"):
        desk.propose(wanted, carol)
    assert desk.records() == []


def test_keys_of_parties_are_of_parties_alone(desk):
    host = desk.host("1")
    with pytest.raises(PartyError, match="a host's sealing key"):
        desk.party("mallory", "operator", key=host.signer)
    with pytest.raises(PartyError, match="the ledger's key"):
        desk.party("mallory", "lender", key=desk.ledger.signer)
    with pytest.raises(PartyError, match="this key is bob's"):
        desk.party("mallory", "lender", key=desk.bob)
    desk.end("bob")
    with pytest.raises(PartyError, match="this key is bob's"):
        desk.party("mallory", "lender", key=desk.bob)
    with pytest.raises(PartyError, match="or was"):
        desk.party("bob", "operator")
    with pytest.raises(PartyError, match="name none"):
        desk.party("lena", "lender", "fra1")
    with pytest.raises(PartyError, match="Fra1"):
        desk.party("otto", "operator", "Fra1")


# ------------------------------------------------------------------ one pledge, fleet-wide


def test_what_is_pledged_elsewhere_takes_nobodys_place(desk):
    desk.loan("A")
    desk.loan("X", loan_id="loan-2", token_id=8)
    with pytest.raises(EventError, match=r"X .* is pledged to loan loan-2 already"):
        desk.propose(replacement("A", "X"), desk.bob)
    one = desk.propose(replacement("A", "B"), desk.bob)
    desk.loan("X", "B", loan_id="loan-2", token_id=8)
    with pytest.raises(EventError, match=r"B .* is pledged to loan loan-2 already"):
        desk.sign(one, desk.alice)
    assert desk.pledge("B").successor_of is None
    assert desk.records() == []


def test_a_successor_secures_no_other_loan_and_is_replaced_in_its_turn(desk):
    desk.loan("A")
    desk.propose(replacement("A", "B"), desk.bob, desk.alice)
    with pytest.raises(FileError, match="B is pledged to loan loan-1 already"):
        desk.loan("B", loan_id="loan-2", token_id=8)
    with pytest.raises(FileError, match="A is pledged to loan loan-1 already"):
        desk.loan("A", loan_id="loan-2", token_id=8)
    with pytest.raises(EventError, match="B has taken the place of A: name that one"):
        desk.propose(replacement("A", "C"), desk.bob)
    with pytest.raises(EventError, match=r"A .* is pledged to loan loan-1 already"):
        desk.propose(replacement("B", "A"), desk.bob)
    desk.propose(replacement("B", "C"), desk.bob, desk.alice)
    assert desk.pledge("C").successor_of == desk.asset("B")


def test_importing_the_file_again_keeps_who_took_whose_place(desk):
    desk.loan("A", "Z")
    desk.propose(replacement("A", "B"), desk.bob, desk.alice)
    desk.propose(replacement("B", "C"), desk.bob, desk.alice)
    assert desk.loan("A", "Z").pledged == 2
    links = {name: desk.pledge(name).successor_of for name in "ABCZ"}
    a, b = desk.asset("A"), desk.asset("B")
    assert links == {"A": None, "B": a, "C": b, "Z": None}
    desk.loan("B", "Z")  # the file names the second now: what it replaced is no pledge any more
    assert desk.pledge("A") is None
    assert (desk.pledge("B").successor_of, desk.pledge("C").successor_of) == (None, b)
    desk.loan("Z")
    assert [desk.pledge(name) for name in "ABC"] == [None, None, None]


def test_a_released_gpu_is_free_and_its_loans_file_does_not_pledge_it_again(desk):
    desk.loan("A", "Z")
    desk.propose(replacement("A", "B"), desk.bob, desk.alice)
    with pytest.raises(EventError, match="secures loan loan-1, not loan loan-2"):
        desk.loan("Y", loan_id="loan-2", token_id=8)
        desk.propose(event("release", "Z", loan="loan-2"), desk.alice)
    with pytest.raises(EventError, match="B has taken the place of A"):
        desk.propose(event("release", "A", loan="loan-1"), desk.alice)
    one = desk.propose(event("release", "B", loan="loan-1"), desk.alice)
    assert desk.pledge("B") is not None
    desk.sign(one, desk.bob)
    assert (desk.pledge("A"), desk.pledge("B")) == (None, None)
    again = desk.loan("A", "Z")
    assert (again.pledged, again.released, desk.pledge("A")) == (1, 1, None)
    desk.loan("Y", "B", loan_id="loan-2", token_id=8)
    assert desk.pledge("B").loan_id == "loan-2"


def test_a_redeemed_loan_is_secured_by_nothing(desk):
    desk.loan("A", "B")
    desk.loan("C", loan_id="loan-2", token_id=8)
    with pytest.raises(EventError, match="there is no loan loan-9"):
        desk.propose(event("redemption", loan="loan-9"), desk.alice)
    with pytest.raises(EventError, match="bob is operator"):
        desk.propose(event("redemption", loan="loan-1"), desk.bob)
    desk.propose(event("redemption", loan="loan-1"), desk.alice)
    assert [desk.pledge(name) for name in "AB"] == [None, None]
    assert desk.pledge("C").loan_id == "loan-2"
    assert desk.records()[0].asset_ids == (desk.asset("A"), desk.asset("B"))
    assert desk.loan("A", "B").pledged == 0


# ------------------------------------------------------------------ moves


def test_a_move_takes_what_is_reserved_along_and_the_files_next_import_does_not_undo_it(desk):
    one, two = desk.host("1", "fra1"), desk.host("2", "fra2")
    desk.shown(one, "A", "B", "C")
    extra = "site: fra1\n"
    desk.loan("A", "B", extra=extra)
    desk.loan("C", loan_id="loan-2", token_id=8)
    swap = event("host_swap", "A", host=one.host_id, to_host=two.host_id)
    desk.propose(swap, desk.bob, desk.alice)
    assert (desk.pledge("A").site, desk.pledge("B").site) == ("fra2", "fra1")
    desk.propose(event("move", "C", to_host=two.host_id), desk.bob, desk.alice)
    assert desk.pledge("C").site is None, "what is reserved for nobody stays so"
    desk.loan("A", "B", extra=extra)
    assert desk.pledge("A").site == "fra2"
    desk.loan("A", "B", extra="site: fra3\n")
    assert desk.pledge("A").site == "fra3", "unless the file says something new"


def test_a_host_that_moves_keeps_what_is_reserved_to_it_and_is_at_the_other_site(desk):
    one, two = desk.host("1", "fra1"), desk.host("2", "fra1")
    desk.shown(one, "A")
    desk.loan("A", "E", "F", extra=f'host: "{one.host_id}"\n')
    local = desk.party("lou", "operator", "fra1")
    move = event("move", host=one.host_id, to_site="fra2")
    desk.propose(move, local, desk.alice)
    assert desk.records()[-1].asset_ids == tuple(sorted(map(desk.asset, "AEF")))
    assert [desk.pledge(name).host_id for name in "AEF"] == [one.host_id] * 3
    with pytest.raises(EventError, match="lou speaks for fra1, and this is of fra2"):
        desk.propose(event("maintenance", host=one.host_id), local)
    with pytest.raises(EventError, match="at fra2 already"):
        desk.propose(event("move", "A", to_site="fra2"), desk.bob)
    desk.propose(event("move", "A", to_host=two.host_id), desk.bob, desk.alice)
    assert desk.pledge("A").host_id == two.host_id
    desk.propose(event("move", "F", to_site="fra3"), desk.bob, desk.alice)
    assert (desk.pledge("F").site, desk.pledge("F").host_id) == ("fra3", None)


def test_nothing_goes_to_a_host_that_is_not_there_or_was_revoked(desk):
    one, two = desk.host("1"), desk.host("2")
    desk.shown(one, "A")
    with pytest.raises(EventError, match="to_host: there is no host spiffe://nobody"):
        desk.propose(event("move", "A", to_host="spiffe://nobody"), desk.bob)
    with pytest.raises(EventError, match="no GPU Q"):
        desk.propose(event("maintenance", "Q"), desk.bob)
    waiting = desk.propose(event("move", "A", to_host=two.host_id), desk.bob)
    desk.revoke(two)
    with pytest.raises(EventError, match="was revoked; enrol another"):
        desk.sign(waiting, desk.alice)


# ------------------------------------------------------------------ refusing, withdrawing, time


def test_a_proposal_is_refused_or_withdrawn_by_a_signed_word_of_those_it_is_for(desk):
    desk.loan("A")
    one, two = desk.propose(replacement(), desk.bob), desk.propose(replacement("A", "C"), desk.bob)
    with pytest.raises(EventError, match=r"alice is lender; .* is for operator to withdraw"):
        desk.withdraw(one, desk.alice)
    with pytest.raises(EventError, match=r"carol is custodian; .* to refuse"):
        desk.refuse(one, desk.party("carol", "custodian"))
    with pytest.raises(EventError, match="is of another event"):
        desk.refuse(one, desk.alice, of=two)
    with pytest.raises(EventError, match="is no party's"):
        desk.refuse(one, new_key())
    assert desk.refuse(one, desk.alice).state is State.REFUSED
    assert desk.withdraw(two, desk.bob).state is State.WITHDRAWN
    for ended in (one, two):
        with pytest.raises(EventError, match="is decided"):
            desk.sign(ended, desk.alice)
        assert desk.propose_envelope(ended.envelope).state is not State.ACCEPTED
    assert [(item.state, item.asset_ids) for item in desk.records()] == [
        (State.REFUSED, ()), (State.WITHDRAWN, ())]  # fmt: skip
    assert desk.asset("B") is None


def test_maintenance_up_to_the_policys_bound_waits_for_nobody(tmp_path):
    policy = ValuerPolicy(lifecycle=Lifecycle(accept_maintenance_s=4 * 3600))
    desk = FakeDesk(tmp_path, policy)
    host = desk.host("1")
    short = event("maintenance", host=host.host_id, until_ms=NOW + 4 * HOUR_MS)
    assert desk.propose(short, desk.bob).detail == "accepted by bob (operator) and the policy"
    longer = event("maintenance", host=host.host_id, until_ms=NOW + 4 * HOUR_MS + 1)
    one = desk.propose(longer, desk.bob)
    assert one.lacking == (Role.LENDER,)
    assert desk.sign(one, desk.alice).state is State.ACCEPTED
    assert desk.propose(event("maintenance", host=host.host_id), desk.alice).lacking
    desk.close()


def test_a_signature_that_comes_when_the_window_is_over_changes_nothing(desk):
    desk.loan("A")
    one = desk.propose(replacement(), desk.bob)
    desk.now = one.event.until_ms
    assert one.lapsed(desk.now)
    with pytest.raises(FileError, match="until_ms: was over at"):
        desk.sign(one, desk.alice)
    late = event("gpu_replacement", "A", replacements=(gpu("B"),), now_ms=NOW)
    with pytest.raises(FileError, match="until_ms"):
        desk.propose(late, desk.bob)


# ------------------------------------------------------------------ from a host's stream


def test_a_host_proposes_of_itself_and_of_its_gpus_alone(desk):
    one, two = desk.host("1"), desk.host("2")
    desk.shown(one, "A")
    desk.shown(two, "B")
    desk.loan("E", "F", extra=f'host: "{one.host_id}"\n')
    done = desk.propose_from(one, event("maintenance", host=one.host_id))
    assert (done.state, done.signed[0].who, done.signed[0].role) == (
        State.ACCEPTED, one.host_id, Role.OPERATOR)  # fmt: skip
    waiting = desk.propose_from(one, replacement("A", "A2"))
    assert waiting.lacking == (Role.LENDER,)
    assert desk.sign(waiting, desk.alice).state is State.ACCEPTED
    assert desk.propose_from(one, event("maintenance", "E")).state is State.ACCEPTED
    for wrong, words in (
        (event("maintenance", host=two.host_id), "speaks for itself alone"),
        (event("maintenance", "B"), "B is not of"),
        (event("release", "E", loan="loan-1"), "a host proposes no release"),
        (event("re_enrol", "A", holder=one.host_id), "a host proposes no re_enrol"),
        (event("redemption", loan="loan-1"), "a host proposes no redemption"),
        (event("maintenance", "Q"), "no GPU Q"),
    ):
        with pytest.raises(HostError, match=words):
            desk.propose_from(one, wrong)
    with pytest.raises(HostError, match="E is not of"):
        desk.propose_from(two, event("maintenance", "E"))
    for keys in ((two.signer,), (one.signer, desk.alice), (desk.alice,)):
        with pytest.raises(HostError, match="one signature, by that host's sealing key"):
            desk.propose_from(one, event("maintenance", host=one.host_id), *keys)


def test_a_revoked_or_reinstalled_hosts_key_signs_nothing_any_more(desk):
    one, two = desk.host("1"), desk.host("2")
    desk.shown(one, "A")
    desk.shown(two, "B")
    first = desk.propose_from(one, replacement("A", "A2"))
    second = desk.propose_from(two, replacement("B", "B2"))
    desk.revoke(one)
    desk.ledger.reinstall(desk.ledger.host(two).key, two)
    for waiting in (first, second):
        assert desk.sign(waiting, desk.alice).lacking == (Role.OPERATOR,)
    with pytest.raises(HostError, match="revoked"):
        desk.propose_from(one, event("maintenance", host=one.host_id))


def test_open_proposals_of_one_host_are_bounded_and_so_is_a_day(desk):
    one = desk.host("1")
    desk.shown(one, "A")
    first = desk.propose_from(one, replacement())
    desk.fill(first, OPEN_OF_ONE_MAX - 2)
    desk.propose_from(one, replacement())
    with pytest.raises(HostError, match="64 open proposals"):
        desk.propose_from(one, replacement())
    desk.now = first.event.until_ms - 1
    for _ in range(2):  # the first day is over, and nothing of it is open but those
        with pytest.raises(HostError, match="64 open proposals"):
            desk.propose_from(one, event("maintenance", host=one.host_id, now_ms=desk.now))
    desk.now += 1
    day = event("maintenance", host=one.host_id, now_ms=desk.now)
    done = desk.propose_from(one, day)
    assert done.state is State.ACCEPTED, "lapsed ones are not open"
    desk.fill(done, DAY_OF_HOST_MAX - 1)
    with pytest.raises(HostError, match="within a day"):
        desk.propose_from(one, event("maintenance", host=one.host_id, now_ms=desk.now))
    assert desk.propose(event("maintenance", "A", now_ms=desk.now), desk.bob).new


def test_whatever_is_refused_leaves_nothing(desk):
    before = desk.ledger.check()
    host = desk.host("1")
    sealed = envelope(event("maintenance", host=host.host_id), host.signer)
    for broken in (sealed.payload[:-1], sealed.payload + b" ", b"", b"{}", b"\x00" * 70_000):
        with pytest.raises(AssayError):
            desk.propose_envelope(Envelope(broken, sealed.payload_type, sealed.signatures))
    assert desk.ledger.check() == before


def test_a_loans_file_reserves_for_a_site_or_a_host_and_not_for_both(desk):
    host = "spiffe://assay.test/site/lab/host/9"
    text = loan_text(["A", "B", "C"], extra="site: fra1\n")
    text = text.replace('"B", ', f'"B", host: "{host}", ').replace('"C", ', '"C", site: fra2, ')
    assert desk.import_text(text).expected == 3
    found = {name: (desk.pledge(name).site, desk.pledge(name).host_id) for name in "ABC"}
    assert found == {"A": ("fra1", None), "B": (None, host), "C": ("fra2", None)}
    for both, where in (
        (text.replace("site: fra1", f'site: fra1\nhost: "{host}"'), "host"),
        (text.replace("site: fra2", f'site: fra2, host: "{host}"'), "pledge.2.host"),
    ):
        with pytest.raises(FileError, match=rf"loan\.yaml:[0-9]+: {where}: a site is named"):
            desk.import_text(both)
    for wrong in (text.replace("fra2", "Fra 2"), text.replace("spiffe:", "https:")):
        with pytest.raises(FileError, match=r"loan\.yaml:[0-9]+: pledge"):
            desk.import_text(wrong)
