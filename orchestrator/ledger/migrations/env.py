"""Alembic's entry: always on a connection of ours, inside a transaction of ours."""

from __future__ import annotations

from alembic import context

from orchestrator.ledger.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=metadata, transactional_ddl=True, transaction_per_migration=False
)
context.run_migrations()
