"""Nodes that are held back: since when, until when, why, and by whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; nothing that is there changes."""
    op.create_table(
        "node_holds",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("cause", sa.String(24), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
    )
