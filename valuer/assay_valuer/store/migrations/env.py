"""What Alembic runs: the migrations, on the connection that store.migrate opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from assay_core.errors import AssayError
from assay_valuer.store.schema import METADATA


def _run() -> None:
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise AssayError("migrations are run by `assay-valuer init`")
    context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=False)
    context.run_migrations()


_run()
