"""Trust: TPMs, device identities, parties and what they decide of assets.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds; nothing that is there is changed."""
    _add_columns()
    _create_tpm()
    _create_host_trust()
    _create_ocsp()
    _create_party()
    _create_asset_event()


def downgrade() -> None:
    """A ledger is not taken apart."""
    raise NotImplementedError("restore the store from a backup instead")


def _add_columns() -> None:
    with op.batch_alter_table("sealing_key") as table:
        table.add_column(sa.Column("ak_name", sa.String(length=68), nullable=True))
        table.add_column(sa.Column("retired_sequence", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("certificate") as table:
        table.add_column(sa.Column("sealing_key", sa.String(length=64), nullable=True))
    with op.batch_alter_table("asset") as table:
        table.add_column(sa.Column("identity", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("trust", sa.Text(), nullable=True))
        table.create_unique_constraint("asset_by_identity", ["identity"])
    with op.batch_alter_table("pledge") as table:
        table.add_column(sa.Column("site", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("host_id", sa.String(length=255), nullable=True))
        table.add_column(sa.Column("successor_of", sa.BigInteger(), nullable=True))


def _create_tpm() -> None:
    op.create_table(
        "tpm",
        sa.Column("ak_name", sa.String(length=68), nullable=False),
        sa.Column("host_key", _KEY, nullable=False),
        sa.Column("ak_public", sa.LargeBinary(), nullable=False),
        sa.Column("ek_sha256", sa.String(length=64), nullable=False),
        sa.Column("root_sha256", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("certificates", sa.Text(), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["host_key"], ["host.key"]),
        sa.PrimaryKeyConstraint("ak_name"),
    )
    op.create_index("tpm_by_ek", "tpm", ["ek_sha256"])
    op.create_index("tpm_by_host", "tpm", ["host_key"])


def _create_host_trust() -> None:
    op.create_table(
        "host_trust",
        sa.Column("host_key", _KEY, nullable=False),
        sa.Column("trust", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["host_key"], ["host.key"]),
        sa.PrimaryKeyConstraint("host_key"),
    )


def _create_ocsp() -> None:
    op.create_table(
        "ocsp",
        sa.Column("certificate_sha256", sa.String(length=64), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("this_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_update_ms", sa.BigInteger(), nullable=False),
        sa.Column("checked_ms", sa.BigInteger(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_sha256"),
    )
    op.create_index("ocsp_by_identity", "ocsp", ["identity"])


def _create_party() -> None:
    op.create_table(
        "party",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("algorithm", sa.String(length=16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("sites", sa.Text(), nullable=False),
        sa.Column("added_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("fingerprint"),
    )


def _create_asset_event() -> None:
    op.create_table(
        "asset_event",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("kind", sa.String(length=24), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("payload_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("proposed_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_ms", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("proposer", sa.String(length=255), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("payload_sha256"),
    )
    op.create_index("asset_event_open", "asset_event", ["state", "until_ms", "proposer"])
    op.create_index("asset_event_by_proposer", "asset_event", ["proposer", "proposed_ms"])
    op.create_index("asset_event_by_decision", "asset_event", ["decided_ms"])
