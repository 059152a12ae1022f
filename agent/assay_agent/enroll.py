"""Enrolment: a token becomes a host id and certificates; and their renewal."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from assay_agent import spool_file
from assay_agent.keys import Enrolling, Host, KeyStore, encode, new_tls_key, signing_request
from assay_agent.uplink import enrollment
from assay_agent.uplink.enrollment import Certificates
from assay_core.errors import FileError, HostError
from assay_core.header import SCHEMAS_ACCEPTED

TOKEN_PREFIX: Final = "assay-token-1."  # noqa: S105 - a format's name
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Token:
    """A lender's invitation. It carries the authority's certificate, and so pins it."""

    id: str
    secret: bytes = field(repr=False)
    endpoint: str
    authority_pem: bytes = field(repr=False)


class _TokenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    secret: str
    endpoint: str
    authority_pem: str


def parse_token(text: str) -> Token:
    """Reads a token as `assay-valuer token create` printed it. Raises FileError, never quoting it."""
    text = text.strip()
    if not text.startswith(TOKEN_PREFIX):
        raise FileError(
            f"this is no token: one begins with {TOKEN_PREFIX!r}; copy the whole line the lender "
            "gave you"
        )
    try:
        data = _base64url(text.removeprefix(TOKEN_PREFIX))
        token = msgspec.json.decode(data, type=_TokenFile)
        secret = _base64url(token.secret)
        x509.load_pem_x509_certificates(token.authority_pem.encode())
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        # Without its cause: that could quote the secret.
        raise FileError("the token is damaged; copy the whole line the lender gave you") from None
    name, _, port = token.endpoint.rpartition(":")
    if len(secret) != _SECRET_BYTES or not token.id or not name or not port.isdigit():
        raise FileError("the token is damaged; copy the whole line the lender gave you")
    return Token(token.id, secret, token.endpoint, token.authority_pem.encode())


async def enroll(keys: KeyStore, token: Token, proxy: str | None) -> Host:
    """Enrols this host, or completes an enrolment whose reply was lost.

    Keys are made here and kept before the call. Raises HostError where the valuer refuses or what
    it sends does not fit, ServiceError where it cannot be reached: then run the same again.
    """
    keys.prepare()
    with spool_file.locked(keys.state_dir):
        signer = keys.signer(create=True)
        pending = keys.enrolling()
        if pending is None or pending.token_id != token.id:
            key_pem = new_tls_key()
            statement = enrollment.enroll_statement(token.id, signing_request(key_pem), signer)
            pending = Enrolling(
                token_id=token.id, statement=encode(statement), tls_key_pem=key_pem.decode()
            )
            keys.begin_enrolling(pending)
        certificates = await enrollment.enroll(
            token.endpoint,
            token.authority_pem,
            proxy,
            statement=base64.b64decode(pending.statement),
            token_secret=token.secret,
            signer=signer,
        )
        return _complete(keys, token.endpoint, pending.tls_key_pem.encode(), certificates)


async def renew(keys: KeyStore, proxy: str | None) -> None:
    """Gets a new client certificate for a new key, by proof of the sealing key.

    Works after the old one expired too. Raises HostError or ServiceError.
    """
    host = keys.host()
    key_pem = new_tls_key()
    certificates = await enrollment.renew(
        host.enrollment_endpoint,
        keys.tls().authority_pem,
        proxy,
        host_id=host.host_id,
        incarnation=host.incarnation,
        tls_csr=signing_request(key_pem),
        signer=keys.signer(),
    )
    _check(certificates)
    if (certificates.host_id, certificates.incarnation) != (host.host_id, host.incarnation):
        raise HostError("the valuer sent another host's certificate; nothing was changed")
    keys.store_tls(key_pem, certificates.chain_pem, certificates.authority_pem)


def _complete(
    keys: KeyStore, enrollment_endpoint: str, key_pem: bytes, certificates: Certificates
) -> Host:
    """Keeps everything in an order that a crash at any point allows to be run again."""
    _check(certificates)
    host = Host(
        host_id=certificates.host_id,
        incarnation=certificates.incarnation,
        previous_head_hash=certificates.previous_head_hash.hex(),
        enrollment_endpoint=enrollment_endpoint,
        attestation_endpoint=certificates.attestation_endpoint,
        schema_max=certificates.schema_max,
    )
    spool = keys.state_dir / spool_file.FILE
    before = keys.host() if keys.enrolled else None
    same = before is not None and (before.host_id, before.incarnation) == (
        host.host_id,
        host.incarnation,
    )
    if same and not spool.exists():
        raise HostError(
            f"the valuer gave this host the same incarnation, {host.incarnation}, but its spool is "
            "gone: a chain begun anew would be a fork. Ask the lender for a new token"
        )
    keys.store_tls(key_pem, certificates.chain_pem, certificates.authority_pem)
    if not same:
        if spool.exists():
            _put_aside(spool, before)
        spool_file.create(
            spool,
            host_id=host.host_id,
            incarnation=host.incarnation,
            first_previous_hash=certificates.previous_head_hash,
        )
    keys.finish_enrolling(host)
    return host


def _put_aside(spool: Path, before: Host | None) -> None:
    """Keeps the old chain's spool: what it holds unsent can go nowhere, but it is evidence."""
    name = f"spool-{before.incarnation}.db" if before is not None else "spool-unfinished.db"
    aside = spool.with_name(name)
    spool_file.remove(aside)
    for suffix in ("-wal", "-shm", ""):
        path = spool.with_name(spool.name + suffix)
        if path.exists():
            path.rename(aside.with_name(aside.name + suffix))


def _check(certificates: Certificates) -> None:
    """Whether the certificates say what the reply says."""
    if certificates.schema_max < min(SCHEMAS_ACCEPTED):
        raise HostError("the valuer accepts no schema that this agent writes; install a newer one")
    try:
        leaf = x509.load_pem_x509_certificates(certificates.chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise HostError("the valuer sent a certificate that cannot be read") from error
    if uris != [certificates.host_id]:
        raise HostError(
            f"the valuer's certificate names {uris}, its reply {certificates.host_id!r}; "
            "nothing was changed"
        )


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
