"""Markets and what values rest on: price rows, snapshots, fits, cases, marks, appraisals, overrides.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds; nothing that is there is changed."""
    _markets()
    _values()
    _what_people_signed()


def _markets() -> None:
    op.create_table(
        "market_feed",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("last_modified", sa.Text(), nullable=True),
        sa.Column("content_sha256", sa.String(length=64), nullable=True),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_ms", sa.BigInteger(), nullable=True),
        sa.Column("changed_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "market_row",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("market", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("feed", "sha256", name="market_row_once"),
    )
    op.create_index("market_row_by_reason", "market_row", ["reason"])
    op.create_table(
        "market_snapshot",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_row", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "market_parameters",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("snapshot_sha256", sa.String(length=64), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("market_parameters_by_time", "market_parameters", ["made_ms"])


def _values() -> None:
    op.create_index(
        "ledger_entry_by_kind",
        "ledger_entry",
        ["kind", "position"],
        sqlite_where=sa.text("host_key IS NULL"),
        postgresql_where=sa.text("host_key IS NULL"),
    )
    op.create_table(
        "valuation_case",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "mark",
        sa.Column("product", sa.String(length=256), nullable=False),
        sa.Column("quantity", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.Column("parameters_sha256", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("product", "quantity", "day"),
    )
    op.create_table(
        "mark_forecast",
        sa.Column("product", sa.String(length=256), nullable=False),
        sa.Column("quantity", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("horizon_days", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("q025_micros", sa.BigInteger(), nullable=False),
        sa.Column("q10_micros", sa.BigInteger(), nullable=False),
        sa.Column("q50_micros", sa.BigInteger(), nullable=False),
        sa.Column("q90_micros", sa.BigInteger(), nullable=False),
        sa.Column("q975_micros", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("product", "quantity", "day", "horizon_days"),
    )


def _what_people_signed() -> None:
    op.create_table(
        "appraisal",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("appraiser", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("imported_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "appraised",
        sa.Column("appraisal_sha256", sa.String(length=64), nullable=False),
        sa.Column("asset_id", _KEY, nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["appraisal_sha256"], ["appraisal.sha256"]),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"]),
        sa.PrimaryKeyConstraint("appraisal_sha256", "asset_id"),
    )
    op.create_index("appraised_by_asset", "appraised", ["asset_id"])
    op.create_table(
        "value_override",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("asset_id", _KEY, nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("signed_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["asset_id"], ["asset.id"]),
        sa.PrimaryKeyConstraint("position", "asset_id"),
    )


def downgrade() -> None:
    """A ledger is not taken apart."""
    raise NotImplementedError("restore the store from a backup instead")
