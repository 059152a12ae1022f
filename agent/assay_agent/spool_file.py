"""The spool's file: SQLite with every commit on disk before it counts, one process at a time.

SQLite is what keeps a commit across kill -9, a torn tail and a full disk. What it cannot repair is
moved aside and never quietly replaced: a spool that starts anew under the same incarnation would
seal a second history, and the valuer would call that a fork.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from assay_core.errors import HostError, ServiceError

FILE: Final = "spool.db"
_LOCK: Final = "lock"

_SCHEMA: Final = """
CREATE TABLE chain (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    host_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    first_previous_hash BLOB NOT NULL,
    next_sequence INTEGER NOT NULL,
    head_hash BLOB NOT NULL,
    paused_until_ms INTEGER
) STRICT;
CREATE TABLE record (
    sequence INTEGER PRIMARY KEY,         -- of a gap, its last
    first_sequence INTEGER NOT NULL,      -- of a window, the same
    kind TEXT NOT NULL CHECK (kind IN ('window', 'gap', 'dropped')),
    hash BLOB NOT NULL,                   -- of the window's header; of a gap, its last's
    previous_hash BLOB NOT NULL,
    begin_utc_ms INTEGER NOT NULL,
    end_utc_ms INTEGER NOT NULL,
    acknowledged_ms INTEGER,
    position INTEGER                      -- in the valuer's ledger
) STRICT;
-- Apart from the records: what is dropped then frees whole pages, and its record stays.
CREATE TABLE body (
    sequence INTEGER PRIMARY KEY,
    data BLOB NOT NULL                    -- exact bytes of the window or gap record
) STRICT;
CREATE INDEX record_acknowledged ON record (acknowledged_ms, sequence);
CREATE TABLE gpu (
    subject BLOB PRIMARY KEY,
    last_seen_ms INTEGER NOT NULL,
    identity BLOB,                        -- as last sealed, JSON
    boot_id BLOB                          -- in which boot
) STRICT, WITHOUT ROWID;
"""
_VERSION: Final = 1


class SpoolFull(ServiceError):
    """Nothing could be written: the disk is full or does not take writes. Nothing was sealed."""


class SpoolDamaged(HostError):
    """The spool's file cannot be read. It was moved aside; the host must enrol anew."""


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this process. Raises HostError where another one does."""
    descriptor = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError(
                f"another assay-agent works in {state_dir}; stop it first, or give this one a "
                "state_dir of its own"
            ) from error
        yield
    finally:
        os.close(descriptor)


def create(path: Path, *, host_id: str, incarnation: int, first_previous_hash: bytes) -> None:
    """Makes an empty spool at `path`; appears whole or not at all. An older one is replaced."""
    fresh = path.with_name(path.name + ".new")
    remove(fresh)
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        os.chmod(fresh, 0o600)  # noqa: PTH101 - beside the sqlite call, before anything is in it
        connection.executescript(_SCHEMA)
        connection.execute(
            "INSERT INTO chain VALUES (0, ?, ?, ?, 0, ?, NULL)",
            (host_id, incarnation, first_previous_hash, first_previous_hash),
        )
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    finally:
        connection.close()
    remove(path)
    fresh.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: Path, now_ms: int) -> sqlite3.Connection:
    """Opens the spool and checks all of it.

    Raises SpoolDamaged, having moved the file aside, where it does not hold; HostError where there
    is none, or one of a newer version.
    """
    if not path.exists():
        raise HostError(
            f"there is no spool at {path}: enrol this host with a new token "
            "(assay-agent enroll --token-file FILE)"
        )
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        _configure(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        problems = connection.execute("PRAGMA quick_check(1)").fetchall()
        chains = connection.execute("SELECT count(*) FROM chain").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        if not damaged(error):
            raise SpoolFull(f"{path} cannot be opened: {error}; try again") from error
        raise _aside(path, str(error), now_ms) from error
    if version > _VERSION:
        connection.close()
        raise HostError(f"{path} was written by a newer assay-agent; install that version")
    if problems != [("ok",)] or chains != 1:
        connection.close()
        raise _aside(path, str(problems[0][0]), now_ms)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction: durable when the block is left, or nothing of it happened.

    Raises SpoolFull where the disk does not take it, SpoolDamaged where the file does not hold.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        _rollback(connection)
        if damaged(error):
            raise SpoolDamaged(
                f"the spool is damaged ({error}); restart the agent to move it aside, then enrol "
                "this host with a new token"
            ) from error
        if not isinstance(error, sqlite3.OperationalError):
            raise  # a mistake of ours, not the disk's
        raise SpoolFull(
            f"the spool cannot be written ({error}); free space on its file system"
        ) from error
    except BaseException:  # whatever it is: half a transaction must never stay open
        _rollback(connection)
        raise


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something, the running transaction included."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether an error says that the file itself does not hold."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (
        code == sqlite3.SQLITE_ERROR and "no such table" in str(error)
    )


def remove(path: Path) -> None:
    """Removes a spool file and what SQLite keeps beside it."""
    for name in (path.name, path.name + "-wal", path.name + "-shm", path.name + "-journal"):
        path.with_name(name).unlink(missing_ok=True)


def _configure(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # fsync at every commit
        "cache_size = -256",  # KiB
        "wal_autocheckpoint = 256",
        "journal_size_limit = 4194304",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _aside(path: Path, problem: str, now_ms: int) -> SpoolDamaged:
    moved = path.with_name(f"{path.name}.damaged-{now_ms}")
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(moved.with_name(moved.name + suffix))
    path.rename(moved)
    return SpoolDamaged(
        f"the spool is damaged ({problem}) and was moved to {moved}. Windows not yet sent are in "
        "it. Enrol this host with a new token (assay-agent enroll --token-file FILE): its chain "
        "then starts anew and names the old one"
    )
