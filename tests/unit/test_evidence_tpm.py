"""A TPM's words, checked without a TSS: on bytes recorded from swtpm, and on every change of them."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from assay_core.evidence import tpm

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "tpm_swtpm.json").read_text())
NONCE = bytes.fromhex("0011223344")
PCRS = (0, 1, 2, 7)


def recorded(name: str) -> bytes:
    return bytes.fromhex(RECORDED[name])


AK = tpm.public(recorded("ak_public"))


def test_a_keys_name_is_the_one_its_tpm_gives():
    assert AK.name == recorded("ak_name")
    assert tpm.public(recorded("signing_public")).name == recorded("signing_name")


def test_what_a_key_may_do_is_in_its_public_area():
    AK.expect(tpm.ATTESTATION_KEY, "the AK")
    signing = tpm.public(recorded("signing_public"))
    signing.expect(tpm.SIGNING_KEY, "the signing key")
    for key, kind in (
        (signing, tpm.ATTESTATION_KEY),
        (AK, tpm.SIGNING_KEY),
        (tpm.public(recorded("ek_public")), tpm.ATTESTATION_KEY),
    ):
        with pytest.raises(tpm.BadTpm, match="attributes"):
            key.expect(kind, "this key")


def test_a_quote_says_nonce_pcrs_and_clock():
    found = tpm.quote(recorded("quote"), recorded("quote_signature"), AK)
    values = recorded("pcrs")
    assert found.extra == NONCE
    assert found.selection == frozenset(PCRS)
    assert found.digest == tpm.pcr_digest(
        {number: values[place * 32 : place * 32 + 32] for place, number in enumerate(PCRS)}
    )
    assert found.clock.safe
    assert found.name == b""


def test_a_certificate_names_the_key_that_lives_in_the_same_tpm():
    found = tpm.certificate(recorded("certificate"), recorded("certificate_signature"), AK)
    assert found.name == recorded("signing_name")
    assert found.selection == frozenset()


def test_a_quote_is_no_certificate_and_only_an_attestation_key_attests():
    with pytest.raises(tpm.BadTpm, match="not what was asked"):
        tpm.certificate(recorded("quote"), recorded("quote_signature"), AK)
    with pytest.raises(tpm.BadTpm, match="attributes"):
        tpm.quote(
            recorded("quote"), recorded("quote_signature"), tpm.public(recorded("signing_public"))
        )


class SoftTpm:
    """A key in software that says what a TPM would, or would not: part 2 §10 to §13, written anew."""

    def __init__(self, attributes: tpm.Attribute) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        point = self.key.public_key().public_numbers()
        # Type ECC, name by SHA-256, no policy, no cipher, ECDSA with SHA-256, P-256, no KDF.
        area = struct.pack(">HHIHHHHHH", 0x23, 0x0B, attributes, 0, 0x10, 0x18, 0x0B, 0x03, 0x10)
        for number in (point.x, point.y):
            area += sized(number.to_bytes(32, "big"))
        self.public = tpm.public(sized(area))

    def quote(self, selection: bytes, digest: bytes = bytes(32), magic: int = 0xFF544347):
        """TPMS_ATTEST and TPMT_SIGNATURE over PCRs: a count, then bank, length and bits of each."""
        head = struct.pack(">IH", magic, 0x8018) + sized(b"signer") + sized(NONCE)
        attest = head + bytes(25) + selection + sized(digest)
        r, s = decode_dss_signature(self.key.sign(attest, ec.ECDSA(hashes.SHA256())))
        signature = struct.pack(">HH", 0x18, 0x0B)
        return attest, signature + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def over(*numbers: int, bank: int = 0x0B) -> bytes:
    bits = sum(1 << number for number in numbers)
    return struct.pack(">HB", bank, 3) + bits.to_bytes(3, "little")


ONE = b"\0\0\0\1"


def test_a_key_with_other_attributes_attests_nothing():
    """Each of them matters: without it the key could be copied, or sign what its TPM never said."""
    needed = [one for one in tpm.Attribute if one in tpm.ATTESTATION_KEY]
    assert len(needed) == 5
    wrong = [tpm.ATTESTATION_KEY & ~one for one in needed]
    wrong.append(tpm.ATTESTATION_KEY | tpm.Attribute.DECRYPT)
    for attributes in wrong:
        soft = SoftTpm(attributes)
        with pytest.raises(tpm.BadTpm, match="its attributes are"):
            tpm.quote(*soft.quote(ONE + over(0)), soft.public)


def test_a_quote_says_which_pcrs_it_is_over_and_over_others_it_is_none():
    soft = SoftTpm(tpm.ATTESTATION_KEY)
    for numbers in ((), (0, 1, 2), (16,), (23,)):
        found = tpm.quote(*soft.quote(ONE + over(*numbers)), soft.public)
        assert found.selection == frozenset(numbers)
    for selection in (
        b"\0\0\0\0",
        ONE + over(0, bank=0x04),  # SHA-1
        ONE + over(0, bank=0x0C),  # SHA-384
        b"\0\0\0\2" + over(0) + over(1),
    ):
        with pytest.raises(tpm.BadTpm, match="SHA-256 bank alone"):
            tpm.quote(*soft.quote(selection), soft.public)


def test_what_a_tpm_never_said_is_no_quote():
    soft = SoftTpm(tpm.ATTESTATION_KEY)
    with pytest.raises(tpm.BadTpm, match="not what was asked"):
        tpm.quote(*soft.quote(ONE + over(0), magic=0), soft.public)
    attest, signature = soft.quote(ONE + over(0))
    with pytest.raises(tpm.BadTpm, match="not signed by this key"):
        tpm.quote(attest, signature, AK)
    with pytest.raises(tpm.BadTpm, match="more than there should be"):
        tpm.quote(attest, signature + b"\0", soft.public)


@pytest.mark.parametrize("bits", [1024, 2047, 5120, 16_384])
def test_rsa_keys_that_no_tpm_has_are_refused(bits):
    modulus = ((1 << bits - 1) + 1).to_bytes((bits + 7) // 8, "big")
    area = struct.pack(
        ">HHIHHHHI", 0x01, 0x0B, tpm.ATTESTATION_KEY, 0, 0x10, 0x10, bits, 0
    )  # no policy, no cipher, no scheme, exponent by default
    with pytest.raises(tpm.BadTpm, match="2048, 3072 or 4096"):
        tpm.public(sized(area + sized(modulus)))


@given(st.data())
def test_no_changed_quote_is_believed(data):
    parts = [recorded("quote"), recorded("quote_signature")]
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    cut = data.draw(st.integers(0, 4))
    changed = parts[which][:at] + data.draw(st.binary(max_size=4)) + parts[which][at + cut :]
    if changed == parts[which]:
        return
    parts[which] = changed
    with pytest.raises(tpm.BadTpm):
        tpm.quote(parts[0], parts[1], AK)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_key_or_are_refused(data):
    for blob in (data, len(data).to_bytes(2, "big") + data):
        try:
            tpm.public(blob)
        except tpm.BadTpm:
            continue


def activate(key: rsa.RSAPrivateKey, name: bytes, credential: tpm.Credential) -> bytes | None:
    """TPM2_ActivateCredential, written anew from part 1 §24; None where the TPM would refuse."""

    def kdfa(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
        text = (1).to_bytes(4, "big") + label + b"\0" + context + bits.to_bytes(4, "big")
        return hmac.new(seed, text, hashlib.sha256).digest()[: bits // 8]

    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    seed = key.decrypt(credential.secret[2:], oaep)
    body = credential.blob[2:]
    mac, identity = body[2:34], body[34:]
    if mac != hmac.new(kdfa(seed, b"INTEGRITY", b"", 256), identity + name, "sha256").digest():
        return None
    cipher = Cipher(algorithms.AES(kdfa(seed, b"STORAGE", name, 128)), CFB(bytes(16))).decryptor()
    opened = cipher.update(identity) + cipher.finalize()
    return opened[2 : 2 + int.from_bytes(opened[:2], "big")]


def test_a_credential_opens_for_one_key_in_one_tpm():
    ek = rsa.generate_private_key(65_537, 2048)
    secret, seed = bytes(range(32)), bytes(range(32, 64))
    credential = tpm.make_credential(ek.public_key(), AK.name, secret, seed)
    assert activate(ek, AK.name, credential) == secret
    assert activate(ek, recorded("signing_name"), credential) is None
    with pytest.raises(ValueError, match="ecryption"):
        activate(rsa.generate_private_key(65_537, 2048), AK.name, credential)


@pytest.mark.parametrize(
    ("secret", "seed"), [(b"", bytes(32)), (bytes(33), bytes(32)), (b"x", b"")]
)
def test_a_credential_needs_a_secret_and_a_whole_seed(secret, seed):
    key = tpm.public(recorded("ek_public")).key
    assert isinstance(key, rsa.RSAPublicKey)
    with pytest.raises(ValueError, match="seed of 32 bytes"):
        tpm.make_credential(key, AK.name, secret, seed)
