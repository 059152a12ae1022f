"""TPMs at enrolment: what a host's must show, what is kept of it, and whose chip it is for ever.

A binding says: this chip, which its maker endorsed (the EK), holds this attestation key (AK), which
certifies this sealing key. That EK and AK are in one chip is shown by opening a credential. What it
holds is a function of both keys and the hour, so nothing is stored between asking and enrolling.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, insert, select

from assay_core.evidence import ek, tpm
from assay_core.instants import HOUR_MS
from assay_core.seal import ECDSA_P256, PublicKey
from assay_valuer.denial import Denial, Denied
from assay_valuer.store.schema import SEALING_KEY, TPM

DETAIL_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Binding:
    """What a host sends of its TPM; see TpmBinding in enrollment.proto."""

    ek_certificates: tuple[bytes, ...]
    ak_public: bytes
    key_public: bytes
    certify_attest: bytes
    certify_signature: bytes


@dataclass(frozen=True, slots=True)
class Endorsed:
    """An endorsement key, and who says whose it is.

    `root_sha256` is None where its certificates lead to no root that is believed; `detail` says why.
    """

    key: rsa.RSAPublicKey
    ek_sha256: str
    root_sha256: str | None
    virtual: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A binding that holds: the sealing key lives in this TPM and cannot leave it."""

    endorsed: Endorsed
    attestation: tpm.Public
    binding: Binding


class Tpms:
    """Judges TPMs, by makers' roots and those that the policy names. Used from several threads."""

    def __init__(
        self, simulated: Collection[str] = (), roots: Mapping[str, ek.Root] = ek.TPM_ROOTS
    ) -> None:
        """`simulated` are SHA-256 of roots of simulated TPMs that the policy believes all the same;
        the root itself comes with the host's certificates.
        """
        self._simulated = frozenset(simulated)
        self._roots = roots
        self._secret = secrets.token_bytes(32)

    def activate(
        self, certificates: Sequence[bytes], ak_public: bytes, now_ms: int
    ) -> tpm.Credential:
        """A credential that only this TPM, holding this AK, opens. Raises Denied."""
        endorsed = self.endorse(certificates, now_ms)
        attestation = _attestation_key(ak_public)
        inside = self._inside(endorsed, attestation, now_ms // HOUR_MS)
        try:
            return tpm.make_credential(
                endorsed.key, attestation.name, inside, secrets.token_bytes(32)
            )
        except tpm.BadTpm as error:
            raise Denied(Denial.BAD_TPM, str(error)) from error

    def endorse(self, certificates: Sequence[bytes], now_ms: int) -> Endorsed:
        """Whose chip it is. Raises Denied where the certificates are none of an EK."""
        try:
            found = ek.verify(certificates, now_ms, roots=self._roots, simulated=self._simulated)
        except ek.UntrustedTpm as error:
            key = x509.load_der_x509_certificate(certificates[0]).public_key()
            if not isinstance(key, rsa.RSAPublicKey):
                raise Denied(Denial.BAD_TPM, "the EK is not an RSA key") from error
            return Endorsed(key, error.spki_sha256, None, error.virtual, str(error)[:DETAIL_MAX])
        except tpm.BadTpm as error:
            raise Denied(Denial.BAD_TPM, str(error)) from error
        kind = "simulated or virtual TPM" if found.virtual else "TPM"
        detail = (
            f"{kind} of {found.manufacturer}, {found.model} {found.version}, "
            f"endorsed under {found.root_name}"
        )
        return Endorsed(
            found.key, found.spki_sha256, found.root_sha256, found.virtual, detail[:DETAIL_MAX]
        )

    def check(self, binding: Binding, key: PublicKey, activation: bytes, now_ms: int) -> Bound:
        """That `key` lives in the TPM that opened the credential. Raises Denied."""
        endorsed = self.endorse(binding.ek_certificates, now_ms)
        attestation = _attestation_key(binding.ak_public)
        hour = now_ms // HOUR_MS
        expected = [self._inside(endorsed, attestation, then) for then in (hour, hour - 1)]
        if not any(hmac.compare_digest(activation, one) for one in expected):
            raise Denied(
                Denial.BAD_ACTIVATION,
                "this is not what the TPM's credential holds, or no longer; ask for one again",
            )
        try:
            certified = tpm.certificate(
                binding.certify_attest, binding.certify_signature, attestation
            )
            sealing = tpm.public(binding.key_public)
            sealing.expect(tpm.SIGNING_KEY, "the sealing key")
        except tpm.BadTpm as error:
            raise Denied(Denial.BAD_TPM, str(error)) from error
        if certified.name != sealing.name:
            raise Denied(Denial.BAD_TPM, "the attestation key certifies another key")
        if key.algorithm != ECDSA_P256 or _point(sealing) != key.data:
            raise Denied(Denial.BAD_TPM, "the sealing key is not the one that the TPM holds")
        return Bound(endorsed, attestation, binding)

    def _inside(self, endorsed: Endorsed, attestation: tpm.Public, hour: int) -> bytes:
        message = bytes.fromhex(endorsed.ek_sha256) + attestation.name + hour.to_bytes(8, "big")
        return hmac.digest(self._secret, message, "sha256")


def keep(connection: Connection, host_key: int, bound: Bound | None, now_ms: int) -> str | None:
    """Pins the TPM to its host; returns the EK that the host's newest TPM key had before.

    Raises Denied where the chip is another host's.
    """
    before = ek_of(connection, host_key)
    if bound is None:
        return before
    sha256, name = bound.endorsed.ek_sha256, bound.attestation.name.hex()
    for row in connection.execute(
        select(TPM).where((TPM.c.ek_sha256 == sha256) | (TPM.c.ak_name == name))
    ):
        if row.host_key != host_key:
            raise Denied(
                Denial.EK_ENROLLED,
                "this TPM is another host's, for ever; if this is that host, installed anew, enrol it "
                "with a token made for it, otherwise ask the lender where the board came from",
            )
        if row.ek_sha256 != sha256:
            raise Denied(Denial.BAD_TPM, "this attestation key was in another TPM before")
        if row.ak_name == name:
            return before
    connection.execute(
        insert(TPM).values(
            ak_name=name,
            host_key=host_key,
            ak_public=bound.binding.ak_public,
            ek_sha256=sha256,
            root_sha256=bound.endorsed.root_sha256,
            detail=bound.endorsed.detail,
            certificates=msgspec.json.encode(_texts(bound.binding)).decode(),
            enrolled_ms=now_ms,
        )
    )
    return before


def ek_of(connection: Connection, host_key: int) -> str | None:
    """The EK of the newest of a host's keys that a TPM holds; None where none was."""
    found = connection.execute(
        select(TPM.c.ek_sha256)
        .join(SEALING_KEY, SEALING_KEY.c.ak_name == TPM.c.ak_name)
        .where(SEALING_KEY.c.host_key == host_key)
        .order_by(SEALING_KEY.c.enrolled_ms.desc())
        .limit(1)
    ).scalar()
    return None if found is None else str(found)


_Json = None | bool | int | str | list["_Json"] | dict[str, "_Json"]


def tpm_facts(bound: Bound | None, before: str | None) -> Mapping[str, _Json]:
    """What the ledger's record of a key says of the TPM that holds it.

    `before` is the EK that the host had; `ek_changed` says that it has another one now.
    """
    found: dict[str, _Json] = {"tpm": None, "ek_before": before, "ek_changed": False}
    if bound is not None:
        endorsed, binding = bound.endorsed, bound.binding
        found["ek_changed"] = before is not None and before != endorsed.ek_sha256
        found["tpm"] = {
            "ek_sha256": endorsed.ek_sha256,
            "root_sha256": endorsed.root_sha256,
            "virtual": endorsed.virtual,
            "detail": endorsed.detail,
            "ak_name": bound.attestation.name.hex(),
            "ak_public": binding.ak_public.hex(),
            "certificates": [*_texts(binding)],
            "key_public": binding.key_public.hex(),
            "certify_attest": binding.certify_attest.hex(),
            "certify_signature": binding.certify_signature.hex(),
        }
    return found


def _texts(binding: Binding) -> list[str]:
    return [base64.b64encode(one).decode() for one in binding.ek_certificates]


def _attestation_key(blob: bytes) -> tpm.Public:
    try:
        found = tpm.public(blob)
        found.expect(tpm.ATTESTATION_KEY, "the attestation key")
    except tpm.BadTpm as error:
        raise Denied(Denial.BAD_TPM, str(error)) from error
    return found


def _point(key: tpm.Public) -> bytes:
    if not isinstance(key.key, ec.EllipticCurvePublicKey):
        return b""
    return key.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
