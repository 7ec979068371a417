"""Storage as flushes need it, made of what `jobs.train.state` offers."""

from __future__ import annotations

from collections.abc import Collection

from jobs.train.state.checkpoints import commit, prune
from jobs.train.state.manifest import Manifest
from jobs.train.state.open_storage import open_storage
from jobs.train.state.storage import Storage


class StateStorage:
    """Implements `flushing.CheckpointStorage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @classmethod
    def open(cls, url: str) -> StateStorage:
        """Raises: StorageError for a URL that means no storage."""
        return cls(open_storage(url))

    def write_part(self, file: str, data: Collection[memoryview], nbytes: int) -> None:
        """Raises: StorageError."""
        self._storage.write(file, data, nbytes)

    def commit(self, manifest: bytes, keep: int) -> None:
        """Raises: StorageError, CorruptStateError if a part is not there."""
        found = Manifest.from_bytes(manifest, self._storage.url)
        commit(self._storage, found)
        prune(self._storage, found.run, keep)
