"""A host's next sealing key, in two phases: both may seal, until the new one has sealed a window.

So no window is lost: what was sealed with the old key and not yet taken is taken still, and what
comes after the first window of the new key is the new key's alone (see ledger.append).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select

from assay_core.seal import ROTATE_TYPE, PublicKey
from assay_valuer.denial import Denial, Denied
from assay_valuer.enrolment import Enrolled, Proof, Registrar, add_key, check_renewable, issue
from assay_valuer.hosts import Host, find_host
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.store.schema import SEALING_KEY
from assay_valuer.tpms import Binding, Bound, ek_of, keep, tpm_facts

KEYS_MAX: Final = 2
"""Keys of a host that may seal at once."""


@dataclass(frozen=True, slots=True)
class RotateStatement:
    """What a host signs to change its key; see RotateStatement in enrollment.proto."""

    host_id: str
    incarnation: int
    sealing_key: PublicKey
    tpm: Binding | None
    tls_csr: bytes


@dataclass(frozen=True, slots=True)
class Rotation:
    """The statement, the old key's signature over it, and the new one's."""

    statement: RotateStatement
    proof: Proof
    new_signature: bytes
    activation: bytes


def rotate(
    connection: Connection, registrar: Registrar, rotation: Rotation, now_ms: int
) -> Enrolled:
    """Takes a host's next key, or answers again whoever did not hear the first answer.

    Raises Denied.
    """
    statement = rotation.statement
    new = statement.sealing_key
    host = _signed_for(connection, rotation)
    check_renewable(connection, host.key, now_ms)
    at_ms = max(now_ms, host.newest_ms + 1)  # keys are told apart by age
    if new not in host.trust.keys:
        _take(connection, registrar, rotation, host, at_ms)
    certificate = issue(
        connection, registrar, (host.key, host.trust.host_id), new, statement.tls_csr, now_ms=at_ms
    )
    return Enrolled(
        host.trust.host_id, host.trust.incarnation, host.trust.first_previous_hash, certificate
    )


def _signed_for(connection: Connection, rotation: Rotation) -> Host:
    """The host whose keys, old and new, signed the statement."""
    statement, proof = rotation.statement, rotation.proof
    host = find_host(connection, statement.host_id)
    if host is None:
        raise Denied(Denial.UNKNOWN_HOST, "the host is not enrolled; enrol it with a token")
    new = statement.sealing_key
    old = [key for key in host.trust.keys if key != new]
    if not any(key.verifies(proof.signature, ROTATE_TYPE, proof.raw) for key in old):
        raise Denied(Denial.BAD_PROOF, "no key that may seal for this host signed the request")
    if not new.verifies(rotation.new_signature, ROTATE_TYPE, proof.raw):
        raise Denied(Denial.BAD_PROOF, "the new key did not sign the request")
    if host.trust.revoked:
        raise Denied(Denial.REVOKED_HOST, "the host was revoked; ask the lender")
    if statement.incarnation != host.trust.incarnation:
        raise Denied(
            Denial.WRONG_INCARNATION,
            f"this host is at incarnation {host.trust.incarnation}; enrol it with a token",
        )
    return host


def _take(
    connection: Connection, registrar: Registrar, rotation: Rotation, host: Host, now_ms: int
) -> None:
    statement = rotation.statement
    new = statement.sealing_key
    known = connection.execute(
        select(SEALING_KEY.c.fingerprint).where(SEALING_KEY.c.fingerprint == new.fingerprint)
    ).scalar()
    if known is not None:
        raise Denied(Denial.KEY_ENROLLED, "this key was enrolled before; make a new one")
    if len(host.trust.keys) >= KEYS_MAX:
        raise Denied(
            Denial.ROTATION_OPEN,
            "no window of the key before this one has come yet: rotate again once one has; a host "
            "that cannot seal with it is enrolled anew",
        )
    bound = _bound(connection, registrar, rotation, host, now_ms)
    before = keep(connection, host.key, bound, now_ms)
    add_key(
        connection,
        new,
        host.key,
        statement.incarnation,
        first_previous_hash=host.trust.first_previous_hash,
        bound=bound,
        now_ms=now_ms,
    )
    record = to_json(
        {
            "host_id": statement.host_id,
            "incarnation": statement.incarnation,
            "algorithm": new.algorithm,
            "public_key": new.data.hex(),
            "after": host.trust.keys[-1].fingerprint,
            "enrolled_ms": now_ms,
            **tpm_facts(bound, before),
        }
    )
    append_record(connection, "rotation", record, registrar.ledger_key, now_ms)


def _bound(
    connection: Connection, registrar: Registrar, rotation: Rotation, host: Host, now_ms: int
) -> Bound | None:
    """The new key's TPM: where the host's key is in one, the new one is in the same."""
    statement = rotation.statement
    binding = statement.tpm
    in_tpm = any(key.attestation is not None for key in host.sealing)
    if binding is None:
        if in_tpm:
            raise Denied(Denial.TPM_NEEDED, "this host's keys live in its TPM; make the key there")
        return None
    bound = registrar.tpms.check(binding, statement.sealing_key, rotation.activation, now_ms)
    if in_tpm and ek_of(connection, host.key) != bound.endorsed.ek_sha256:
        raise Denied(
            Denial.OTHER_EK, "this is not the TPM that the host enrolled with; enrol it anew"
        )
    return bound
