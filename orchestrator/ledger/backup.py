"""A copy of the database while it is in use: SQLite's online backup, whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from orchestrator.ledger.database import Database
from orchestrator.ledger.errors import LedgerError
from orchestrator.spec.errors import ExitCode

_PAGES = 1024


def back_up(database: Database, target: Path) -> int:
    """Write a consistent copy to `target`, which must not exist; its size in bytes. Writers go on meanwhile.

    Raises: LedgerError for a target that is there, and for PostgreSQL, which has its own tools.
    """
    if not database.is_sqlite:
        problem = "this database is PostgreSQL, which is backed up with its own tools"
        raise LedgerError(problem, next_step="Use pg_dump, or pg_basebackup with WAL archiving")
    if target.exists():
        raise LedgerError(f"{target} is there already", code=ExitCode.CONFLICT, next_step="Name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    try:
        _copy(Path(str(database.url.database)), part)
        # A link, unlike a rename, fails where somebody else has made the target meanwhile.
        os.link(part, target)
    except FileExistsError:
        raise LedgerError(f"{target} is there already", code=ExitCode.CONFLICT) from None
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return target.stat().st_size


def _copy(source: Path, part: Path) -> None:
    reader, writer = sqlite3.connect(f"file:{source}?mode=ro", uri=True), sqlite3.connect(part)
    try:
        reader.backup(writer, pages=_PAGES)
        writer.execute("PRAGMA journal_mode=DELETE")
        (found,) = writer.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise LedgerError(f"the copy is damaged: {found}", next_step="Run 'tide db check' on the database itself")
    finally:
        writer.close()
        reader.close()
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
