"""The state folder: what `init` makes once, and what every command opens."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from assay_core.errors import AssayError, FileError
from assay_core.seal import Ed25519Signer
from assay_valuer.ca import Authority, create_authority, load_authority, write_secret
from assay_valuer.config import Paths, ValuerConfig, paths
from assay_valuer.enrolment import Registrar
from assay_valuer.store.database import Database
from assay_valuer.store.migrate import check_schema, migrate
from assay_valuer.tpms import Tpms


@dataclass(frozen=True, slots=True)
class State:
    """An opened state folder: configuration, store and keys."""

    config: ValuerConfig
    paths: Paths
    database: Database
    ledger_key: Ed25519Signer
    authority: Authority

    @property
    def registrar(self) -> Registrar:
        """What issuing certificates needs."""
        return Registrar(
            self.authority,
            self.ledger_key,
            self.config.trust_domain,
            self.config.certificate_life_s * 1000,
            Tpms(self.config.policy.evidence.simulated_tpm_roots),
        )


def create(config: ValuerConfig, now_ms: int) -> list[str]:
    """Makes what is missing of a new state folder, or migrates an old store; says what it did.

    Nothing that exists is overwritten. Keys without a store are refused: a store was lost, and a
    new one would start every host's chain anew. Raises AssayError.
    """
    where = paths(config)
    done: list[str] = []
    _make_folder(where.state_dir, done)
    database = Database(where.store_url)
    try:
        fresh = _is_fresh(where, config)
        _make_keys(where, config, now_ms, done)
        if migrate(database):
            done.append("made the store" if fresh else "migrated the store to this version")
    finally:
        database.close()
    return done


def open_state(config: ValuerConfig) -> State:
    """Opens what `create` made. Raises AssayError, with what to do, where something is amiss."""
    where = paths(config)
    _check_folder(where.state_dir)
    database_file = _database_file(where)
    if database_file is not None and not database_file.exists():
        raise AssayError(f"{database_file}: there is no store; run `assay-valuer init` first")
    ledger_key = load_ledger_key(where.ledger_key)
    authority = load_authority(where.authority_certificate, where.authority_key)
    database = Database(where.store_url)
    check_schema(database)
    return State(config, where, database, ledger_key, authority)


def load_ledger_key(path: Path) -> Ed25519Signer:
    """The key that signs the valuer's own records. Raises FileError."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise FileError(f"{path}: others may read this key; chmod 600 it")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read: {error.strerror}; run `assay-valuer init`"
        ) from error
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: not an unencrypted private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FileError(f"{path}: the ledger's key must be Ed25519")
    return Ed25519Signer(key)


def _make_folder(folder: Path, done: list[str]) -> None:
    if not folder.exists():
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise AssayError(f"{folder}: cannot be made: {error.strerror}") from error
        done.append(f"made {folder}")
    elif not folder.is_dir():
        raise AssayError(f"{folder}: is not a folder; name another state_dir")
    else:
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    """That the folder, where there is one, is its owner's alone: the store's files go by it."""
    if folder.exists() and folder.stat().st_mode & 0o077:
        raise AssayError(f"{folder}: others may look into it; chmod 700 it")


def _is_fresh(where: Paths, config: ValuerConfig) -> bool:
    """Whether nothing was made yet; refuses half of a state."""
    own_keys = [where.ledger_key] if config.authority else [where.ledger_key, where.authority_key]
    keys = [key for key in own_keys if key.exists()]
    database_file = _database_file(where)
    if database_file is None or (database_file.exists() and database_file.stat().st_size > 0):
        return False
    if keys:
        raise AssayError(
            f"{keys[0]} is there and the store is not: restore the store from its backup, or "
            "name an empty state_dir"
        )
    return True


def _make_keys(where: Paths, config: ValuerConfig, now_ms: int, done: list[str]) -> None:
    if config.authority is None and not where.authority_key.exists():
        certificate, key = create_authority(f"{config.trust_domain} valuer", now_ms)
        write_secret(where.authority_key, key)
        write_secret(where.authority_certificate, certificate)
        done.append("made the certificate authority")
    load_authority(where.authority_certificate, where.authority_key)
    if not where.ledger_key.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        write_secret(where.ledger_key, pem)
        done.append("made the ledger's key")


def _database_file(where: Paths) -> Path | None:
    prefix = "sqlite:///"
    return Path(where.store_url[len(prefix) :]) if where.store_url.startswith(prefix) else None
