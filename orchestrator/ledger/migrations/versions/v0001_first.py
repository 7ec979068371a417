"""The first version: everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create every table, and the one row of the leader, with nobody in it."""
    _work()
    _history()
    _books()
    _memory()
    _people()
    leader = sa.table("leader", *(sa.column(name) for name in ("id", "holder", "token", "heartbeat_ms", "clock_ms")))
    op.bulk_insert(leader, [{"id": 1, "holder": "", "token": 0, "heartbeat_ms": 0, "clock_ms": 0}])


def _work() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("queue", sa.String(128), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("submitted_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("then", sa.String(16), nullable=True),
        sa.Column("pinned_workers", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("eta_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("work_left_s", sa.Float(), nullable=True),
        sa.Column("steps_done", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("preemptions", sa.Integer(), nullable=False),
        sa.Column("resizes", sa.Integer(), nullable=False),
        sa.Column("spent_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("spent_device_ms", sa.BigInteger(), nullable=False),
        sa.Column("reserved_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("reserved_device_ms", sa.BigInteger(), nullable=False),
        sa.Column("reserved_iterations", sa.BigInteger(), nullable=False),
        sa.Column("paid_in", sa.String(16), nullable=True),
        sa.Column("submitted_by", sa.String(64), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
    )
    op.create_index("jobs_by_name", "jobs", ["name", "run"], unique=True)
    op.create_index("jobs_by_state", "jobs", ["state"])
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "submitted_ms"])
    op.create_table(
        "documents",
        sa.Column("job", sa.String(160), primary_key=True),
        sa.Column("document", sa.Text(), nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(160), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True),
        sa.Column("cause", sa.String(24), nullable=False),
        sa.Column("world_size", sa.Integer(), nullable=False),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("ordered_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("running_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("stall_parts", sa.Text(), nullable=False),
        sa.Column("start_step", sa.BigInteger(), nullable=False),
        sa.Column("held_ms", sa.Text(), nullable=False),
        sa.Column("useful_ms", sa.BigInteger(), nullable=False),
        sa.Column("stalled_ms", sa.BigInteger(), nullable=False),
        sa.Column("lost_ms", sa.BigInteger(), nullable=False),
        sa.Column("draining_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("id", _SEQ, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(160), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("pool", sa.String(128), nullable=False),
        sa.Column("nodes", sa.Text(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=True),
        sa.Column("queue", sa.String(128), nullable=True),
        sa.Column("tenant", sa.String(128), nullable=True),
    )
    op.create_index("leases_by_holder", "leases", ["holder"])
    op.create_table(
        "outbox",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("id", sa.String(200), nullable=False, unique=True),
        sa.Column("job", sa.String(160), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sqlite_autoincrement=True,
    )


def _history() -> None:
    op.create_table(
        "events",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("job", sa.String(160), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("tenant", sa.String(128), nullable=True),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_job", "events", ["job", "seq"])
    op.create_table(
        "decisions",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_hash", sa.String(64), nullable=False),
        sa.Column("num_waiting", sa.Integer(), nullable=False),
        sa.Column("num_running", sa.Integer(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )


def _books() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("unit", sa.String(16), primary_key=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("seq", _SEQ, primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.String(160), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("entries_by_account", "entries", ["account", "unit"])
    op.create_index("entries_by_job", "entries", ["job"])
    op.create_table(
        "meters",
        sa.Column("pool", sa.String(128), primary_key=True),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("observed", sa.Integer(), nullable=False),
        sa.Column("leased", sa.Integer(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("micro_usd_per_device_hour", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "contributions",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("pool", sa.String(128), primary_key=True),
        sa.Column("since_ms", sa.BigInteger(), primary_key=True),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("recall_grace_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("sponsor", sa.String(128), primary_key=True),
        sa.Column("unit", sa.String(16), primary_key=True),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "recents",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("resource", sa.String(64), primary_key=True),
        sa.Column("devices", sa.Float(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
    )


def _memory() -> None:
    op.create_table(
        "claims",
        sa.Column("job", sa.String(160), primary_key=True),
        sa.Column("pool", sa.String(128), nullable=False),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "promises",
        sa.Column("job", sa.String(160), primary_key=True),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.Column("at_s", sa.Float(), nullable=False),
    )
    op.create_table(
        "tempos",
        sa.Column("job", sa.String(160), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
    )


def _people() -> None:
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(128), primary_key=True),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "clusters",
        sa.Column("generation", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("applied_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
    )
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger(), nullable=False),
        sa.Column("clock_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "queue_holds",
        sa.Column("queue", sa.String(128), primary_key=True),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
    )
