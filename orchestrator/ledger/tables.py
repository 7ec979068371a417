"""The tables. Times are UTC milliseconds, money micro-dollars, device-time milliseconds: integers all.

Migrations hold their own copy of what they create; `tests/ledger/test_migrations.py` compares the two.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

# SQLite numbers rows by itself only in a column of type INTEGER.
_SEQ = BigInteger().with_variant(Integer, "sqlite")
_MS = BigInteger

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("run", Integer, nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("queue", String(128), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("submitted_ms", _MS, nullable=False),
    Column("changed_ms", _MS, nullable=False),
    Column("ended_ms", _MS),
    Column("attempt", Integer, nullable=False),
    Column("then", String(16)),
    Column("pinned_workers", Integer),
    Column("reason", String(32)),
    Column("detail", Text, nullable=False),
    Column("eta_ms", _MS),
    Column("started_ms", _MS),
    Column("work_left_s", Float),
    Column("steps_done", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("preemptions", Integer, nullable=False),
    Column("resizes", Integer, nullable=False),
    Column("spent_micro_usd", BigInteger, nullable=False),
    Column("spent_device_ms", BigInteger, nullable=False),
    Column("reserved_micro_usd", BigInteger, nullable=False),
    Column("reserved_device_ms", BigInteger, nullable=False),
    Column("reserved_iterations", BigInteger, nullable=False),
    Column("paid_in", String(16)),
    Column("submitted_by", String(64), nullable=False),
    Column("shape", Text, nullable=False),
    Index("jobs_by_name", "name", "run", unique=True),
    Index("jobs_by_state", "state"),
    Index("jobs_by_tenant", "tenant", "submitted_ms"),
)

documents = Table(
    "documents",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("document", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("cause", String(24), nullable=False),
    Column("world_size", Integer, nullable=False),
    Column("placement", Text, nullable=False),
    Column("ordered_ms", _MS, nullable=False),
    Column("sent_ms", _MS),
    Column("running_ms", _MS),
    Column("ended_ms", _MS),
    Column("outcome", String(16)),
    Column("detail", Text, nullable=False),
    Column("stall_parts", Text, nullable=False),
    Column("start_step", BigInteger, nullable=False),
    Column("held_ms", Text, nullable=False),
    Column("useful_ms", BigInteger, nullable=False),
    Column("stalled_ms", BigInteger, nullable=False),
    Column("lost_ms", BigInteger, nullable=False),
    Column("draining_ms", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("id", _SEQ, primary_key=True, autoincrement=False),
    Column("holder", String(160), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("pool", String(128), nullable=False),
    Column("nodes", Text, nullable=False),
    Column("since_ms", _MS, nullable=False),
    Column("state", String(16), nullable=False),
    Column("until_ms", _MS),
    Column("queue", String(128)),
    Column("tenant", String(128)),
    Index("leases_by_holder", "holder"),
)

events = Table(
    "events",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column("at_ms", _MS, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("job", String(160)),
    Column("attempt", Integer),
    Column("tenant", String(128)),
    Column("actor", String(64), nullable=False),
    Column("data", Text, nullable=False),
    Index("events_by_job", "job", "seq"),
    sqlite_autoincrement=True,
)

decisions = Table(
    "decisions",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column("at_ms", _MS, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("snapshot_hash", String(64), nullable=False),
    Column("num_waiting", Integer, nullable=False),
    Column("num_running", Integer, nullable=False),
    Column("what", Text, nullable=False),
    sqlite_autoincrement=True,
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column("id", String(200), nullable=False, unique=True),
    Column("job", String(160), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_ms", _MS, nullable=False),
    sqlite_autoincrement=True,
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("unit", String(16), primary_key=True),
    Column("balance", BigInteger, nullable=False),
)

entries = Table(
    "entries",
    metadata,
    Column("seq", _SEQ, primary_key=True),
    Column("at_ms", _MS, nullable=False),
    Column("account", String(200), nullable=False),
    Column("unit", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("job", String(160)),
    Column("attempt", Integer),
    Index("entries_by_account", "account", "unit"),
    Index("entries_by_job", "job"),
    sqlite_autoincrement=True,
)

meters = Table(
    "meters",
    metadata,
    Column("pool", String(128), primary_key=True),
    Column("resource", String(64), nullable=False),
    Column("observed", Integer, nullable=False),
    Column("leased", Integer, nullable=False),
    Column("since_ms", _MS, nullable=False),
    Column("micro_usd_per_device_hour", BigInteger, nullable=False),
)

contributions = Table(
    "contributions",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("pool", String(128), primary_key=True),
    Column("since_ms", _MS, primary_key=True),
    Column("devices", Integer, nullable=False),
    Column("recall_grace_ms", BigInteger, nullable=False),
    Column("until_ms", _MS),
)

budgets = Table(
    "budgets",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("sponsor", String(128), primary_key=True),
    Column("unit", String(16), primary_key=True),
    Column("granted", BigInteger, nullable=False),
    Column("changed_ms", _MS, nullable=False),
)

recents = Table(
    "recents",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("devices", Float, nullable=False),
    Column("held", Integer, nullable=False),
    Column("at_ms", _MS, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("pool", String(128), nullable=False),
    Column("workers", Integer, nullable=False),
    Column("since_s", Float, nullable=False),
)

promises = Table(
    "promises",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("since_s", Float, nullable=False),
    Column("at_s", Float, nullable=False),
)

tempos = Table(
    "tempos",
    metadata,
    Column("job", String(160), primary_key=True),
    Column("state", Text, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("submitted_by", String(64), nullable=False),
    Column("created_ms", _MS, nullable=False),
    Column("looked_ms", _MS, nullable=False),
    Column("document", Text, nullable=False),
    Column("instances", Text, nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("job", String(160), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("event", String(32), nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", String(200)),
    Column("body", Text, nullable=False),
    Column("created_ms", _MS, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_ms", _MS),
    Column("delivered_ms", _MS),
    Column("said", Text, nullable=False),
    Index("notices_by_job", "job"),
    Index("notices_by_next", "next_ms"),
)

marks = Table(
    "marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", String(64), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("body_hash", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("at_ms", _MS, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("note", Text, nullable=False),
    Column("created_ms", _MS, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires_ms", _MS),
    Column("revoked_ms", _MS),
)

clusters = Table(
    "clusters",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("applied_ms", _MS, nullable=False),
    Column("actor", String(64), nullable=False),
)

leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(128), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("heartbeat_ms", _MS, nullable=False),
    Column("clock_ms", _MS, nullable=False),
)

queue_holds = Table(
    "queue_holds",
    metadata,
    Column("queue", String(128), primary_key=True),
    Column("since_ms", _MS, nullable=False),
    Column("actor", String(64), nullable=False),
)

node_holds = Table(
    "node_holds",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("cause", String(24), nullable=False),
    Column("since_ms", _MS, nullable=False),
    Column("until_ms", _MS),
    Column("detail", Text, nullable=False),
    Column("actor", String(64), nullable=False),
)
