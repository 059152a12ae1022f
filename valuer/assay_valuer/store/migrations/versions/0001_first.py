"""The first schema.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """From an empty store."""
    _create_host()
    _create_ledger_entry()
    _create_loan()
    _create_outbox()
    _create_price_snapshot()
    _create_projection()
    _create_uptime()
    _create_asset()
    _create_certificate()
    _create_loan_position()
    _create_sealing_key()
    _create_token()
    _create_pledge()
    _create_token_use()
    _create_valuation()


def downgrade() -> None:
    """There is nothing before it; a ledger is not taken apart."""
    raise NotImplementedError("restore the store from a backup instead")


def _create_host() -> None:
    op.create_table(
        "host",
        sa.Column("key", _KEY, nullable=False),
        sa.Column("host_id", sa.String(length=255), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_why", sa.Text(), nullable=True),
        sa.Column("head_sequence", sa.BigInteger(), nullable=True),
        sa.Column("head_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("head_position", sa.BigInteger(), nullable=True),
        sa.Column("observed_ms", sa.BigInteger(), nullable=True),
        sa.Column("received_ms", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.Integer(), nullable=True),
        sa.Column("clock_behind", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("host_id"),
    )


def _create_ledger_entry() -> None:
    op.create_table(
        "ledger_entry",
        sa.Column("position", _KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("host_key", _KEY, nullable=True),
        sa.Column("incarnation", sa.BigInteger(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index(
        "ledger_entry_by_chain",
        "ledger_entry",
        ["host_key", "incarnation", "sequence"],
        unique=False,
        sqlite_where=sa.text("host_key IS NOT NULL"),
        postgresql_where=sa.text("host_key IS NOT NULL"),
    )


def _create_loan() -> None:
    op.create_table(
        "loan",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("feed_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("imported_ms", sa.BigInteger(), nullable=False),
        sa.Column("terms", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("feed_id"),
    )


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("chain_id", sa.BigInteger(), nullable=False),
        sa.Column("hub", sa.String(length=42), nullable=False),
        sa.Column("feed_id", sa.LargeBinary(length=32), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("sender", sa.String(length=42), nullable=True),
        sa.Column("nonce", sa.BigInteger(), nullable=True),
        sa.Column("raw_transactions", sa.Text(), nullable=False),
        sa.Column("block_hash", sa.String(length=66), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("chain_id", "hub", "feed_id", "round", name="outbox_by_round"),
    )


def _create_price_snapshot() -> None:
    op.create_table(
        "price_snapshot",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("imported_ms", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )


def _create_projection() -> None:
    op.create_table(
        "projection",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("next_position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _create_uptime() -> None:
    op.create_table(
        "uptime",
        sa.Column("begin_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("end_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("begin_ms"),
    )


def _create_asset() -> None:
    op.create_table(
        "asset",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("serial", sa.String(length=64), nullable=True),
        sa.Column("board_part_number", sa.String(length=64), nullable=True),
        sa.Column("pdi", sa.String(length=20), nullable=True),
        sa.Column("uuid", sa.LargeBinary(length=16), nullable=True),
        sa.Column("name", sa.String(length=128), nullable=True),
        sa.Column("host_key", _KEY, nullable=True),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=True),
        sa.Column("seen_ms", sa.BigInteger(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=True),
        sa.Column("condition", sa.Text(), nullable=True),
        sa.Column("health", sa.LargeBinary(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("missing_since_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["host_key"],
            ["host.key"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("serial", "board_part_number", name="asset_by_serial"),
    )
    op.create_index("asset_by_host", "asset", ["host_key"], unique=False)
    op.create_index("asset_by_uuid", "asset", ["uuid"], unique=False)


def _create_certificate() -> None:
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("host_key", _KEY, nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["host_key"],
            ["host.key"],
        ),
        sa.PrimaryKeyConstraint("serial"),
    )


def _create_loan_position() -> None:
    op.create_table(
        "loan_position",
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["loan_id"],
            ["loan.id"],
        ),
        sa.PrimaryKeyConstraint("loan_id"),
    )


def _create_sealing_key() -> None:
    op.create_table(
        "sealing_key",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("host_key", _KEY, nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("algorithm", sa.String(length=16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("first_previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["host_key"],
            ["host.key"],
        ),
        sa.PrimaryKeyConstraint("fingerprint"),
    )


def _create_token() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("hosts_max", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("host_key", _KEY, nullable=True),
        sa.ForeignKeyConstraint(
            ["host_key"],
            ["host.key"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )


def _create_pledge() -> None:
    op.create_table(
        "pledge",
        sa.Column("asset_id", _KEY, nullable=False),
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["asset_id"],
            ["asset.id"],
        ),
        sa.ForeignKeyConstraint(
            ["loan_id"],
            ["loan.id"],
        ),
        sa.PrimaryKeyConstraint("asset_id"),
    )


def _create_token_use() -> None:
    op.create_table(
        "token_use",
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fingerprint"],
            ["sealing_key.fingerprint"],
        ),
        sa.ForeignKeyConstraint(
            ["token_id"],
            ["token.id"],
        ),
        sa.PrimaryKeyConstraint("token_id", "fingerprint"),
    )


def _create_valuation() -> None:
    op.create_table(
        "valuation",
        sa.Column("asset_id", _KEY, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["asset_id"],
            ["asset.id"],
        ),
        sa.PrimaryKeyConstraint("asset_id"),
    )
