"""The tables of the batch store; the same on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

VERSION = 1
metadata = MetaData()

store_version = Table("store_version", metadata, Column("version", Integer, primary_key=True))

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("filename", Text, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("batch_id", String(64)),
    Column("idempotency_key", String(256)),
    Column("fingerprint", String(64)),
    UniqueConstraint("tenant", "idempotency_key"),
)

# The uploaded bytes, cut at line ends: a row's request is read from here, and so is the file's content.
lines = Table(
    "lines",
    metadata,
    Column("file_id", String(64), primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("raw", LargeBinary, nullable=False),
    Column("custom_id", Text, nullable=False),
    Column("url", String(64), nullable=False),
    Column("tokens", Integer, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("window", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("ended_s", Float),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("tokens_left", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False, default=0),
    Column("completion_tokens", BigInteger, nullable=False, default=0),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("metadata", Text, nullable=False),
    Column("idempotency_key", String(256)),
    Column("fingerprint", String(64)),
    UniqueConstraint("tenant", "idempotency_key"),
    Index("batches_open", "status", "expires_s"),
)

rows = Table(
    "rows",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", Text, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("lease_token", String(64)),
    Column("lease_until_s", Float),
    # The line of the output or error file; null in a row that ended without a response, whose `error` says why.
    Column("result", LargeBinary),
    Column("error", String(32)),
    Index("rows_by_state", "batch_id", "state", "idx"),
    Index("rows_leased", "lease_until_s", sqlite_where=text("state = 'leased'"),
          postgresql_where=text("state = 'leased'")),
)  # fmt: skip

# How fast each living replica does batch work; what promises are made from.
replicas = Table(
    "replicas",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tokens_per_s", Float, nullable=False),
    Column("seen_s", Float, nullable=False),
)
