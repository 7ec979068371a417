"""The parts a node holds: allocated (being written), sealed, and dropped again. Thread-safe; opaque to content.

Life of a part: `alloc` -> somebody writes into the segment -> `seal` -> readers -> `drop`. Only sealed parts are ever
listed, read, mirrored or written to storage; a crash in between leaves no trace but a file that is swept away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from jobs.train.keeper import index
from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.index import IndexEntry
from jobs.train.keeper.memory import GRAIN_BYTES
from jobs.train.keeper.segments import NoRoomError, Segment, SegmentPool
from jobs.train.keeper.values import PartKey, PartMeta, SnapshotKey
from jobs.train.state.hashing import BLOCK_BYTES

_log = structlog.get_logger(__name__)


class PartConflictError(ValueError):
    """The request does not fit what the store knows of the part; the asker is confused or late."""


@dataclass(frozen=True, slots=True)
class SealedPart:
    """A part that is whole, and the segment it lies in."""

    meta: PartMeta
    segment: Segment

    def data(self) -> memoryview:
        """The part's bytes. Valid while the part is held; readers verify hashes, so a late reader sees an error."""
        return self.segment.map()[: self.meta.nbytes].toreadonly()


@dataclass(frozen=True, slots=True)
class Allocation:
    """A part being written: its segment and promised size. `owner` is who writes, for `abort_owned`."""

    segment: Segment
    nbytes: int
    owner: object


class PartStore:
    """All parts of one keeper.

    `block_bytes` is what block hashes cover; smaller only in tests.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        block_bytes: int = BLOCK_BYTES,
        grain_bytes: int = GRAIN_BYTES,
        faults: Faults = no_faults,
    ) -> None:
        self.block_bytes = block_bytes
        self._pool = SegmentPool(folder, limit_bytes, grain_bytes=grain_bytes)
        self._faults = faults
        self._lock = threading.RLock()
        self._allocated: dict[PartKey, Allocation] = {}
        self._sealed: dict[PartKey, SealedPart] = {}

    @property
    def limit_bytes(self) -> int:
        return self._pool.limit_bytes

    @property
    def used_bytes(self) -> int:
        """Shared memory held, free segments included."""
        with self._lock:
            return self._pool.used_bytes

    def adopt(self) -> int:
        """Take over what an earlier keeper sealed in this folder, hashes verified; returns how many parts.

        Everything else there is removed, half-written parts and leftovers alike.
        """
        with self._lock:
            for path, meta in index.sealed_segments(self._pool.folder, self.block_bytes):
                self._sealed[meta.key] = SealedPart(meta, self._pool.adopt(path))
            return len(self._sealed)

    def alloc(
        self,
        key: PartKey,
        nbytes: int,
        owner: object,
        *,
        make_room: Callable[[], Collection[SnapshotKey]] | None = None,
    ) -> Segment:
        """A segment in which `owner` may write the part.

        `make_room` is asked, once, which snapshots may go if there is no room. An allocation for the same part is
        replaced: its writer is dead, or has started over.

        Raises: NoRoomError; PartConflictError if the part is sealed already or the size is nonsense.
        """
        if nbytes < 1:
            raise PartConflictError(f"part of {nbytes} bytes")
        try:
            segment = self._claim(key, nbytes, owner)
        except NoRoomError:
            if make_room is None:
                raise
            # Asked without the lock: whoever decides what may go has a lock of its own, and calls this store under it.
            self.drop_snapshots(make_room())
            segment = self._claim(key, nbytes, owner)
        try:
            self._pool.materialise(segment)
            self._faults(Point.ALLOC_CREATED)
        except BaseException:
            self.abort(key)
            raise
        return segment

    def _claim(self, key: PartKey, nbytes: int, owner: object) -> Segment:
        with self._lock:
            if key in self._sealed:
                raise PartConflictError(f"{key} is sealed already")
            self.abort(key)
            segment = self._pool.take(nbytes)
            self._allocated[key] = Allocation(segment, nbytes, owner)
            return segment

    def reserve(self, nbytes: int, count: int) -> None:
        """Have `count` free segments for parts of `nbytes` ready, pages and all. Raises: NoRoomError, keeping none."""
        taken: list[Segment] = []
        try:
            for _ in range(count):
                with self._lock:
                    taken.append(self._pool.take(nbytes))
                self._pool.materialise(taken[-1])
        except NoRoomError:
            with self._lock:
                for segment in taken:
                    self._pool.discard(segment)
            raise
        with self._lock:
            for segment in taken:
                self._pool.give_back(segment)

    def seal(self, meta: PartMeta, owner: object) -> SealedPart:
        """The part is whole: make it visible, here and to the next keeper. May be repeated.

        Raises: PartConflictError if `owner` has no allocation for it, or size and hashes do not fit.
        """
        with self._lock:
            known = self._sealed.get(meta.key)
            if known is not None and known.meta == meta:
                return known
            allocation = self._allocated.get(meta.key)
            if allocation is None or allocation.owner is not owner:
                raise PartConflictError(f"{meta.key} was not allocated here")
            if meta.nbytes != allocation.nbytes or len(meta.blocks) != -(-meta.nbytes // self.block_bytes):
                raise PartConflictError(
                    f"{meta.key}: {meta.nbytes} bytes, {len(meta.blocks)} hashes; {allocation.nbytes} were allocated"
                )
            if (meta.key.rank == 0) != (meta.header is not None):
                raise PartConflictError(f"{meta.key}: rank 0, and only rank 0, brings the snapshot's header")
            self._faults(Point.SEAL_BEFORE_INDEX)
            index.write_entry(
                allocation.segment.path, IndexEntry(part=meta, block_bytes=self.block_bytes), self._faults
            )
            self._faults(Point.SEAL_AFTER_INDEX)
            del self._allocated[meta.key]
            sealed = self._sealed[meta.key] = SealedPart(meta, allocation.segment)
            return sealed

    def is_allocated(self, key: PartKey, owner: object) -> bool:
        """Whether `owner` is still the one who writes this part."""
        with self._lock:
            allocation = self._allocated.get(key)
            return allocation is not None and allocation.owner is owner

    def abort(self, key: PartKey) -> None:
        """Forget an allocation. Its segment is removed, not reused: its writer may still be writing."""
        with self._lock:
            allocation = self._allocated.pop(key, None)
            if allocation:
                self._pool.discard(allocation.segment)

    def abort_owned(self, owner: object) -> None:
        """Forget all allocations of a writer that is gone."""
        with self._lock:
            for key in [key for key, allocation in self._allocated.items() if allocation.owner is owner]:
                self.abort(key)

    def get(self, key: PartKey) -> SealedPart | None:
        """The sealed part, if it is held."""
        with self._lock:
            return self._sealed.get(key)

    def sealed(self, run: str | None = None) -> list[SealedPart]:
        """Sealed parts, of one run or of all, sorted by key."""
        with self._lock:
            return [part for key, part in sorted(self._sealed.items()) if run in (None, key.snapshot.run)]

    def snapshots(self, run: str) -> list[SnapshotKey]:
        """Snapshots of a run of which some part is held or being written, oldest first."""
        with self._lock:
            return sorted({key.snapshot for key in (*self._sealed, *self._allocated) if key.snapshot.run == run})

    def drop(self, key: PartKey) -> None:
        """Let a part go, sealed or not; nothing if it is not held. Its pages are used again."""
        with self._lock:
            self.abort(key)
            part = self._sealed.pop(key, None)
            if part:
                index.remove_entry(part.segment.path)
                self._faults(Point.DROP_AFTER_INDEX)
                self._pool.give_back(part.segment)

    def drop_snapshots(self, keys: Collection[SnapshotKey]) -> None:
        """Let all parts of these snapshots go."""
        with self._lock:
            for key in [key for key in (*self._sealed, *self._allocated) if key.snapshot in keys]:
                self.drop(key)

    def trim(self) -> None:
        """Give unused pages back to the machine."""
        with self._lock:
            self._pool.trim()
