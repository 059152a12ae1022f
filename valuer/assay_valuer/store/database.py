"""The store: where SQL meets a database. Nothing outside this module knows which one it is.

SQLite with a write-ahead log and synchronous=FULL: what `write` returned from is on the disk.
Reads see a consistent snapshot and never wait for a writer; writers take the lock at their
beginning, so that no transaction fails half-way for having read before it wrote.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from assay_core.errors import FileError, ServiceError

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a writer waits for another process's transaction."""

_WRITES: Final = "assay_writes"
_T = TypeVar("_T")


class StoreError(ServiceError):
    """The store could not be used. Nothing was written."""


class Database:
    """Runs jobs in transactions. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        self._engine: Final = _open(url)
        self._writer: Final = self._engine.execution_options(**{_WRITES: True})
        # Writers of this process queue here, in order, rather than in SQLite's sleeping retries.
        self._turn: Final = threading.Lock()

    def read(self, job: Callable[[Connection], _T]) -> _T:
        """What `job` returns from a consistent snapshot. Raises StoreError."""
        try:
            with self._engine.begin() as connection:
                return job(connection)
        except OperationalError as error:
            raise StoreError(f"the store cannot be read: {error.orig}") from error

    def write(self, job: Callable[[Connection], _T]) -> _T:
        """What `job` returns; all it wrote is durable, or none of it if it raised.

        Raises StoreError where the disk is full or another process held the lock too long.
        """
        try:
            with self._turn, self._writer.begin() as connection:
                return job(connection)
        except OperationalError as error:
            raise StoreError(
                f"the store cannot be written: {error.orig}; check its disk, and that nothing "
                "else holds a transaction open"
            ) from error

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def sqlite_url(path: str) -> str:
    """The URL of an SQLite file."""
    return f"sqlite:///{path}"


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise FileError("store.url: not a database URL such as sqlite:////path/file.db") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise FileError("store.url: this version keeps its store in a file of SQLite")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where _begin says, not by guesswork
    cursor = connection.cursor()
    for pragma in (
        # Of a new file: a window's 1 to 1.5 KiB leave a third of SQLite's usual 4 KiB pages empty.
        "page_size = 16384",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "wal_autocheckpoint = 1000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
