"""Straight into storage, where a node has no keeper: each rank writes its part, rank 0 commits when all are there.

The parts' entries meet in the attempt's key-value store and not in a collective, because they are sent from background
threads whose order differs from rank to rank.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from dataclasses import replace

import torch.distributed as dist

from jobs.train.messages import Message, Saved
from jobs.train.state.checkpoints import commit, manifest_file
from jobs.train.state.errors import StorageError
from jobs.train.state.manifest import Manifest, Part
from jobs.train.state.storage import Storage


class StorageSink:
    """One rank's way into storage. `store` is used by this sink's thread alone."""

    def __init__(
        self, storage: Storage, store: dist.Store, rank: int, world_size: int, send: Callable[[Message], None]
    ) -> None:
        self._storage = storage
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._send = send
        self._buffer: mmap.mmap | None = None

    def open(self, step: int, nbytes: int, *, final: bool) -> memoryview:
        """A private buffer, allocated once unless the state grows."""
        if self._buffer is None or len(self._buffer) < nbytes:
            self._buffer = mmap.mmap(-1, nbytes)
        return memoryview(self._buffer)

    def seal(self, part: Part, manifest: Manifest) -> None:
        """Write the part; rank 0 then waits for the others' entries and commits. Raises: StorageError."""
        key = f"part/{manifest.step}"
        try:
            with memoryview(self._buffer or b"") as buffer:
                self._storage.write(part.file, [buffer[: part.nbytes]], part.nbytes)
            entry = json.dumps(part.to_json())
        except BaseException:
            self._store.set(f"{key}/{self._rank}", "")  # or rank 0 would wait for ever
            raise
        self._store.set(f"{key}/{self._rank}", entry)
        if self._rank == 0:
            self._commit(manifest, [f"{key}/{rank}" for rank in range(self._world_size)])

    def _commit(self, manifest: Manifest, keys: list[str]) -> None:
        try:
            entries = [bytes(self._store.get(key)) for key in keys]  # waits for each, up to the store's timeout
        except RuntimeError as error:  # torch's DistStoreError
            raise StorageError(
                f"not all ranks have written their part of step {manifest.step}", where=self._storage.url
            ) from error
        for key in keys:
            self._store.delete_key(key)
        missing = [rank for rank, entry in enumerate(entries) if not entry]
        if missing:
            raise StorageError(
                f"ranks {missing} could not write their part of step {manifest.step}", where=self._storage.url
            )
        parts = tuple(Part.from_json(json.loads(entry)) for entry in entries)
        commit(self._storage, replace(manifest, parts=parts))
        self._send(Saved(manifest.step, manifest_file(manifest.run, manifest.step)))
