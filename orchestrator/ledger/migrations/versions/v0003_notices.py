"""Who is told when a job has ended: messages that wait to be delivered, and how far the events were read for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; whoever ended before this version is told to nobody."""
    op.create_table(
        "notices",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(200)),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_ms", sa.BigInteger()),
        sa.Column("delivered_ms", sa.BigInteger()),
        sa.Column("said", sa.Text(), nullable=False),
    )
    op.create_index("notices_by_job", "notices", ["job"])
    op.create_index("notices_by_next", "notices", ["next_ms"])
    op.create_table(
        "marks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("seq", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO marks (name, seq) SELECT 'notices', COALESCE(MAX(seq), 0) FROM events")
