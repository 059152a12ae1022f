"""Enrolment: a token becomes a host id and certificates; and their renewal."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from assay_agent import sealing, spool_file, switch
from assay_agent.keys import (
    ENROLLING,
    Enrolling,
    Host,
    KeyStore,
    SealingKey,
    encode,
)
from assay_agent.pem import join_tls, new_tls_key, signing_request
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


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who this host is now, and who it was before."""

    host: Host
    replaced: Host | None
    """None where it was never enrolled, or where nothing changed."""
    aside: Path | None
    """Where the old keys and the old spool are; None where there were none."""
    changed: bool
    """Whether it was this call that enrolled it."""


async def enroll(keys: KeyStore, token: Token, proxy: str | None) -> Enrolment:
    """Enrols this host, or completes an enrolment whose reply was lost.

    The same token again gets the same keys and host; another one gets new keys and a new chain,
    which take the old ones' place once the certificates are here. Raises HostError where the agent
    runs, where the valuer refuses or what it sends does not fit; ServiceError where it cannot be
    reached: then run the same again.
    """
    keys.prepare()
    with spool_file.locked(keys.state_dir):
        switch.complete(keys)
        before = keys.host() if keys.enrolled else None
        if before is not None and before.token_id == token.id:
            return _unchanged(keys, before)
        pending = keys.enrolling()
        if pending is None or pending.token_id != token.id:
            pending = await _begin(keys, token)
        key = _key(pending)
        activation = await sealing.activate(keys, key, token.endpoint, token.authority_pem, proxy)
        certificates = await enrollment.enroll(
            token.endpoint,
            token.authority_pem,
            proxy,
            statement=base64.b64decode(pending.statement),
            token_secret=token.secret,
            signer=keys.signer_of(key, keys.state_dir / ENROLLING),
            activation=activation,
        )
        return _replace(keys, token, pending, before, certificates)


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


async def _begin(keys: KeyStore, token: Token) -> Enrolling:
    """New keys for a new token, kept before anything is sent: a key is of one incarnation."""
    key, tls = await sealing.make(keys), new_tls_key()
    signer = keys.signer_of(key, keys.state_dir / ENROLLING)
    binding = await sealing.bind(keys, key)
    statement = enrollment.enroll_statement(token.id, signing_request(tls), signer, binding)
    pending = Enrolling(
        token_id=token.id,
        statement=encode(statement),
        tls_key_pem=tls.decode(),
        sealing_key_pem=key.pem,
        tpm=key.tpm,
    )
    keys.begin_enrolling(pending)
    return pending


def _key(pending: Enrolling) -> SealingKey:
    return SealingKey(pem=pending.sealing_key_pem, tpm=pending.tpm)


def _unchanged(keys: KeyStore, host: Host) -> Enrolment:
    if not (keys.state_dir / spool_file.FILE).exists():
        raise HostError(
            f"this token was used for incarnation {host.incarnation}, whose spool is gone: a chain "
            "begun anew would be a fork. Ask the lender for a new token"
        )
    return Enrolment(host, None, None, changed=False)


def _replace(
    keys: KeyStore,
    token: Token,
    pending: Enrolling,
    before: Host | None,
    certificates: Certificates,
) -> Enrolment:
    """Switches to what the valuer gave, after checking all of it."""
    _check(certificates)
    host = Host(
        host_id=certificates.host_id,
        incarnation=certificates.incarnation,
        previous_head_hash=certificates.previous_head_hash.hex(),
        enrollment_endpoint=token.endpoint,
        attestation_endpoint=certificates.attestation_endpoint,
        schema_max=certificates.schema_max,
        token_id=token.id,
    )
    if (
        before is not None
        and before.host_id == host.host_id
        and host.incarnation <= before.incarnation
    ):
        raise HostError(
            f"the valuer gave a new key incarnation {host.incarnation}, and this host was at "
            f"{before.incarnation} already: a chain begun anew would be a fork. Nothing was changed; "
            "tell the lender"
        )
    key_pem = pending.tls_key_pem.encode()
    decided = switch.decide(
        keys,
        host,
        sealing_key=_key(pending),
        tls_pem=join_tls(key_pem, certificates.chain_pem, certificates.authority_pem),
        authority_pem=certificates.authority_pem,
    )
    switch.complete(keys)
    aside = keys.state_dir / decided.aside if decided.moved else None
    return Enrolment(host, before, aside, changed=True)


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
