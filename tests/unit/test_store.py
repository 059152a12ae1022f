"""The store: its migrations make the schema, and it refuses schemas that are not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text

from assay_core.errors import FileError
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import SchemaError, check_schema, migrate
from assay_valuer.store.schema import METADATA, UPTIME


@pytest.fixture
def database(tmp_path: Path):
    database = Database(sqlite_url(str(tmp_path / "valuer.db")))
    yield database
    database.close()


def test_migrations_make_the_schema_of_the_tables(database: Database) -> None:
    assert migrate(database)
    assert not migrate(database)
    check_schema(database)
    assert database.read(lambda c: compare_metadata(MigrationContext.configure(c), METADATA)) == []


def test_an_empty_store_is_refused_with_what_to_do(database: Database) -> None:
    with pytest.raises(SchemaError, match="assay-valuer init"):
        check_schema(database)


def test_a_newer_store_is_refused(database: Database) -> None:
    migrate(database)
    database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    for refused in (check_schema, migrate):
        with pytest.raises(SchemaError, match="newer"):
            refused(database)


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    migrate(database)

    def half(connection) -> None:
        connection.execute(insert(UPTIME).values(begin_ms=1, end_ms=2))
        raise KeyError

    with pytest.raises(KeyError):
        database.write(half)
    assert database.read(lambda c: c.execute(select(UPTIME)).all()) == []


def test_the_store_is_durable_and_reads_do_not_see_half_a_write(database: Database) -> None:
    migrate(database)
    pragma = database.read(
        lambda c: [
            c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")
        ]
    )
    assert pragma == ["wal", 2]

    def write(connection) -> int:
        connection.execute(insert(UPTIME).values(begin_ms=1, end_ms=2))
        return len(database.read(lambda c: c.execute(select(UPTIME)).all()))

    assert database.write(write) == 0
    assert len(database.read(lambda c: c.execute(select(UPTIME)).all())) == 1


@pytest.mark.parametrize("url", ["postgresql://x/y", "sqlite://", "not a url"])
def test_a_store_that_this_version_cannot_use_is_refused(url: str) -> None:
    with pytest.raises(FileError, match=r"store\.url"):
        Database(url)
