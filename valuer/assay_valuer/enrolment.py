"""Enrolment and renewal, once their messages are parsed: what they check and what they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from assay_core.instants import DAY_MS, format_instant
from assay_core.seal import ALGORITHMS, ENROLL_TYPE, RENEW_TYPE, PublicKey, Signer
from assay_valuer.ca import Authority, BadRequest, Issued
from assay_valuer.denial import Denial, Denied
from assay_valuer.hosts import find_host
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.parties import party_with_key
from assay_valuer.store.schema import CERTIFICATE, HOST, SEALING_KEY, TOKEN_USE
from assay_valuer.tokens import StoredToken, find_token
from assay_valuer.tpms import Binding, Bound, Tpms, keep, tpm_facts

RENEWABLE_MS: Final = 90 * DAY_MS
"""How long after a certificate expired its host may still renew it."""
AGENT_VERSION_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Proof:
    """A statement's exact bytes and the sealing key's signature over them."""

    raw: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class EnrollStatement:
    """What a host signs to enrol; see EnrollStatement in enrollment.proto."""

    token_id: str
    tls_csr: bytes
    sealing_key: PublicKey
    agent_version: str
    tpm: Binding | None = None


@dataclass(frozen=True, slots=True)
class Secrets:
    """What only this host can know: the token's secret, and what its TPM found in a credential."""

    token: bytes
    activation: bytes = b""


@dataclass(frozen=True, slots=True)
class RenewStatement:
    """What a host signs to renew; see RenewStatement in enrollment.proto."""

    host_id: str
    incarnation: int
    tls_csr: bytes


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a host is told: who it is, where its chain starts, and its certificate."""

    host_id: str
    incarnation: int
    first_previous_hash: bytes
    certificate: Issued


@dataclass(frozen=True, slots=True)
class Registrar:
    """What issuing needs and no message may choose."""

    authority: Authority
    ledger_key: Signer
    trust_domain: str
    certificate_life_ms: int
    tpms: Tpms = field(default_factory=Tpms)


def enroll(
    connection: Connection,
    registrar: Registrar,
    statement: EnrollStatement,
    secrets: Secrets,
    now_ms: int,
) -> Enrolled:
    """Enrols a host, or answers again one that did not hear the first answer. Raises Denied.

    The statement's signature was checked before; see check_proof.
    """
    token = find_token(connection, statement.token_id, secrets.token)
    if token is None:
        raise Denied(Denial.UNKNOWN_TOKEN, "no such token; ask the lender for one")
    key = statement.sealing_key
    known = connection.execute(
        select(SEALING_KEY, HOST.c.host_id, HOST.c.incarnation.label("now_at"), HOST.c.revoked_ms)
        .join(HOST, HOST.c.key == SEALING_KEY.c.host_key)
        .where(SEALING_KEY.c.fingerprint == key.fingerprint)
    ).one_or_none()
    if known is None:
        _check_usable(token, now_ms)
        bound = None
        if statement.tpm is not None:
            bound = registrar.tpms.check(statement.tpm, key, secrets.activation, now_ms)
        return _enroll_new(connection, registrar, statement, token, bound=bound, now_ms=now_ms)
    if known.revoked_ms is not None:
        raise Denied(Denial.REVOKED_HOST, "the host was revoked; ask the lender")
    if known.retired_sequence is not None:
        raise Denied(
            Denial.KEY_ENROLLED, "another key took this one's place; make a new one to enrol anew"
        )
    used = connection.execute(
        select(func.count())
        .select_from(TOKEN_USE)
        .where(TOKEN_USE.c.token_id == token.id, TOKEN_USE.c.fingerprint == key.fingerprint)
    ).scalar()
    if not used or known.incarnation != known.now_at:
        raise Denied(
            Denial.KEY_ENROLLED,
            f"this key is enrolled as {known.host_id} already; make a new one to enrol anew",
        )
    check_renewable(connection, known.host_key, now_ms)  # a used token is no way around it
    certificate = issue(
        connection,
        registrar,
        (known.host_key, known.host_id),
        key,
        statement.tls_csr,
        now_ms=now_ms,
    )
    return Enrolled(known.host_id, known.incarnation, known.first_previous_hash, certificate)


def renew(
    connection: Connection,
    registrar: Registrar,
    statement: RenewStatement,
    proof: Proof,
    now_ms: int,
) -> Enrolled:
    """A new certificate for proof of the enrolled sealing key. Raises Denied."""
    host = find_host(connection, statement.host_id)
    if host is None:
        raise Denied(Denial.UNKNOWN_HOST, "the host is not enrolled; enrol it with a token")
    signed = [
        key for key in host.trust.keys if key.verifies(proof.signature, RENEW_TYPE, proof.raw)
    ]
    if not signed:
        raise Denied(Denial.BAD_PROOF, "no key enrolled for this host signed the request")
    if host.trust.revoked:
        raise Denied(Denial.REVOKED_HOST, "the host was revoked; ask the lender")
    if statement.incarnation != host.trust.incarnation:
        raise Denied(
            Denial.WRONG_INCARNATION,
            f"this host is at incarnation {host.trust.incarnation}; enrol it with a token",
        )
    check_renewable(connection, host.key, now_ms)
    certificate = issue(
        connection,
        registrar,
        (host.key, host.trust.host_id),
        signed[0],
        statement.tls_csr,
        now_ms=now_ms,
    )
    return Enrolled(
        host.trust.host_id, host.trust.incarnation, host.trust.first_previous_hash, certificate
    )


def check_proof(key: PublicKey, proof: Proof) -> None:
    """That the sealing key itself signed the statement to enrol it. Raises Denied."""
    if not key.verifies(proof.signature, ENROLL_TYPE, proof.raw):
        raise Denied(
            Denial.BAD_PROOF,
            f"the sealing key, one of {' or '.join(ALGORITHMS)}, did not sign the statement",
        )


def check_renewable(connection: Connection, host_key: int, now_ms: int) -> None:
    """That the host's newest certificate did not expire too long ago. Raises Denied."""
    newest = connection.execute(
        select(func.max(CERTIFICATE.c.expires_ms)).where(CERTIFICATE.c.host_key == host_key)
    ).scalar()
    if newest is not None and now_ms > newest + RENEWABLE_MS:
        raise Denied(
            Denial.TOO_LATE,
            f"the certificate expired at {format_instant(newest)}, over 90 days ago; enrol the "
            "host with a token made for it",
        )


def _check_usable(token: StoredToken, now_ms: int) -> None:
    if now_ms >= token.expires_ms:
        raise Denied(
            Denial.EXPIRED_TOKEN,
            f"the token expired at {format_instant(token.expires_ms)}; ask for a new one",
        )
    if token.used >= token.hosts_max:
        raise Denied(
            Denial.SPENT_TOKEN,
            f"the token was for {token.hosts_max} and is used up; ask for a new one",
        )


def _enroll_new(
    connection: Connection,
    registrar: Registrar,
    statement: EnrollStatement,
    token: StoredToken,
    *,
    bound: Bound | None,
    now_ms: int,
) -> Enrolled:
    key = statement.sealing_key
    if token.host_key is None:
        host_id = f"spiffe://{registrar.trust_domain}/site/{token.site}/host/{key.fingerprint[:16]}"
        incarnation, previous = 0, b""
        result = connection.execute(
            insert(HOST).values(host_id=host_id, site=token.site, incarnation=0, enrolled_ms=now_ms)
        )
        (host_key,) = result.inserted_primary_key or (0,)
    else:
        host_key = token.host_key
        host_id, incarnation, previous = _next_incarnation(connection, host_key)
    kept = keep(connection, host_key, bound, now_ms)
    add_key(
        connection,
        key,
        host_key,
        incarnation,
        first_previous_hash=previous,
        bound=bound,
        now_ms=now_ms,
    )
    connection.execute(
        insert(TOKEN_USE).values(token_id=token.id, fingerprint=key.fingerprint, used_ms=now_ms)
    )
    record = to_json(
        {
            "host_id": host_id,
            "site": token.site,
            "incarnation": incarnation,
            "token": token.id,
            "algorithm": key.algorithm,
            "public_key": key.data.hex(),
            "first_previous_hash": previous.hex(),
            "agent_version": statement.agent_version,
            "enrolled_ms": now_ms,
            **tpm_facts(bound, kept),
        }
    )
    append_record(connection, "enrolment", record, registrar.ledger_key, now_ms)
    certificate = issue(
        connection, registrar, (host_key, host_id), key, statement.tls_csr, now_ms=now_ms
    )
    return Enrolled(host_id, incarnation, previous, certificate)


def _next_incarnation(connection: Connection, host_key: int) -> tuple[str, int, bytes]:
    """Starts a host's next chain; its id, incarnation and the old head's hash."""
    host = connection.execute(select(HOST).where(HOST.c.key == host_key)).one()
    if host.revoked_ms is not None:
        raise Denied(Denial.REVOKED_HOST, "the host was revoked; ask the lender")
    connection.execute(
        update(HOST)
        .where(HOST.c.key == host_key)
        .values(incarnation=host.incarnation + 1, head_sequence=None, head_hash=None)
    )
    return host.host_id, host.incarnation + 1, host.head_hash or b""


def add_key(
    connection: Connection,
    key: PublicKey,
    host_key: int,
    incarnation: int,
    *,
    first_previous_hash: bytes,
    bound: Bound | None,
    now_ms: int,
) -> None:
    """Registers a sealing key of a host. Raises Denied for one that is not a host's alone."""
    if party_with_key(connection, key.fingerprint) is not None:
        raise Denied(
            Denial.KEY_ENROLLED, "this key is a party's; a host has one of its own: make a new one"
        )
    connection.execute(
        insert(SEALING_KEY).values(
            fingerprint=key.fingerprint,
            host_key=host_key,
            incarnation=incarnation,
            algorithm=key.algorithm,
            public_key=key.data,
            first_previous_hash=first_previous_hash,
            enrolled_ms=now_ms,
            ak_name=None if bound is None else bound.attestation.name.hex(),
        )
    )


def issue(
    connection: Connection,
    registrar: Registrar,
    host: tuple[int, str],
    key: PublicKey,
    csr: bytes,
    *,
    now_ms: int,
) -> Issued:
    """A client certificate of the host (its key in the store, its id), good for as long as the
    sealing key that asked for it may seal. Raises Denied.
    """
    host_key, host_id = host
    try:
        issued = registrar.authority.issue_host(csr, host_id, now_ms, registrar.certificate_life_ms)
    except BadRequest as error:
        raise Denied(Denial.BAD_CSR, str(error)) from error
    connection.execute(
        insert(CERTIFICATE).values(
            serial=issued.serial,
            host_key=host_key,
            issued_ms=issued.issued_ms,
            expires_ms=issued.expires_ms,
            sealing_key=key.fingerprint,
        )
    )
    return issued
