"""Parts on their way in from a peer: blocks land in any order, straight in shared memory, and are verified there.

Resumable: the sender asks what is missing, so a cut connection costs at most the blocks that were under way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.index import block_hash
from jobs.train.keeper.segments import NoRoomError, Segment
from jobs.train.keeper.store import PartConflictError, PartStore
from jobs.train.keeper.transport import PeerRefusedError
from jobs.train.keeper.values import PartKey, PartMeta, SnapshotKey

# Refusals that a sender understands. NO_ROOM may pass, STALE will not; after GONE and DAMAGED it offers the part again.
NO_ROOM, STALE, GONE, DAMAGED = "no_room", "stale", "gone", "damaged"


@dataclass(eq=False)
class _Landing:
    meta: PartMeta
    segment: Segment
    owner: object
    landed: set[int] = field(default_factory=set)

    def missing(self) -> list[int]:
        return [index for index in range(len(self.meta.blocks)) if index not in self.landed]


class Landings:
    """All parts that are arriving at one keeper. Thread-safe."""

    def __init__(self, store: PartStore, faults: Faults = no_faults) -> None:
        self._store = store
        self._faults = faults
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._landings: dict[PartKey, _Landing] = {}

    def offer(self, meta: PartMeta, make_room: Callable[[], Collection[SnapshotKey]]) -> list[int]:
        """Which blocks of the part are still wanted; none if it is here already.

        Raises: PeerRefusedError (no room).
        """
        if self._store.get(meta.key):
            return []
        with self._opening:  # of two offers of one part at once, the second finds the landing of the first
            landing = self._find(meta.key)
            if landing is None or landing.meta != meta:
                landing = self._open(meta, make_room)
        return landing.missing()

    def sink(self, key: PartKey, index: int, nbytes: int) -> memoryview:
        """Where the block's bytes go. Raises: PeerRefusedError if nobody offered it, or it has another size."""
        landing = self._require(key)
        start = index * self._store.block_bytes
        stop = min(start + self._store.block_bytes, landing.meta.nbytes)
        if not 0 <= index < len(landing.meta.blocks) or nbytes != stop - start:
            raise PeerRefusedError(GONE, f"block {index} of {nbytes} bytes is not one of {key}")
        return landing.segment.map()[start:stop]

    def landed(self, key: PartKey, index: int, data: memoryview) -> bool:
        """The block's bytes are in their place: verify them; True when that made the part whole and sealed.

        Raises: PeerRefusedError if the hash is wrong, or the part is not wanted any more.
        """
        self._faults(Point.LAND_BLOCK)
        landing = self._require(key)
        if block_hash(data) != landing.meta.blocks[index]:
            raise PeerRefusedError(DAMAGED, f"block {index} of {key} does not have its hash")
        with self._lock:
            landing.landed.add(index)
            # Whoever brings the last block takes the landing out and seals: nobody else can.
            whole = not landing.missing() and self._landings.pop(key, None) is landing
        if whole:
            self._faults(Point.LAND_BEFORE_SEAL)
            try:
                self._store.seal(landing.meta, landing.owner)
            except PartConflictError as error:
                raise PeerRefusedError(GONE, str(error)) from error
        return whole

    def _open(self, meta: PartMeta, make_room: Callable[[], Collection[SnapshotKey]]) -> _Landing:
        owner = object()
        try:
            segment = self._store.alloc(meta.key, meta.nbytes, owner, make_room=make_room)
        except NoRoomError as error:
            raise PeerRefusedError(NO_ROOM, str(error)) from error
        except PartConflictError as error:
            raise PeerRefusedError(GONE, str(error)) from error
        landing = _Landing(meta, segment, owner)
        with self._lock:
            self._landings[meta.key] = landing
        return landing

    def _find(self, key: PartKey) -> _Landing | None:
        """The landing, unless the store has dropped its allocation meanwhile."""
        with self._lock:
            landing = self._landings.get(key)
            if landing is not None and not self._store.is_allocated(key, landing.owner):
                del self._landings[key]
                return None
            return landing

    def _require(self, key: PartKey) -> _Landing:
        landing = self._find(key)
        if landing is None:
            raise PeerRefusedError(GONE, f"{key} is not being received here")
        return landing
