"""Keys that sign 32 bytes: reports under a quorum, and the transactions that carry them.

The two kinds of key are apart: one that signs reports holds no gas, one that sends transactions
has no say over values. Behind `DigestSigner` a key may be an encrypted file, as here, or a KMS.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_keys.datatypes import Signature as RecoverableSignature
from eth_keys.exceptions import BadSignature
from eth_typing import Hash32
from eth_utils.exceptions import ValidationError

from assay_core.errors import AssayError, FileError, ServiceError

CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_KEYSTORE_BYTES_MAX: Final = 64 * 1024


class SignerError(ServiceError):
    """A signature could not be had, or is not what it claims to be. Nothing was published."""


class DigestSigner(Protocol):
    """A secp256k1 key, wherever it is kept."""

    @property
    def address(self) -> str:
        """Checksummed address of the key."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes: r, s (the lower of the two), v (27 or 28). Raises SignerError."""
        ...


class LocalSigner:
    """A key in this process's memory. It shows its address and never itself."""

    def __init__(self, key: bytes) -> None:
        self._account: LocalAccount = Account.from_key(key)

    @property
    def address(self) -> str:
        """Checksummed address of the key."""
        return str(self._account.address)

    def sign_digest(self, digest: bytes) -> bytes:
        """Deterministic (RFC 6979), low s."""
        return bytes(self._account.unsafe_sign_hash(Hash32(digest)).signature)

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"


def open_keystore(keystore: Path, passphrase: Path) -> LocalSigner:
    """A key from an encrypted keystore (Ethereum's JSON, version 3).

    `passphrase` is a file of one line: a systemd credential or a file of mode 0600. Never an
    argument or a variable, which other processes can read. Raises FileError, AssayError.
    """
    secret = read_secret(passphrase)
    try:
        if keystore.stat().st_size > _KEYSTORE_BYTES_MAX:
            raise FileError(f"{keystore}: too large for a keystore")
        content = json.loads(keystore.read_text())
    except OSError as error:
        raise AssayError(f"{keystore}: cannot read the keystore: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"{keystore}: not a keystore: {error}") from error
    try:
        return LocalSigner(bytes(Account.decrypt(content, secret)))
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        # The library's text is left out: it is about a secret.
        kind = type(error).__name__
        raise FileError(
            f"{keystore}: does not open with the passphrase in {passphrase} ({kind})"
        ) from None


def create_keystore(keystore: Path, passphrase: Path, *, iterations: int | None = None) -> str:
    """Makes a new key, writes it encrypted with mode 0600, and returns its address.

    Refuses to overwrite: the key there may hold a signer's seat. `iterations` is scrypt's work
    factor n; leave it out but in tests. Raises AssayError, FileError.
    """
    account: LocalAccount = Account.create()
    content = json.dumps(account.encrypt(read_secret(passphrase), iterations=iterations))
    try:
        descriptor = os.open(keystore, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise AssayError(f"{keystore}: exists already; move it away first") from None
    except OSError as error:
        raise AssayError(f"{keystore}: cannot write the keystore: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())
    return str(account.address)


def read_secret(path: Path) -> str:
    """A passphrase from a file of one line that not everybody may read."""
    try:
        if path.stat().st_mode & stat.S_IRWXO:
            raise FileError(f"{path}: others may read this passphrase; chmod 600 it")
        secret = path.read_text().removesuffix("\n")
    except OSError as error:
        raise AssayError(f"{path}: cannot read the passphrase: {error.strerror}") from error
    if not secret or "\n" in secret:
        raise FileError(f"{path}: one line is expected, the passphrase")
    return secret


@dataclass(frozen=True, slots=True)
class Signature:
    """One signer's signature of a digest; 65 bytes as `DigestSigner.sign_digest` gives them."""

    signer: str
    data: bytes


def sign_checked(signer: DigestSigner, digest: bytes) -> Signature:
    """Signs, and trusts the answer only after recovering the signer's own address from it."""
    data = signer.sign_digest(digest)
    if recover(digest, data) != signer.address:
        raise SignerError(f"{signer.address}: the signature is by another key; check the key store")
    return Signature(signer.address, data)


def sign_quorum(
    signers: Sequence[DigestSigner], threshold: int, digest: bytes
) -> tuple[Signature, ...]:
    """`threshold` signatures in ascending order of address, which is how the hub wants them.

    A signer that fails is passed over while enough others sign. Raises SignerError.
    """
    signatures: dict[str, Signature] = {}
    failures: list[str] = []
    for signer in signers:
        if len(signatures) == threshold:
            break
        try:
            signatures[signer.address] = sign_checked(signer, digest)
        except SignerError as error:
            failures.append(str(error))
    if len(signatures) < threshold:
        reasons = "; ".join(failures) or "no more signers are configured"
        raise SignerError(f"{len(signatures)} of {threshold} signatures: {reasons}")
    return tuple(sorted(signatures.values(), key=lambda one: int(one.signer, 16)))


def recover(digest: bytes, data: bytes) -> str:
    """The address that made a 65-byte signature. Raises SignerError, also for a high s."""
    if len(data) != 65 or data[64] not in {27, 28}:
        raise SignerError("a signature is r, s and v: 65 bytes, v 27 or 28")
    if int.from_bytes(data[32:64], "big") > CURVE_ORDER // 2:
        raise SignerError("the signature's s is the higher of two; the hub refuses it")
    try:
        signature = RecoverableSignature(data[:64] + bytes([data[64] - 27]))
        return signature.recover_public_key_from_msg_hash(digest).to_checksum_address()
    except (BadSignature, ValidationError) as error:
        raise SignerError(f"not a signature: {error}") from error


def compact(data: bytes) -> bytes:
    """65 bytes to the 64 of EIP-2098: the recovery bit becomes the top bit of s."""
    s = int.from_bytes(data[32:64], "big") | (data[64] - 27) << 255
    return data[:32] + s.to_bytes(32, "big")
