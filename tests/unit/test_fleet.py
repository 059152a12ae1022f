"""Which asset a window speaks of, and what another host's claim can and cannot do."""

from __future__ import annotations

from assay_core.leaves import HOST, Content, Group
from assay_valuer.fleet import HOST_ASSETS_MAX, Fleet
from assay_valuer.policy import ValuerPolicy
from assay_valuer.sights import Identified, WindowSights
from assay_valuer.standing.trust import Verdict
from assay_valuer.standing.types import Host
from tests.fakes.collateral import NOW, PART, sight

A, B = 1, 2
U1, U2 = b"\x01" * 16, b"\x02" * 16


def verdicts(one):
    return {claim.host_key: claim.verdict for claim in one.trust.claims}


def identified(serial, name="NVIDIA H200"):
    return Identified(name, serial, PART if serial else None, 7)


class Story:
    """Windows of hosts A and B, one after another."""

    def __init__(self, registry=None, policy=None, assets=()):
        self.fleet = Fleet(assets, {}, policy or ValuerPolicy(), registry)
        self.position = 0

    def window(self, host_key, gpus, missing=(), name="NVIDIA H200", *, seen=True):
        """`gpus` maps a UUID to a serial, to "" for an identity without one, or to None."""
        self.position += 1
        at_ms = NOW + self.position * 1_000
        self.fleet.take(
            WindowSights(
                host_key=host_key,
                position=self.position,
                hash=bytes([self.position]) * 32,
                simulated=False,
                gpus={
                    uuid: (
                        None if serial is None else identified(serial or None, name),
                        sight(at_ms, self.position, subject=uuid, seen=seen),
                    )
                    for uuid, serial in gpus.items()
                },
                unnamed=sight(at_ms, self.position, seen=False),
                host=Content(HOST, Group.HOST, {"driver_state": 1, "missing_gpus": tuple(missing)}),
            ),
            Host(host_key, f"host-{host_key}", f"site-{host_key}", at_ms, False),
        )

    def by_serial(self, serial):
        (found,) = [one for one in self.fleet.assets.values() if one.serial == serial]
        return found


def test_a_gpu_is_known_by_its_serial_and_then_by_its_uuid_on_its_host():
    story = Story()
    story.window(A, {U1: "S1", U2: "S2"})
    story.window(A, {U1: None, U2: None})
    assert [one.track.position for one in story.fleet.assets.values()] == [2, 2]
    assert len(story.fleet.taken().made) == 2
    assert not story.fleet.taken()


def test_a_uuid_without_an_identity_is_nobody():
    story = Story()
    story.window(A, {U1: None})
    assert not story.fleet.assets


def test_another_hosts_claim_to_a_serial_moves_nothing_and_asks():
    story = Story()
    story.window(A, {U1: "S1"})
    story.window(B, {U2: "S1"})
    story.window(B, {U2: None})
    one = story.by_serial("S1")
    assert (one.host_key, one.uuid, one.track.position) == (A, U1, 1)
    assert verdicts(one) == {B: Verdict.OPEN}
    assert not one.trust.freezes


def test_a_serial_that_two_hosts_go_on_showing_is_disputed():
    story = Story()
    story.window(A, {U1: "S1"})
    story.window(B, {U2: "S1"})
    story.window(A, {U1: None})  # not yet both at once: it may have gone back
    assert verdicts(story.by_serial("S1")) == {B: Verdict.OPEN}
    story.window(B, {U2: None})
    one = story.by_serial("S1")
    assert verdicts(one) == {B: Verdict.DISPUTED}
    assert (one.host_key, one.track.position) == (A, 3)
    assert not story.fleet.known.proofs


def test_another_hosts_claim_to_a_uuid_takes_nothing_away():
    story = Story()
    story.window(A, {U1: "S1"})
    story.window(B, {U1: "S9"})
    story.window(A, {U1: None})
    victim, other = story.by_serial("S1"), story.by_serial("S9")
    assert (victim.track.position, victim.uuid, victim.trust.claims) == (3, U1, ())
    assert (other.host_key, other.track.position) == (B, 2)


def test_a_claim_by_uuid_alone_binds_only_the_claimant():
    story = Story()
    story.window(A, {U1: "S1"})
    story.window(B, {U1: ""})
    assert len(story.fleet.assets) == 1
    assert not story.by_serial("S1").trust.claims


def test_two_claims_by_uuid_alone_are_disputed():
    story = Story()
    story.window(A, {U1: ""})
    story.window(B, {U1: ""})
    (one,) = story.fleet.assets.values()
    assert (one.host_key, verdicts(one)) == (A, {B: Verdict.DISPUTED})


def test_one_serial_twice_in_a_window_is_disputed():
    story = Story()
    story.window(A, {U1: "S1", U2: "S1"})
    assert verdicts(story.by_serial("S1")) == {A: Verdict.DISPUTED}


def test_a_board_with_a_new_uuid_is_the_same_asset_and_a_uuid_on_a_new_board_another():
    story = Story()
    story.window(A, {U1: "S1"})
    story.window(A, {U2: "S1"})
    assert (story.by_serial("S1").uuid, len(story.fleet.assets)) == (U2, 1)
    story.window(A, {U2: "S2"})
    assert (story.by_serial("S1").uuid, story.by_serial("S2").uuid) == (None, U2)
    story.window(A, {U2: None})
    assert story.by_serial("S1").track.missing_since_ms is not None
    assert story.by_serial("S2").track.position == 4


def test_a_gpu_that_a_window_does_not_name_is_unseen_and_lost_only_where_the_host_says_so():
    story = Story()
    story.window(A, {U1: "S1", U2: "S2"})
    story.window(A, {}, missing=[U2])
    silent, lost = story.by_serial("S1").track, story.by_serial("S2").track
    assert (silent.condition.lost, lost.condition.lost) == (False, True)
    assert silent.missing_since_ms == lost.missing_since_ms == NOW + 2_000


def test_a_host_that_invents_gpus_is_followed_only_so_far_and_takes_nothing_from_others():
    story = Story()
    story.window(A, {U1: "S1"})
    for first in range(0, HOST_ASSETS_MAX + 64, 64):
        story.window(B, {number.to_bytes(16): f"F{number}" for number in range(first, first + 64)})
    of_b = [one for one in story.fleet.assets.values() if one.host_key == B]
    assert len(of_b) == HOST_ASSETS_MAX
    assert story.fleet.taken().crowded == {"host-2"}
    story.window(A, {U1: None, U2: "S2"})
    assert story.by_serial("S2").host_key == A
    story.window(B, {(1).to_bytes(16): "F1"})  # those it has are followed as before
    assert story.by_serial("F1").track.position == story.position
    assert not story.fleet.taken().crowded


def test_a_board_does_not_become_a_dearer_product():
    story = Story()
    story.window(A, {U1: "S1"}, name=None)
    story.window(A, {U1: "S1"})
    story.window(A, {U1: "S1"}, name="NVIDIA B200")
    story.window(A, {U2: "S1"}, name="NVIDIA B200")
    assert story.by_serial("S1").name == "NVIDIA H200"
