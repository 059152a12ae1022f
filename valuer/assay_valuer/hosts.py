"""The registry of hosts: who is enrolled, with which keys, and where each chain is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, func, select, update

from assay_core.errors import AssayError
from assay_core.evidence import tpm
from assay_core.evidence.bundle import Keys, SealingKey
from assay_core.header import Head, Source
from assay_core.seal import PublicKey, Signer
from assay_core.verify import HostTrust
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.store.schema import CERTIFICATE, HOST, SEALING_KEY, TPM

_WHY_MAX: Final = 500
_KEYS_AT_ONCE: Final = 500  # databases bound the parameters of a statement


class HostUnknown(AssayError):
    """No host has this id."""

    def __init__(self, host_id: str) -> None:
        super().__init__(f"there is no host {host_id}; see `assay-valuer host list`")


@dataclass(frozen=True, slots=True)
class Host:
    """A host as ingest needs it: its key in the store, whom to trust, and its chain's head.

    `sealing` are the keys of `trust` with their TPMs. `keyed_ms` is when the oldest of them was
    enrolled, `newest_ms` when the newest was.
    """

    key: int
    trust: HostTrust
    head: Head | None
    sealing: tuple[SealingKey, ...]
    keyed_ms: int
    newest_ms: int

    @property
    def evidence_keys(self) -> Keys:
        """Who may sign evidence of this host."""
        return Keys(self.trust.host_id, self.trust.incarnation, self.sealing)

    @property
    def has_tpm(self) -> bool:
        """Whether its newest key lives in a TPM."""
        return bool(self.sealing) and self.sealing[-1].attestation is not None


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host as people list it. Instants are UTC ms; None: never, or not revoked.

    `tpm` says in words in which TPM its newest key lives; None for a software key.
    """

    host_id: str
    site: str
    incarnation: int
    enrolled_ms: int
    head_sequence: int | None
    received_ms: int | None
    source: str | None
    clock_behind: bool
    certificate_expires_ms: int | None
    revoked_ms: int | None
    revoked_why: str | None
    tpm: str | None


def find_host(connection: Connection, host_id: str) -> Host | None:
    """The host of this id, revoked or not; None where there is none."""
    row = connection.execute(select(HOST).where(HOST.c.host_id == host_id)).one_or_none()
    if row is None:
        return None
    keys = (
        connection.execute(
            _KEYS.where(
                SEALING_KEY.c.host_key == row.key,
                SEALING_KEY.c.incarnation == row.incarnation,
                SEALING_KEY.c.retired_sequence.is_(None),
            )
        )
        .mappings()
        .all()
    )
    sealing = tuple(_sealing_key(key) for key in keys)
    trust = HostTrust(
        host_id=row.host_id,
        incarnation=row.incarnation,
        keys=tuple(key.public for key in sealing),
        first_previous_hash=keys[0]["first_previous_hash"] if keys else b"",
        revoked=row.revoked_ms is not None,
    )
    head = None if row.head_sequence is None else Head(row.head_sequence, row.head_hash)
    ages = [key["enrolled_ms"] for key in keys] or [0]
    return Host(row.key, trust, head, sealing, ages[0], ages[-1])


def keys_of(connection: Connection, host_key: int, incarnation: int) -> Keys | None:
    """Every key that ever sealed for a host's incarnation; None where there is no such host."""
    host_id = connection.execute(select(HOST.c.host_id).where(HOST.c.key == host_key)).scalar()
    if host_id is None:
        return None
    rows = connection.execute(
        _KEYS.where(SEALING_KEY.c.host_key == host_key, SEALING_KEY.c.incarnation == incarnation)
    ).mappings()
    return Keys(host_id, incarnation, tuple(_sealing_key(row) for row in rows))


def certificate_known(connection: Connection, host: Host, serial: str) -> bool:
    """Whether a certificate was issued to this host, and for a key that may seal for it.

    One that a key renewed while another took its place ends with it, as those before it.
    """
    row = connection.execute(
        select(CERTIFICATE.c.issued_ms, CERTIFICATE.c.sealing_key).where(
            CERTIFICATE.c.serial == serial, CERTIFICATE.c.host_key == host.key
        )
    ).one_or_none()
    if row is None:
        return False
    if row.sealing_key is None:
        return int(row.issued_ms) >= host.keyed_ms
    return row.sealing_key in {key.fingerprint for key in host.trust.keys}


def standing_changes(connection: Connection, keys: Iterable[int]) -> dict[int, tuple[bool, int]]:
    """For each host key: whether it is revoked, and its incarnation."""
    wanted = list(keys)
    found: dict[int, tuple[bool, int]] = {}
    for start in range(0, len(wanted), _KEYS_AT_ONCE):
        rows = connection.execute(
            select(HOST.c.key, HOST.c.revoked_ms, HOST.c.incarnation).where(
                HOST.c.key.in_(wanted[start : start + _KEYS_AT_ONCE])
            )
        )
        found |= {row.key: (row.revoked_ms is not None, row.incarnation) for row in rows}
    return found


def revoke(connection: Connection, host_id: str, *, why: str, signer: Signer, now_ms: int) -> bool:
    """Revokes a host for good, with a signed record; whether it was not revoked before.

    Raises HostUnknown, AssayError.
    """
    if not 0 < len(why) <= _WHY_MAX:
        raise AssayError(f"say why, in at most {_WHY_MAX} characters: it stays in the ledger")
    row = connection.execute(
        select(HOST.c.key, HOST.c.revoked_ms).where(HOST.c.host_id == host_id)
    ).one_or_none()
    if row is None:
        raise HostUnknown(host_id)
    if row.revoked_ms is not None:
        return False
    connection.execute(
        update(HOST).where(HOST.c.key == row.key).values(revoked_ms=now_ms, revoked_why=why)
    )
    record = to_json({"host_id": host_id, "revoked_ms": now_ms, "why": why})
    append_record(connection, "revocation", record, signer, now_ms)
    return True


def list_hosts(connection: Connection) -> list[HostLine]:
    """Every host, by id."""
    newest = (
        select(CERTIFICATE.c.host_key, func.max(CERTIFICATE.c.expires_ms).label("certificate_ms"))
        .group_by(CERTIFICATE.c.host_key)
        .subquery()
    )
    tpms = {
        row.host_key: row.detail  # None for a software key; the newest key's stays
        for row in connection.execute(
            select(SEALING_KEY.c.host_key, TPM.c.detail)
            .outerjoin(TPM, TPM.c.ak_name == SEALING_KEY.c.ak_name)
            .order_by(SEALING_KEY.c.enrolled_ms)
        )
    }
    rows = connection.execute(
        select(HOST, newest.c.certificate_ms)
        .outerjoin(newest, newest.c.host_key == HOST.c.key)
        .order_by(HOST.c.host_id)
    )
    return [
        HostLine(
            host_id=row.host_id,
            site=row.site,
            incarnation=row.incarnation,
            enrolled_ms=row.enrolled_ms,
            head_sequence=row.head_sequence,
            received_ms=row.received_ms,
            source=None if row.source is None else Source(row.source).name.lower(),
            clock_behind=bool(row.clock_behind),
            certificate_expires_ms=row.certificate_ms,
            revoked_ms=row.revoked_ms,
            revoked_why=row.revoked_why,
            tpm=tpms.get(row.key),
        )
        for row in rows
    ]


def list_trust(connection: Connection) -> list[HostTrust]:
    """Which keys speak for which host and incarnation, over all that were ever enrolled."""
    rows = connection.execute(
        _KEYS.add_columns(HOST.c.host_id, HOST.c.revoked_ms).join(
            HOST, HOST.c.key == SEALING_KEY.c.host_key
        )
    ).mappings()
    trusts = [
        HostTrust(
            host_id=row["host_id"],
            incarnation=row["incarnation"],
            keys=(PublicKey(row["algorithm"], row["public_key"]),),
            first_previous_hash=row["first_previous_hash"],
            revoked=row["revoked_ms"] is not None,
            attestation={} if row["ak_public"] is None else {row["fingerprint"]: row["ak_public"]},
        )
        for row in rows
    ]
    return sorted(trusts, key=lambda trust: (trust.host_id, trust.incarnation))  # then by age


def _sealing_key(row: RowMapping) -> SealingKey:
    blob: bytes | None = row["ak_public"]
    return SealingKey(
        PublicKey(row["algorithm"], row["public_key"]), None if blob is None else tpm.public(blob)
    )


_KEYS: Final = (
    select(SEALING_KEY, TPM.c.ak_public)
    .outerjoin(TPM, TPM.c.ak_name == SEALING_KEY.c.ak_name)
    .order_by(SEALING_KEY.c.enrolled_ms)
)
