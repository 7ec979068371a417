"""Migrations make what the tables say; a database of another version is refused with the next step."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from orchestrator.ledger.errors import LedgerError
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import our_version, upgrade
from orchestrator.ledger.tables import metadata


def test_migrations_make_what_the_tables_say(url: str) -> None:
    ledger = Ledger(url, holder="one", clock=lambda: 1.0)
    assert upgrade(ledger.database) == (None, our_version())
    assert upgrade(ledger.database) == (our_version(), our_version())
    with ledger.database.writing() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert [one for one in differences if "alembic_version" not in str(one)] == []
    ledger.close()


@pytest.mark.parametrize(
    ("version", "problem", "next_step"),
    [(None, "was never set up", "Run 'tide db upgrade'"), ("9999", "does not know", "Install the newer program")],
)
def test_another_version_is_refused(url: str, version: str | None, problem: str, next_step: str) -> None:
    ledger = Ledger(url, holder="one", clock=lambda: 1.0)
    if version is not None:
        upgrade(ledger.database)
        with ledger.database.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
    with pytest.raises(LedgerError, match=problem) as error:
        ledger.lead()
    assert error.value.next_step.startswith(next_step)
    ledger.database.close()


@pytest.mark.parametrize("url_text", ["", "mysql://secret@x/y", "sqlite://", "nonsense"])
def test_a_url_of_neither_kind_is_refused_without_repeating_it(url_text: str) -> None:
    with pytest.raises(LedgerError, match="no SQLite file and no PostgreSQL"):
        Ledger(url_text, holder="one", clock=lambda: 1.0)
