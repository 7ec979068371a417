"""A study's journal: one SQLite file that grows by whole transactions and survives a kill at any moment.

One driver writes, under a lock that ends with its process; anybody reads meanwhile. Numbers that JSON has no word for
(NaN of a diverged trial) are kept as Python writes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from orchestrator.spec.errors import ExitCode, UserError
from orchestrator.study.events import Event, Stored, from_stored, to_stored

FILE = "study.sqlite"
_LOCK = "driver.lock"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_s REAL NOT NULL,
    kind TEXT NOT NULL,
    trial TEXT NOT NULL,
    body TEXT NOT NULL
)
"""


class Journal:
    """The driver's end. Use as a context manager; entering takes the lock.

    Raises (on entering): UserError (conflict) while another process drives the study.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Journal:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            undo.enter_context(_locked(self._folder / _LOCK, self._folder.name))
            database = undo.enter_context(contextlib.closing(sqlite3.connect(self._folder / FILE)))
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")  # what is told to a trial must be on disk before
            with database:
                database.execute(_SCHEMA)
            self._database = database
            self._stack = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database = None
        self._stack.close()

    def append(self, events: Sequence[Event]) -> None:
        """Write events, all or none of them; on return they are on disk."""
        assert self._database is not None, "the journal is not open"
        rows = [(one.at_s, one.kind, one.trial, json.dumps(one.body)) for one in map(to_stored, events)]
        with self._database:
            self._database.executemany("INSERT INTO events (at_s, kind, trial, body) VALUES (?, ?, ?, ?)", rows)

    def read(self) -> list[Event]:
        """Everything that was written, oldest first."""
        assert self._database is not None, "the journal is not open"
        return list(_read(self._database))


def read_journal(folder: Path) -> list[Event]:
    """The events of a study that somebody else may be driving. Raises: UserError (unknown) when there is none."""
    path = folder / FILE
    if not path.exists():
        raise UserError(
            f"there is no study {folder.name!r} here",
            code=ExitCode.UNKNOWN,
            where=str(folder.parent),
            next_step=_known(folder.parent),
        )
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        return list(_read(database))


def is_driven(folder: Path) -> bool:
    """Whether a process drives the study now."""
    try:
        with _locked(folder / _LOCK, folder.name):
            return False
    except UserError:
        return True
    except OSError:
        return False


def _read(database: sqlite3.Connection) -> Iterator[Event]:
    for at_s, kind, trial, body in database.execute("SELECT at_s, kind, trial, body FROM events ORDER BY seq"):
        yield from_stored(Stored(kind, trial, at_s, json.loads(body)))


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the lock; the kernel lets go of it when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"study {name!r} is being run by another process",
                code=ExitCode.CONFLICT,
                where=str(path.parent),
                next_step=f"Watch it with 'tide study status {name}', or end it with 'tide study stop {name}'",
            ) from None
        yield
    finally:
        os.close(descriptor)


def _known(root: Path) -> str:
    names = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    return f"There are {', '.join(names)}" if names else "Start one with 'tide study run FILE'"
