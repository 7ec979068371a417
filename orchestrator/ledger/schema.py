"""The version of a database: `upgrade` brings it to ours, everybody else checks that it is."""

from __future__ import annotations

import functools
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from orchestrator.ledger.database import Database
from orchestrator.ledger.errors import LedgerError
from orchestrator.spec.errors import ExitCode

_SCRIPTS = Path(__file__).with_name("migrations")


@functools.cache
def our_version() -> str:
    """The version this program reads and writes."""
    head = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    assert head is not None, "there is at least one migration"
    return head


def version_of(connection: Connection) -> str | None:
    """The version of a database; None for one that was never set up."""
    return MigrationContext.configure(connection).get_current_revision()


def check_schema(connection: Connection) -> None:
    """Raises: LedgerError unless the database is of our version."""
    found, ours = version_of(connection), our_version()
    if found == ours:
        return
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    if found is not None and found not in known:
        problem = f"the database is of version {found}, which this program does not know; it knows {ours} and older"
        raise LedgerError(problem, code=ExitCode.CONFLICT, next_step="Install the newer program, or restore a backup")
    have = "was never set up" if found is None else f"is of version {found}"
    raise LedgerError(
        f"the database {have}; this program needs {ours}", code=ExitCode.CONFLICT, next_step="Run 'tide db upgrade'"
    )


def upgrade(database: Database, version: str = "head") -> tuple[str | None, str | None]:
    """Bring a database to a version, in one transaction; the versions before and after."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    with database.writing() as connection:
        before = version_of(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        return before, version_of(connection)
