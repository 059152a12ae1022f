"""Sealing with a key that cannot be copied."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from assay_agent.tpm.errors import TpmError
from assay_agent.tpm.machine import KeyBlobs, Tpm
from assay_core.evidence import tpm
from assay_core.seal import ECDSA_P256, PublicKey


class TpmSigner:
    """A signer whose key lives in the host's TPM: ECDSA on P-256 over SHA-256."""

    def __init__(self, machine: Tpm, key: KeyBlobs) -> None:
        self._machine = machine
        self._key = key
        self._public = PublicKey(ECDSA_P256, point(key))

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` makes."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """64 bytes, r || s. Raises TpmError or TpmBusy."""
        return self._machine.sign(self._key, hashlib.sha256(message).digest())


def point(key: KeyBlobs) -> bytes:
    """A P-256 key's uncompressed point, 65 bytes (SEC 1 §2.3.3). Raises TpmError."""
    try:
        public = tpm.public(key.public).key
    except tpm.BadTpm as error:
        raise TpmError(f"the TPM's key is damaged ({error}); enrol this host anew") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TpmError("the TPM's key is on no curve; enrol this host anew")
    return public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
