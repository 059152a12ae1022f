"""Whatever is signed by whomever: nothing short of the needed people takes effect."""

from __future__ import annotations

import itertools

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from assay_core.seal import (
    ASSET_EVENT_TYPE,
    ED25519,
    Ed25519Signer,
    Envelope,
    PublicKey,
    Signature,
    sign_envelope,
)
from assay_core.signatories import Role, Signatory, lacking, signed_by

ROLES = st.sampled_from(list(Role))
# Few names and keys, so that they are often shared.
SIGNATORIES = st.builds(
    Signatory,
    st.sampled_from(["alice", "bob", "carol"]),
    ROLES,
    st.builds(PublicKey, st.just(ED25519), st.sampled_from([bytes([n]) * 32 for n in range(4)])),
)
SIGNED = st.lists(SIGNATORIES, max_size=6)
NEEDED = st.lists(ROLES, min_size=1, max_size=3).map(tuple)


def people(signed):
    """Who is one: by names and keys, followed as far as they lead. Counted by brute force."""
    signed = set(signed)
    groups = [{one} for one in signed]
    for a, b in itertools.product(signed, signed):
        if a.who == b.who or a.key == b.key:
            first = next(group for group in groups if a in group)
            second = next(group for group in groups if b in group)
            if first is not second:
                groups.remove(second)
                first |= second
    unique = []
    for group in groups:
        if group not in unique:
            unique.append(group)
    return unique


def enough(needed, signed):
    """Whether some choice of different people fills every role."""
    roles = [{one.role for one in person} for person in people(signed)]
    return any(
        all(role in person for role, person in zip(needed, chosen, strict=True))
        for chosen in itertools.permutations(roles, len(needed))
    )


@given(NEEDED, SIGNED)
def test_it_takes_effect_exactly_when_different_people_fill_every_role(needed, signed):
    assert (lacking(needed, signed) == ()) == enough(needed, signed)


@given(NEEDED, SIGNED, st.randoms())
def test_the_order_of_signatures_changes_nothing(needed, signed, random):
    shuffled = list(signed)
    random.shuffle(shuffled)
    assert lacking(needed, shuffled) == lacking(needed, signed)


@given(NEEDED, st.lists(ROLES, min_size=1, max_size=6), st.booleans())
def test_one_person_never_counts_as_two(needed, roles, same_name):
    signed = [
        Signatory(
            "alice" if same_name else f"alice{number}",
            role,
            PublicKey(ED25519, bytes([number if same_name else 7]) * 32),
        )
        for number, role in enumerate(roles)
    ]
    assert len(lacking(needed, signed)) >= len(needed) - 1


@given(NEEDED, SIGNED, SIGNATORIES)
def test_one_more_signature_fills_at_most_one_role(needed, signed, more):
    before, after = lacking(needed, signed), lacking(needed, [*signed, more])
    assert len(after) >= len(before) - 1


KEYS = [Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(3)]
KNOWN = [Signatory(str(n), Role.LENDER, key.public_key) for n, key in enumerate(KEYS)]


@given(st.binary(max_size=40), st.lists(st.integers(0, 2), max_size=3), st.integers(0, 63))
def test_only_a_key_that_signed_these_bytes_has_signed_them(payload, signers, flipped):
    signatures = [sign_envelope(ASSET_EVENT_TYPE, payload, KEYS[n]).signatures[0] for n in signers]
    whole = Envelope(payload, ASSET_EVENT_TYPE, tuple(signatures))
    assert [one.who for one in signed_by(whole, KNOWN)] == [str(n) for n in signers]
    assert signed_by(Envelope(payload + b"x", ASSET_EVENT_TYPE, whole.signatures), KNOWN) == ()
    assert signed_by(Envelope(payload, "other", whole.signatures), KNOWN) == ()
    for one in signatures:
        sig = bytearray(one.sig)
        sig[flipped] ^= 1
        broken = Signature(bytes(sig), one.keyid)
        assert signed_by(Envelope(payload, ASSET_EVENT_TYPE, (broken,)), KNOWN) == ()
    for number, one in zip(signers, signatures, strict=True):
        claimed = Signature(one.sig, KEYS[(number + 1) % 3].public_key.fingerprint)
        assert signed_by(Envelope(payload, ASSET_EVENT_TYPE, (claimed,)), KNOWN) == ()
