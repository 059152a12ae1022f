"""Each step of verify() refuses what it is there to refuse, by its own name."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import codec, merkle, seal, verify
from assay_core.errors import Refusal, Refused
from assay_core.header import CloseReason, GapCause, GapRecord, Head, Header, Period, Source
from assay_core.leaves import Content, Gauge, Group, Reason
from assay_proto.v1 import window_pb2
from tests.golden import make

SIGNER = make.SIGNER
STRANGER = seal.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUST = verify.HostTrust(make.HOST_ID, 0, (SIGNER.public_key,))
EMPTY = verify.Chain(None, lambda _: None)
NOW = make.BEGIN_MS + 300_500


def window(sequence=0, previous=b"", *, contents=None, signer=SIGNER, **changes):
    link = seal.Link(make.HOST_ID, 0, make.BOOT, sequence, previous)
    arguments = {
        "link": dataclasses.replace(
            link, **{k: changes.pop(k) for k in list(changes) if hasattr(link, k)}
        ),
        "period": Period(make.BEGIN_MS, make.BEGIN_MS + 300_000, 1_000, 301_000),
        "source": Source.NVML,
        "close_reason": CloseReason.PERIOD,
        "agent_version": "0.1.0",
        "secret": make.SECRET,
        "signer": signer,
    }
    return seal.seal_window(
        make.contents() if contents is None else contents, **arguments | changes
    )


def check(sealed, *, trust=TRUST, chain=EMPTY, sources=(Source.NVML,), challenges=None, now=NOW):
    return verify.verify(
        sealed,
        trust=trust,
        chain=chain,
        policy=verify.Policy(frozenset(sources)),
        challenges=challenges or {},
        now_ms=now,
    )


def resigned(header: Header, leaves) -> seal.Sealed:
    """The header signed by the host's own key, whatever it says."""
    payload = codec.encode_header(header)
    return seal.Sealed(seal.sign_envelope(seal.WINDOW_TYPE, payload, SIGNER), tuple(leaves))


def signed_payload(payload: bytes, leaves) -> seal.Sealed:
    return seal.Sealed(seal.sign_envelope(seal.WINDOW_TYPE, payload, SIGNER), tuple(leaves))


def with_leaves(leaves) -> seal.Sealed:
    """A window whose header the host signed over just these leaf bytes."""
    header = codec.decode_header(window().envelope.payload)
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    return resigned(dataclasses.replace(header, leaf_count=len(leaves), merkle_root=root), leaves)


def test_a_good_window_comes_through_with_its_instants():
    verified = check(window())
    assert verified.header.sequence == 0
    assert verified.observed_ms == make.BEGIN_MS + 300_000
    assert verified.received_ms == NOW
    assert not verified.clock_behind
    assert [leaf.content.group for leaf in verified.leaves()] == [
        Group.HOST,
        Group.PLATFORM,
        Group.IDENTITY,
        Group.CONDITION,
        Group.HEALTH,
        Group.USE,
    ]


def test_nothing_but_verify_makes_a_verified_window():
    good = check(window())
    with pytest.raises(TypeError):
        verify.VerifiedWindow(
            good.header, good.hash, good.sealed, NOW, NOW, clock_behind=False, _maker=object()
        )
    with pytest.raises(TypeError):
        verify.VerifiedGap(None, good.sealed.envelope, NOW, _maker=None)


GOOD = window()
LEAVES = GOOD.leaves
HEADER = codec.decode_header(GOOD.envelope.payload)
OTHER_GPU = bytes(16)


def _moved():
    """The health leaf, word for word, but said of another GPU."""
    message = window_pb2.Leaf.FromString(LEAVES[4])
    message.subject = OTHER_GPU
    return message.SerializeToString()


def _altered(leaf: bytes) -> bytes:
    message = window_pb2.Leaf.FromString(leaf)
    message.use.power_mw.mean_above_min += 1
    return message.SerializeToString()


def _body(change) -> bytes:
    message = window_pb2.Leaf.FromString(LEAVES[5])
    change(message.use)
    return message.SerializeToString()


def _with_absent(entries):
    def change(use):
        del use.absent[:]
        for reason, fields in entries:
            use.absent.add(reason=reason, fields=fields)

    return _body(change)


CASES = {
    "too many leaves": (lambda: with_leaves(LEAVES * 50), Refusal.TOO_LARGE),
    "a huge leaf": (lambda: with_leaves([b"x" * 70_000]), Refusal.TOO_LARGE),
    "a huge window": (lambda: seal.Sealed(GOOD.envelope, (b"x" * 60_000,) * 20), Refusal.TOO_LARGE),
    "a huge header": (
        lambda: seal.Sealed(dataclasses.replace(GOOD.envelope, payload=b"x" * 3000), LEAVES),
        Refusal.TOO_LARGE,
    ),
    "no signature": (
        lambda: seal.Sealed(dataclasses.replace(GOOD.envelope, signatures=()), LEAVES),
        Refusal.MALFORMED_ENVELOPE,
    ),
    "too many signatures": (
        lambda: seal.Sealed(
            dataclasses.replace(GOOD.envelope, signatures=GOOD.envelope.signatures * 5), LEAVES
        ),
        Refusal.MALFORMED_ENVELOPE,
    ),
    "a schema from the future": (
        lambda: seal.Sealed(
            dataclasses.replace(
                GOOD.envelope, payload_type="application/vnd.assay.window.v2+protobuf"
            ),
            LEAVES,
        ),
        Refusal.UNSUPPORTED_SCHEMA,
    ),
    "another key": (lambda: window(signer=STRANGER), Refusal.BAD_SIGNATURE),
    "a header changed after signing": (
        lambda: seal.Sealed(
            dataclasses.replace(
                GOOD.envelope,
                payload=codec.encode_header(dataclasses.replace(HEADER, sequence=1)),
            ),
            LEAVES,
        ),
        Refusal.BAD_SIGNATURE,
    ),
    "a gap's signature on a window": (
        lambda: seal.Sealed(
            dataclasses.replace(
                seal.sign_envelope(seal.GAP_TYPE, GOOD.envelope.payload, SIGNER),
                payload_type=seal.WINDOW_TYPE,
            ),
            LEAVES,
        ),
        Refusal.BAD_SIGNATURE,
    ),
    "a truncated header": (
        lambda: signed_payload(GOOD.envelope.payload[:-3], LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "an unknown field": (
        lambda: signed_payload(GOOD.envelope.payload + b"\xf8\x07\x01", LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "a duplicate field": (
        lambda: signed_payload(GOOD.envelope.payload + b"\x08\x01", LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "a padded varint": (
        lambda: signed_payload(b"\x08\x81\x00" + GOOD.envelope.payload[2:], LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "a header of another schema": (
        lambda: resigned(dataclasses.replace(HEADER, schema=2), LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "a short boot id": (
        lambda: resigned(dataclasses.replace(HEADER, boot_id=b"x"), LEAVES),
        Refusal.MALFORMED_HEADER,
    ),
    "a period that runs backwards": (
        lambda: window(period=Period(0, 1_000, 9_000, 1_000)),
        Refusal.MALFORMED_HEADER,
    ),
    "another host's name": (
        lambda: window(host_id="spiffe://example.test/site/golden/host/ff"),
        Refusal.WRONG_HOST,
    ),
    "another incarnation": (lambda: window(incarnation=1), Refusal.WRONG_INCARNATION),
    "a simulated source": (lambda: window(source=Source.SIMULATED), Refusal.SOURCE_NOT_ALLOWED),
    "a leaf missing": (lambda: seal.Sealed(GOOD.envelope, LEAVES[:-1]), Refusal.LEAF_COUNT),
    "a leaf too many": (
        lambda: seal.Sealed(GOOD.envelope, (*LEAVES, LEAVES[-1])),
        Refusal.LEAF_COUNT,
    ),
    "a leaf altered": (
        lambda: seal.Sealed(GOOD.envelope, (*LEAVES[:5], _altered(LEAVES[5]))),
        Refusal.LEAF_MISMATCH,
    ),
    "a leaf moved to another GPU": (
        lambda: seal.Sealed(GOOD.envelope, (*LEAVES[:4], _moved(), LEAVES[5])),
        Refusal.LEAF_MISMATCH,
    ),
    "leaves in another order": (
        lambda: seal.Sealed(
            GOOD.envelope, (LEAVES[0], LEAVES[4], *LEAVES[2:4], LEAVES[1], LEAVES[5])
        ),
        Refusal.LEAF_MISMATCH,
    ),
    "no host leaf": (lambda: with_leaves(LEAVES[1:]), Refusal.MALFORMED_LEAF),
    "two leaves of a group": (lambda: with_leaves((*LEAVES, LEAVES[5])), Refusal.MALFORMED_LEAF),
    "a truncated leaf": (
        lambda: with_leaves((*LEAVES[:5], LEAVES[5][:-2])),
        Refusal.MALFORMED_LEAF,
    ),
    "an unknown field in a leaf": (
        lambda: with_leaves((*LEAVES[:5], LEAVES[5] + b"\xf8\x07\x01")),
        Refusal.MALFORMED_LEAF,
    ),
    "a short salt": (
        lambda: with_leaves((LEAVES[0].replace(LEAVES[0][:18], b"\x0a\x01x"),)),
        Refusal.MALFORMED_LEAF,
    ),
    "a leaf without a body": (
        lambda: with_leaves((LEAVES[0], b"\x0a\x10" + bytes(16))),
        Refusal.MALFORMED_LEAF,
    ),
    "a field with neither value nor reason": (
        lambda: with_leaves((LEAVES[0], _with_absent([]))),
        Refusal.MALFORMED_LEAF,
    ),
    "a field with both": (
        lambda: with_leaves((LEAVES[0], _with_absent([(2, [4, 10])]))),
        Refusal.MALFORMED_LEAF,
    ),
    "a reason that there is not": (
        lambda: with_leaves((LEAVES[0], _with_absent([(99, [10])]))),
        Refusal.MALFORMED_LEAF,
    ),
    "a reason for a field that there is not": (
        lambda: with_leaves((LEAVES[0], _with_absent([(2, [10, 99])]))),
        Refusal.MALFORMED_LEAF,
    ),
    "reasons out of order": (
        lambda: with_leaves((LEAVES[0], _with_absent([(2, [10]), (1, [10])]))),
        Refusal.MALFORMED_LEAF,
    ),
    "more than a minute ahead": (
        lambda: window(
            period=Period(NOW, NOW + 60_001, 1_000, 301_000),
        ),
        Refusal.AHEAD_OF_TIME,
    ),
    "a silent gap": (lambda: window(1, GOOD.hash), Refusal.SEQUENCE_GAP),
    "a first window with a past": (lambda: window(0, GOOD.hash), Refusal.WRONG_PREVIOUS),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_by_its_name(name):
    make_window, reason = CASES[name]
    with pytest.raises(Refused) as refused:
        check(make_window())
    assert refused.value.reason is reason


def test_an_unknown_and_a_revoked_host_are_refused():
    for trust, reason in (
        (None, Refusal.UNKNOWN_HOST),
        (dataclasses.replace(TRUST, revoked=True), Refusal.REVOKED_HOST),
    ):
        with pytest.raises(Refused) as refused:
            check(GOOD, trust=trust)
        assert refused.value.reason is reason


def test_a_minute_ahead_is_taken_and_never_observed_in_the_future():
    verified = check(window(period=Period(NOW, NOW + 60_000, 1_000, 301_000)))
    assert verified.observed_ms == NOW


def test_a_window_ahead_of_time_says_when_to_come_back():
    late = window(period=Period(NOW, NOW + 90_000, 1_000, 301_000))
    with pytest.raises(Refused) as refused:
        check(late)
    assert refused.value.retry_after_ms == 30_000
    assert refused.value.reason.retryable
    assert check(late, now=NOW + 30_000).header.sequence == 0


def test_a_clock_behind_is_marked_only_when_a_challenge_proves_it():
    nonce = bytes(31) + b"\x07"
    late = window(answered_challenge=nonce)
    asked = NOW + 3_600_000
    verified = check(late, challenges={nonce: asked}, now=asked + 1_000)
    assert verified.clock_behind
    assert verified.observed_ms == asked
    unasked = check(late, now=asked + 1_000)
    assert not unasked.clock_behind
    assert unasked.observed_ms == late_end(late)


def late_end(sealed):
    return codec.decode_header(sealed.envelope.payload).period.end_utc_ms


class TestChain:
    chain = verify.Chain(Head(0, GOOD.hash), {0: GOOD.hash}.get)

    def test_the_next_window_follows(self):
        assert check(window(1, GOOD.hash), chain=self.chain).header.sequence == 1

    def test_the_same_bytes_again_are_known(self):
        with pytest.raises(verify.AlreadyStored) as known:
            check(GOOD, chain=self.chain)
        assert known.value.sequence == 0

    def test_other_bytes_at_a_stored_sequence_are_a_fork(self):
        with pytest.raises(Refused) as refused:
            check(window(close_reason=CloseReason.EVENT), chain=self.chain)
        assert refused.value.reason is Refusal.FORK
        assert refused.value.sequence == 0

    def test_a_forged_fork_is_no_evidence(self):
        with pytest.raises(Refused) as refused:
            check(window(close_reason=CloseReason.EVENT, signer=STRANGER), chain=self.chain)
        assert refused.value.reason is Refusal.BAD_SIGNATURE
        assert refused.value.sequence is None

    def test_a_window_that_names_another_head_is_refused(self):
        with pytest.raises(Refused) as refused:
            check(window(1, bytes(32)), chain=self.chain)
        assert refused.value.reason is Refusal.WRONG_PREVIOUS

    def test_a_later_incarnation_names_the_old_head(self):
        trust = verify.HostTrust(make.HOST_ID, 1, (SIGNER.public_key,), GOOD.hash)
        again = window(0, GOOD.hash, incarnation=1)
        assert check(again, trust=trust).header.incarnation == 1
        with pytest.raises(Refused):
            check(window(0, b"", incarnation=1), trust=trust)


class TestGap:
    gap = GapRecord(
        host_id=make.HOST_ID,
        incarnation=0,
        boot_id=make.BOOT,
        first_sequence=1,
        last_sequence=3,
        previous_header_hash=GOOD.hash,
        last_dropped_hash=bytes([5]) * 32,
        begin_utc_ms=0,
        end_utc_ms=1,
        cause=GapCause.SPOOL_FULL,
    )
    chain = TestChain.chain

    def check(self, gap, chain=None):
        envelope = seal.seal_gap(gap, SIGNER)
        return verify.verify_gap(envelope, trust=TRUST, chain=chain or self.chain, now_ms=NOW)

    def test_the_chain_goes_on_from_it(self):
        verified = self.check(self.gap)
        head = Head(verified.gap.last_sequence, verified.gap.last_dropped_hash)
        after = verify.Chain(head, lambda _: None)
        assert check(window(4, bytes([5]) * 32), chain=after).header.sequence == 4

    def test_it_must_follow_the_head(self):
        for change, reason in (
            ({"first_sequence": 2}, Refusal.SEQUENCE_GAP),
            ({"previous_header_hash": bytes(32)}, Refusal.WRONG_PREVIOUS),
            ({"first_sequence": 0, "last_sequence": 0}, Refusal.FORK),
            ({"host_id": "spiffe://other"}, Refusal.WRONG_HOST),
        ):
            with pytest.raises(Refused) as refused:
                self.check(dataclasses.replace(self.gap, **change))
            assert refused.value.reason is reason

    def test_the_same_gap_again_is_known(self):
        stored = verify.Chain(
            Head(3, self.gap.last_dropped_hash), {3: self.gap.last_dropped_hash}.get
        )
        with pytest.raises(verify.AlreadyStored):
            self.check(self.gap, stored)

    def test_a_gap_is_no_window(self):
        with pytest.raises(Refused) as refused:
            check(seal.Sealed(seal.seal_gap(self.gap, SIGNER), LEAVES))
        assert refused.value.reason is Refusal.UNSUPPORTED_SCHEMA


def test_a_writer_cannot_leave_a_field_out():
    content = make.contents()[5]
    values = dict(content.values)
    del values["power_mw"]
    with pytest.raises(codec.Malformed, match="power_mw"):
        window(contents=[Content(content.subject, content.group, values)])
    values["power_mw"] = Reason.NOT_SAMPLED
    values["memory_used_bytes"] = Gauge(2, 1, 3)
    with pytest.raises(codec.Malformed, match="memory_used_bytes"):
        window(contents=[Content(content.subject, content.group, values)])
    values["memory_used_bytes"] = Gauge(1, 1, 1)
    values["shoe_size"] = Gauge(1, 1, 1)
    with pytest.raises(codec.Malformed, match="shoe_size"):
        window(contents=[Content(content.subject, content.group, values)])
