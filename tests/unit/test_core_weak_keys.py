"""Keys for which anybody can sign are keys of nobody."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from assay_core.seal import ED25519, WINDOW_TYPE, PublicKey, pae

FIELD = 2**255 - 19
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
EIGHTH = int.from_bytes(bytes.fromhex(ORDER_8), "little")
FORGED = (1).to_bytes(32, "little") + bytes(32)
"""R the neutral element, S zero: no secret went into it."""


def library_accepts(key: bytes, payload: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(FORGED, pae(WINDOW_TYPE, payload))
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [0, 1, FIELD - 1, FIELD, FIELD + 1, EIGHTH, FIELD - EIGHTH], ids=hex)
def test_no_signature_counts_for_a_key_that_anybody_can_sign_for(y, sign):
    key = (y | sign << 255).to_bytes(32, "little")
    for number in range(64):
        payload = number.to_bytes(1)
        assert not PublicKey(ED25519, key).verifies(FORGED, WINDOW_TYPE, payload)


def test_the_library_alone_would_take_them():
    neutral = (1).to_bytes(32, "little")
    assert library_accepts(neutral, b"anything")
    assert any(library_accepts(bytes.fromhex(ORDER_8), bytes([n])) for n in range(256))


def test_a_key_with_a_secret_verifies():
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = PublicKey(ED25519, key.public_key().public_bytes_raw())
    assert public.verifies(key.sign(pae(WINDOW_TYPE, b"x")), WINDOW_TYPE, b"x")
    assert not public.verifies(FORGED, WINDOW_TYPE, b"x")
