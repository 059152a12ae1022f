"""The store's schema, by version: Alembic's migrations, run by `init` and looked at by `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from assay_core.errors import AssayError
from assay_valuer.store.database import Database

_SCRIPTS: Final = Path(__file__).parent / "migrations"


class SchemaError(AssayError):
    """The store's schema is not this version's. Nothing was read or written."""


def migrate(database: Database) -> bool:
    """Brings the store to this version's schema; whether there was anything to do.

    Raises SchemaError for a store that a newer version made.
    """
    current = database.read(revision)
    if current == newest():
        return False
    _check_known(current)

    def upgrade(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    database.write(upgrade)
    return True


def check_schema(database: Database) -> None:
    """Raises SchemaError, with what to do, unless the store has this version's schema."""
    current = database.read(revision)
    if current == newest():
        return
    _check_known(current)
    if current is None:
        raise SchemaError("the store is empty; run `assay-valuer init` first")
    raise SchemaError(
        f"the store has schema {current}, this version needs {newest()}: stop the valuer, back "
        "the store up, run `assay-valuer init` to migrate it"
    )


def revision(connection: Connection) -> str | None:
    """The schema the store has; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The schema this version works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise SchemaError("the migrations are missing from this installation; install it again")
    return head


def _check_known(current: str | None) -> None:
    scripts = ScriptDirectory.from_config(_config())
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"the store has schema {current}, which this version does not know: a newer one made "
            "it; install that version or a later one"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
