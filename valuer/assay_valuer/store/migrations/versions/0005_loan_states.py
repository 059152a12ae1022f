"""What loans' routers say on the chain.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds; nothing that is there is changed."""
    op.create_table(
        "loan_state",
        sa.Column("loan_id", sa.String(length=64), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("view", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["loan_id"], ["loan.id"]),
        sa.PrimaryKeyConstraint("loan_id"),
    )


def downgrade() -> None:
    """A ledger is not taken apart."""
    raise NotImplementedError("restore the store from a backup instead")
