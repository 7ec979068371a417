"""The database behind the store: SQLite in WAL mode (one writer at a time), or PostgreSQL by URL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, func, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from orchestrator.spec.errors import ExitCode, UserError
from serving.batch.tables import VERSION, metadata, store_version

_BUSY_TIMEOUT_S = 30.0
# Serialises the creation of tables on PostgreSQL; any constant of ours will do.
_SETUP_LOCK = 7_108_331
_READ_ONLY = "tide_read_only"


class Database:
    """Transactions that are durable when their block has ended. Safe for many threads and processes.

    `clock` replaces the clock that leases and windows are measured on: the server's on PostgreSQL, so that replicas
    on several machines agree, and this machine's on SQLite.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._engine = _make_engine(url)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        try:
            self._set_up()
        except DBAPIError as error:
            self.close()
            raise UserError(f"the batch store cannot be opened: {_first_line(error)}", where=_shown(url),
                            code=ExitCode.UNREACHABLE, next_step="Check tiers.batch.store.") from None  # fmt: skip

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that may change things."""
        with self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot; on SQLite it waits for no writer."""
        with self._engine.connect().execution_options(**{_READ_ONLY: True}) as connection, connection.begin():
            yield connection

    def now_s(self, connection: Connection) -> float:
        """Seconds since the epoch, on the clock that all who share the database share."""
        if self._clock is not None:
            return self._clock()
        if self.is_sqlite:
            return time.time()
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

    def close(self) -> None:
        """Close idle connections."""
        self._engine.dispose()

    def _set_up(self) -> None:
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_SETUP_LOCK})"))
            metadata.create_all(connection)
            version = connection.scalar(select(store_version.c.version))
            if version is None:
                connection.execute(insert(store_version).values(version=VERSION))
            elif version != VERSION:
                raise UserError(
                    f"the batch store has format {version}; this version reads format {VERSION}",
                    code=ExitCode.CONFLICT,
                    next_step="Serve with the version that wrote it, or name another tiers.batch.store.",
                )


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{path}"


def _make_engine(url: str) -> Any:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if not parsed.drivername.startswith(("sqlite", "postgresql")):
            raise ArgumentError(f"{parsed.drivername} is not known")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if parsed.drivername.startswith("sqlite"):
            options = {"connect_args": {"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False}}
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise UserError(f"tiers.batch.store: {error}; sqlite:///PATH or postgresql://USER@HOST/NAME is right",
                        next_step="PostgreSQL needs the extra tideline[postgres].") from None  # fmt: skip
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _: Any) -> None:
    """WAL for readers beside a writer; FULL, because a commit that a power cut undoes would compute a row twice."""
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}"):
        connection.execute(f"PRAGMA {pragma}")


def _on_sqlite_begin(connection: Connection) -> None:
    """Writers take their lock at once: a lock taken halfway fails instead of waiting."""
    is_read = connection.get_execution_options().get(_READ_ONLY)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
