"""`tide db`: set up, check and back up the database of the control plane."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import DatabaseError

from orchestrator.cli.home import home_dir
from orchestrator.cli.output import Format, Output, emit
from orchestrator.ledger import check as laws
from orchestrator.ledger.backup import back_up
from orchestrator.ledger.database import Database, open_database
from orchestrator.ledger.errors import UnreachableError
from orchestrator.ledger.schema import check_schema, our_version
from orchestrator.ledger.schema import upgrade as upgrade_database
from orchestrator.spec.errors import ExitCode, UserError

app = typer.Typer(no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option("--url", help="sqlite:///FILE or postgresql://...; default $TIDE_DATABASE, then the state folder."),
]


def database_url() -> str:
    """Where the ledger lives: TIDE_DATABASE, else a SQLite file in the state folder."""
    return os.environ.get("TIDE_DATABASE") or f"sqlite:///{home_dir() / 'tide.db'}"


@app.command()
def upgrade(url: Url = None, output: Output = Format.TABLE) -> None:
    """Bring the database to the version of this program; set up a new one. Running jobs go on."""
    with _opened(url) as database:
        before, after = upgrade_database(database)
    line = f"version {after} already" if before == after else f"version {before or 'none'} -> {after}"
    emit("DatabaseUpgrade", {"before": before, "after": after}, output, table=line)


@app.command()
def check(url: Url = None, output: Output = Format.TABLE) -> None:
    """Check every law of the books; exit 1 when one is broken."""
    with _opened(url) as database, database.reading() as connection:
        check_schema(connection)
        broken = laws.check(connection)
    summary = "the books balance" if not broken else "\n".join(broken)
    emit("DatabaseCheck", {"ok": not broken, "broken": broken, "version": our_version()}, output, table=summary)
    if broken:
        raise typer.Exit(ExitCode.BUG)


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="The file to write; it must not exist.", show_default=False)],
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Copy the database while it is in use. Restore = stop the server and put the copy in its place."""
    database: Database = open_database(url or database_url())
    source = Path(str(database.url.database))
    if database.is_sqlite and not source.is_file():
        raise UserError(f"there is no database {source}", code=ExitCode.UNKNOWN, next_step="Run 'tide db upgrade'")
    try:
        size = back_up(database, target)
    except OSError as error:
        step = "Name a file in a folder that you may write to, with room for the copy"
        raise UserError(f"cannot be written: {error.strerror}", where=str(target), next_step=step) from None
    emit("DatabaseBackup", {"path": str(target), "bytes": size}, output, table=f"{target}: {size:,} bytes")


@contextlib.contextmanager
def _opened(url: str | None) -> Iterator[Database]:
    """The database, closed in the end. Raises: UserError for one that does not answer, or is none."""
    database = open_database(url or database_url())
    try:
        yield database
    except UnreachableError as error:
        problem = f"the database does not answer: {error}"
        raise UserError(problem, code=ExitCode.UNREACHABLE, next_step="Is it running?") from error
    except DatabaseError as error:
        raise UserError(f"cannot be read as a database: {error.orig}", where=str(database.url)) from None
    finally:
        database.close()
