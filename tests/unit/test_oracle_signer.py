"""Keys: encrypted at rest, shown never, and every signature checked before it counts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from assay_core.errors import AssayError, FileError
from assay_valuer.oracle.signer import (
    CURVE_ORDER,
    LocalSigner,
    SignerError,
    compact,
    create_keystore,
    open_keystore,
    recover,
    sign_checked,
    sign_quorum,
)

DIGEST = keccak(b"a report")
KEYS = [LocalSigner(bytes([i]) * 32) for i in range(1, 6)]


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


def test_a_keystore_opens_with_its_passphrase_and_signs(tmp_path, passphrase):
    keystore = tmp_path / "signer.json"
    address = create_keystore(keystore, passphrase, iterations=2)
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    signer = open_keystore(keystore, passphrase)
    assert signer.address == address
    assert recover(DIGEST, signer.sign_digest(DIGEST)) == address
    assert json.loads(keystore.read_text())["version"] == 3


def test_a_key_is_never_overwritten(tmp_path, passphrase):
    keystore = tmp_path / "signer.json"
    create_keystore(keystore, passphrase, iterations=2)
    before = keystore.read_bytes()
    with pytest.raises(AssayError, match="exists already"):
        create_keystore(keystore, passphrase, iterations=2)
    assert keystore.read_bytes() == before


def test_what_goes_wrong_is_said_without_the_secret(tmp_path, passphrase):
    keystore = tmp_path / "signer.json"
    create_keystore(keystore, passphrase, iterations=2)
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2\n")
    wrong.chmod(0o600)
    with pytest.raises(FileError, match="does not open") as caught:
        open_keystore(keystore, wrong)
    assert "hunter2" not in repr(caught.value)
    keystore.write_text("{}")
    with pytest.raises(FileError, match="does not open"):
        open_keystore(keystore, passphrase)
    keystore.write_text("not json")
    with pytest.raises(FileError, match="not a keystore"):
        open_keystore(keystore, passphrase)
    with pytest.raises(AssayError, match="cannot read the keystore"):
        open_keystore(tmp_path / "absent", passphrase)


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n"])
def test_a_passphrase_is_one_line(tmp_path, passphrase, content):
    passphrase.write_text(content)
    with pytest.raises(FileError, match="one line"):
        create_keystore(tmp_path / "k", passphrase, iterations=2)


def test_a_passphrase_that_others_may_read_is_refused(tmp_path, passphrase):
    passphrase.chmod(0o644)
    with pytest.raises(FileError, match="chmod 600"):
        create_keystore(tmp_path / "k", passphrase, iterations=2)
    assert not (tmp_path / "k").exists()


def test_a_signer_never_shows_its_key():
    assert "01" * 32 not in repr(KEYS[0])
    assert "01" * 32 not in str(vars(KEYS[0]))


class SoftKms:
    """A key store that answers as cloud ones do: r and s in DER, s high half of the time."""

    def __init__(self, *, low_s: bool) -> None:
        self._key = ec.derive_private_key(0xA55A, ec.SECP256K1())
        self._low_s = low_s
        numbers = self._key.public_key().public_numbers()
        point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        self.address = to_checksum_address(keccak(point)[12:])

    def sign_digest(self, digest: bytes) -> bytes:
        while True:
            der = self._key.sign(digest, ec.ECDSA(Prehashed(SHA256())))
            r, s = decode_dss_signature(der)
            if (s > CURVE_ORDER // 2) is not self._low_s:
                break
        for v in (27, 28):
            data = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])
            if not self._low_s or recover(digest, data) == self.address:
                return data
        raise AssertionError("neither recovery bit is right")


def test_a_signature_from_another_key_store_counts_if_its_s_is_low():
    kms = SoftKms(low_s=True)
    assert sign_checked(kms, DIGEST).signer == kms.address
    with pytest.raises(SignerError, match="higher of two"):
        sign_checked(SoftKms(low_s=False), DIGEST)


class Impostor:
    """Says it is one key and signs with another."""

    address = KEYS[0].address

    def sign_digest(self, digest: bytes) -> bytes:
        return KEYS[1].sign_digest(digest)


class Silent:
    address = KEYS[4].address

    def sign_digest(self, digest: bytes) -> bytes:
        raise SignerError("no answer")


def test_a_quorum_passes_over_who_fails_and_is_sorted():
    signatures = sign_quorum([Silent(), Impostor(), *KEYS[1:4]], 3, DIGEST)
    assert {one.signer for one in signatures} == {key.address for key in KEYS[1:4]}
    numbers = [int(one.signer, 16) for one in signatures]
    assert numbers == sorted(numbers)


def test_a_quorum_that_is_short_says_who_failed():
    with pytest.raises(SignerError, match=r"1 of 3 signatures: no answer; .* by another key"):
        sign_quorum([Silent(), Impostor(), KEYS[2]], 3, DIGEST)
    with pytest.raises(SignerError, match="1 of 2 signatures: no more signers"):
        sign_quorum([KEYS[0], KEYS[0]], 2, DIGEST)


@pytest.mark.parametrize("data", [b"", bytes(64), bytes(65), bytes(64) + b"\x1b", bytes(66)])
def test_what_is_not_a_signature_recovers_nobody(data):
    with pytest.raises(SignerError):
        recover(DIGEST, data)


def test_compact_keeps_r_s_and_the_recovery_bit():
    for key in KEYS:
        data = key.sign_digest(DIGEST)
        short = compact(data)
        s = int.from_bytes(short[32:], "big")
        assert short[:32] == data[:32]
        assert (s & (2**255 - 1)).to_bytes(32, "big") == data[32:64]
        assert (s >> 255) + 27 == data[64]
