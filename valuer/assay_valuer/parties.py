"""Parties: who may sign asset events, in which capacity and for which sites, by a key of their own.

A party's key is nobody else's: not a host's sealing key, not the ledger's, and never another
party's, ended ones included. What they signed before they ended stands where it took effect.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from sqlalchemy import Connection, Row, func, insert, select, update

from assay_core.errors import AssayError, FileError
from assay_core.seal import ED25519, Ed25519Signer, PublicKey, Signer
from assay_core.signatories import Role, Signatory
from assay_valuer.ca import write_secret
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.store.schema import PARTY, SEALING_KEY
from assay_valuer.tokens import SITE

RECORD: Final = "party"
PARTIES_MAX: Final = 1_000
SITES_MAX: Final = 100
NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_WHY_MAX: Final = 500
_KEY_BYTES_MAX: Final = 16_384


class PartyError(AssayError):
    """A party cannot be added or ended as asked; says what to ask instead."""


@dataclass(frozen=True, slots=True)
class Party:
    """A party as the register has it. `sites`: those it speaks for; empty: all."""

    name: str
    role: Role
    key: PublicKey
    sites: tuple[str, ...]
    added_ms: int
    ended_ms: int | None

    @property
    def signatory(self) -> Signatory:
        """The party as one who signs."""
        return Signatory(self.name, self.role, self.key)

    def speaks_for(self, site: str | None) -> bool:
        """Whether what stands at a site, None where nobody knows which, is its to sign for."""
        return self.ended_ms is None and (not self.sites or site in self.sites)


def new_key(path: Path) -> PublicKey:
    """Makes a party's key in a new file, mode 0600, PKCS#8 PEM. Raises AssayError; never overwrites."""
    key = Ed25519PrivateKey.generate()
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Ed25519Signer(key).public_key


def read_key(path: Path) -> Ed25519Signer:
    """The private key of a party. Raises FileError, which never holds any of it."""
    try:
        if path.stat().st_mode & 0o077:
            raise FileError(f"{path}: others may read this key; chmod 600 it")
        with path.open("rb") as file:
            key = load_pem_private_key(file.read(_KEY_BYTES_MAX), password=None)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FileError(f"{path}: not an unencrypted private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FileError(f"{path}: a party's key is Ed25519; make one with `assay-valuer party key`")
    return Ed25519Signer(key)


def read_public_key(text: str) -> PublicKey:
    """A public key as it is given: 64 hex digits, or a PEM file's text. Raises FileError."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        return PublicKey(ED25519, bytes.fromhex(text.strip()))
    if "PRIVATE KEY" in text:
        raise FileError("this is a private key: keep it, and give its public key only")
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FileError("not a public key: 64 hex digits, or a file in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise FileError("a party's key is Ed25519")
    return PublicKey(ED25519, key.public_bytes_raw())


def add_party(connection: Connection, party: Party, signer: Signer, now_ms: int) -> None:
    """Registers a party from now on, with a signed record. Raises PartyError."""
    _check(connection, party, signer)
    connection.execute(
        insert(PARTY).values(
            name=party.name,
            role=party.role.value,
            algorithm=party.key.algorithm,
            public_key=party.key.data,
            fingerprint=party.key.fingerprint,
            sites=json.dumps(party.sites),
            added_ms=now_ms,
        )
    )
    record = to_json(
        {
            "party": party.name,
            "role": party.role.value,
            "algorithm": party.key.algorithm,
            "public_key": base64.b64encode(party.key.data).decode(),
            "fingerprint": party.key.fingerprint,
            "sites": list(party.sites),
            "added_ms": now_ms,
        }
    )
    append_record(connection, RECORD, record, signer, now_ms)


def end_party(connection: Connection, name: str, *, why: str, signer: Signer, now_ms: int) -> bool:
    """From now on the party's signatures count for nothing; whether they did before.

    Raises PartyError where there is none of this name.
    """
    if not 0 < len(why) <= _WHY_MAX:
        raise PartyError(f"say why, in at most {_WHY_MAX} characters: it stays in the ledger")
    row = connection.execute(select(PARTY).where(PARTY.c.name == name)).one_or_none()
    if row is None:
        raise PartyError(f"there is no party {name}; see `assay-valuer party list`")
    if row.ended_ms is not None:
        return False
    connection.execute(update(PARTY).where(PARTY.c.name == name).values(ended_ms=now_ms))
    record = to_json({"party": name, "ended_ms": now_ms, "why": why})
    append_record(connection, RECORD, record, signer, now_ms)
    return True


def list_parties(connection: Connection) -> list[Party]:
    """Every party, ended ones too, by name."""
    return [_party(row) for row in connection.execute(select(PARTY).order_by(PARTY.c.name))]


def party_with_key(connection: Connection, fingerprint: str) -> Party | None:
    """The party whose key this is, ended or not."""
    where = PARTY.c.fingerprint == fingerprint
    row = connection.execute(select(PARTY).where(where)).one_or_none()
    return None if row is None else _party(row)


def _check(connection: Connection, party: Party, signer: Signer) -> None:
    if NAME.fullmatch(party.name) is None:
        raise PartyError("a party's name: letters, digits, dots, dashes, at most 64")
    if party.sites and party.role is Role.LENDER:
        raise PartyError("a lender signs for what it lent on, at whatever site: name none")
    if party.sites and party.role is Role.APPRAISER:
        raise PartyError("an appraiser signs what GPUs are worth, at whatever site: name none")
    if len(set(party.sites)) != len(party.sites) or len(party.sites) > SITES_MAX:
        raise PartyError(f"sites: at most {SITES_MAX}, none twice")
    for site in party.sites:
        if SITE.fullmatch(site) is None:
            raise PartyError(f"site {site!r}: lower-case letters, digits and dashes, at most 64")
    if connection.execute(select(PARTY.c.name).where(PARTY.c.name == party.name)).scalar():
        raise PartyError(f"there is a party {party.name} already, or was: choose another name")
    print_ = party.key.fingerprint
    other = party_with_key(connection, print_)
    if other is not None:
        raise PartyError(f"this key is {other.name}'s: each party has a key of its own")
    sealing = select(SEALING_KEY.c.host_key).where(SEALING_KEY.c.fingerprint == print_)
    if connection.execute(sealing).scalar() is not None:
        raise PartyError("this is a host's sealing key: a party has a key of its own")
    if print_ == signer.public_key.fingerprint:
        raise PartyError("this is the ledger's key: a party has a key of its own")
    if (connection.execute(select(func.count()).select_from(PARTY)).scalar() or 0) >= PARTIES_MAX:
        raise PartyError(f"there are {PARTIES_MAX} parties already, ended ones counted")


def _party(row: Row[tuple[object, ...]]) -> Party:
    found = row._mapping
    return Party(
        name=found["name"],
        role=Role(found["role"]),
        key=PublicKey(found["algorithm"], found["public_key"]),
        sites=tuple(json.loads(found["sites"])),
        added_ms=found["added_ms"],
        ended_ms=found["ended_ms"],
    )
