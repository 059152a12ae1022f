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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from assay_core.errors import HostError, ServiceError

FILE: Final = "spool.db"
_LOCK: Final = "lock"
_RESERVE: Final = "spool.reserve"
_RESERVE_BYTES: Final = 2 * 1024 * 1024
"""Twice SQLite's log between two checkpoints: room in which a spool on a full disk makes room."""
_PAGES_TO_DELETE: Final = 16
_PAGES_MAX: Final = 4_294_967_294
"""SQLite's own bound."""

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
    cause INTEGER,                        -- of what was dropped, why
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
CREATE TABLE known (
    subject BLOB PRIMARY KEY,             -- a GPU; empty: the host
    boot_id BLOB NOT NULL,                -- in which it was last sealed
    data BLOB NOT NULL                    -- when it was last seen, its energy, its incidents
) STRICT, WITHOUT ROWID;
CREATE TABLE told (                       -- leaves that travel on change, as last sealed
    subject BLOB NOT NULL,
    body TEXT NOT NULL,
    boot_id BLOB NOT NULL,
    boottime_ms INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (subject, body)
) STRICT, WITHOUT ROWID;
"""
_VERSION: Final = 1


class SpoolFull(ServiceError):
    """Nothing could be written: the disk is full or does not take writes. Nothing was sealed."""


class DiskFull(SpoolFull):
    """The file system has no room."""


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
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        raise (DiskFull if full else SpoolFull)(
            f"the spool cannot be written ({error}); free space on its file system"
        ) from error
    except BaseException:  # whatever it is: half a transaction must never stay open
        _rollback(connection)
        raise


def reserve(path: Path, connection: sqlite3.Connection) -> None:
    """Sets space aside beside the spool for when its file system is full, if there is any now."""
    kept = path.with_name(_RESERVE)
    if kept.exists():
        return
    try:
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
        finally:
            os.close(descriptor)
        connection.execute(f"PRAGMA max_page_count = {_PAGES_MAX}")
    except OSError:
        with suppress(OSError):
            kept.unlink(missing_ok=True)


def release(path: Path, connection: sqlite3.Connection) -> None:
    """Gives that space to SQLite's log, and keeps it for that: until there is space to set aside
    again, the spool's file grows by a few pages at most, in which deleting finds room.
    """
    kept = path.with_name(_RESERVE)
    # Where the disk takes not even this, the next write says so.
    with suppress(OSError, sqlite3.OperationalError):
        if kept.is_file():
            kept.unlink()
            pages = connection.execute("PRAGMA page_count").fetchone()[0] + _PAGES_TO_DELETE
            connection.execute(f"PRAGMA max_page_count = {pages}")
        connection.execute("PRAGMA wal_checkpoint(RESTART)")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something, the running transaction included."""
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    return pages * _page_size(connection) - free_bytes(connection)


def free_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold nothing: what can be written without its growing."""
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
    return free * _page_size(connection)


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


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


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
