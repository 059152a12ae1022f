"""Covenants: the signed files, the states that loans came to by them, and each step's record.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds; nothing that is there is changed."""
    op.create_table(
        "covenant",
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("imported_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["loan_id"], ["loan.id"]),
        sa.PrimaryKeyConstraint("loan_id", "version"),
    )
    op.create_table(
        "covenant_state",
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["loan_id"], ["loan.id"]),
        sa.PrimaryKeyConstraint("loan_id"),
    )
    op.create_table(
        "covenant_step",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["loan_id"], ["loan.id"]),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("covenant_step_by_loan", "covenant_step", ["loan_id"])


def downgrade() -> None:
    """A ledger is not taken apart."""
    raise NotImplementedError("restore the store from a backup instead")
