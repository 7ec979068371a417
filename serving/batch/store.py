"""The store as one object: files, batches and leases on one database."""

from __future__ import annotations

from collections.abc import Callable

from serving.batch.batches import BatchBook
from serving.batch.database import Database
from serving.batch.files import FileStore
from serving.batch.leases import LeaseDesk, LeaseRules


class BatchStore:
    """Durable files and batches. Any number of processes may open the same URL; any of them may die at any time."""

    def __init__(
        self, url: str, *, rules: LeaseRules | None = None, clock: Callable[[], float] | None = None
    ) -> None:  # fmt: skip
        self._database = Database(url, clock=clock)
        self.files = FileStore(self._database)
        self.batches = BatchBook(self._database)
        self.leases = LeaseDesk(self._database, rules or LeaseRules())

    def now_s(self) -> float:
        """The clock that windows are measured on."""
        with self._database.read() as connection:
            return self._database.now_s(connection)

    def close(self) -> None:
        """Close connections; leases stay until they run out."""
        self._database.close()
