"""Engines: one connection that writes, a few that read; SQLite durable in WAL mode, PostgreSQL by URL."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import QueuePool

from orchestrator.ledger.errors import LedgerError, UnreachableError

_BUSY_MS = 10_000
_READERS = 8


@dataclass(frozen=True, slots=True)
class Database:
    """Where the ledger lives. `write` has one connection: SQLite has one writer, and so have we."""

    url: URL
    write: Engine
    read: Engine

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one file on this machine."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end. Raises: UnreachableError."""
        with _reachable(self.url), self.write.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one instant and waits for nobody who writes. Raises: UnreachableError."""
        with _reachable(self.url), self.read.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give up all connections."""
        self.write.dispose()
        self.read.dispose()


def open_database(url: str) -> Database:
    """Engines for a URL: `sqlite:///FILE` or `postgresql://...`; nothing is connected or created yet.

    Raises: LedgerError for a URL of neither kind.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return Database(parsed, _sqlite(parsed, writes=True), _sqlite(parsed, writes=False))
    # Read committed, for the row of the leader must be seen as it is when its lock is had, not as it was before.
    write = create_engine(parsed, pool_size=1, max_overflow=0, pool_pre_ping=True, isolation_level="READ COMMITTED")
    read = create_engine(parsed, pool_size=_READERS, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    return Database(parsed, write, read)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _no_url(url) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql") or (
        parsed.get_backend_name() == "sqlite" and not parsed.database
    ):
        raise _no_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed


def _no_url(url: str) -> LedgerError:
    # A password may be in it, so that it is not repeated.
    kind = url.partition(":")[0]
    want = "Write sqlite:////absolute/path/tide.db or postgresql://host/database"
    return LedgerError(f"a database URL that begins with {kind!r} is no SQLite file and no PostgreSQL", next_step=want)


def _sqlite(url: URL, *, writes: bool) -> Engine:
    path = Path(str(url.database))
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1 if writes else _READERS,
        max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
    )

    def create(*_: Any) -> None:
        # Hashes of keys and what people wrote in their jobs are nobody else's business.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never opened where it is there: closing it again would give up every lock that this process's other
        # connections hold on it (POSIX), and another process could take the log away from under them.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    event.listen(engine, "do_connect", create)
    event.listen(engine, "connect", _prepare_writer if writes else _prepare_reader)
    event.listen(engine, "begin", _begin_writing if writes else _begin_reading)
    return engine


def _prepare(connection: sqlite3.Connection) -> None:
    # sqlite3 begins transactions by itself, and too late; SQLAlchemy's "begin" event does it here.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")


def _prepare_writer(connection: sqlite3.Connection, _: Any) -> None:
    _prepare(connection)
    # What was answered is on the disk: with NORMAL a power cut would undo the last commits.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-65536")


def _prepare_reader(connection: sqlite3.Connection, _: Any) -> None:
    _prepare(connection)
    connection.execute("PRAGMA query_only=1")


def _begin_writing(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def _reachable(url: URL) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise UnreachableError(f"{url.render_as_string()}: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnreachableError(f"{url.render_as_string()}: {error.orig}") from error
        raise
