"""Segments: files in shared memory with their pages already there, used again and again, never above the limit.

Page faults cost more than the copy itself (first touch of 120 MB: 45 ms, the copy into a mapped segment: 7 ms), so a
segment keeps its pages and both sides keep their mappings. Space is taken with `posix_fallocate`: a full /dev/shm is an
error here and not a SIGBUS in a rank that writes.

Not thread-safe but for `materialise`; the store's lock guards the rest.
"""

from __future__ import annotations

import errno
import mmap
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from jobs.train.keeper.memory import GRAIN_BYTES, rounded

SUFFIX = ".seg"
# A free segment is reused if less than this share of it would lie idle; else it is dropped when room is needed.
_MAX_IDLE = 0.25


class NoRoomError(Exception):
    """A segment of `needed_bytes` does not fit: `used_bytes` of `limit_bytes` are taken."""

    def __init__(self, needed_bytes: int, used_bytes: int, limit_bytes: int, cause: str) -> None:
        super().__init__(
            f"no room for {needed_bytes} bytes of shared memory: {used_bytes} of {limit_bytes} in use ({cause})"
        )
        self.needed_bytes = needed_bytes


@dataclass(eq=False)
class Segment:
    """One file of `nbytes`; `map()` maps it once and keeps the mapping."""

    path: Path
    nbytes: int
    _mapped: mmap.mmap | None = field(default=None, repr=False)

    def map(self) -> memoryview:
        """The segment's memory, writable. The mapping lives until `unmap`."""
        if self._mapped is None:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                self._mapped = mmap.mmap(fd, self.nbytes)
            finally:
                os.close(fd)
        return memoryview(self._mapped)

    def unmap(self) -> None:
        """Let the mapping go; it stays valid for views that are still in use (a transfer, a reader)."""
        self._mapped = None


class SegmentPool:
    """The segments of one folder, in use or free, never more than `limit_bytes` together."""

    def __init__(self, folder: Path, limit_bytes: int, *, grain_bytes: int = GRAIN_BYTES) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._grain_bytes = grain_bytes
        self._all: set[Segment] = set()
        self._free: list[Segment] = []

    @property
    def used_bytes(self) -> int:
        """Bytes of shared memory held, free segments included: they count against the machine, too."""
        return sum(segment.nbytes for segment in self._all)

    @property
    def busy_bytes(self) -> int:
        """Bytes of segments that hold, or will hold, a part."""
        return self.used_bytes - sum(segment.nbytes for segment in self._free)

    def take(self, nbytes: int) -> Segment:
        """A segment for `nbytes`: a free one of about the size, else a new one, which the caller must `materialise`.

        Raises: NoRoomError, with free segments of other sizes given up already.
        """
        need = rounded(nbytes, self._grain_bytes)
        fitting = [s for s in self._free if need <= s.nbytes and s.nbytes - need <= _MAX_IDLE * s.nbytes]
        if fitting:
            best = min(fitting, key=lambda segment: segment.nbytes)
            self._free.remove(best)
            return best
        while self._free and self.used_bytes + need > self.limit_bytes:
            self.discard(self._free[0])
        if self.used_bytes + need > self.limit_bytes:
            raise NoRoomError(need, self.used_bytes, self.limit_bytes, "the keeper's limit")
        segment = Segment(self.folder / f"{uuid.uuid4().hex}{SUFFIX}", need)
        self._all.add(segment)
        return segment

    @staticmethod
    def materialise(segment: Segment) -> None:
        """Give a new segment its pages; nothing to do for a reused one. Slow (GB/s), so call it without the lock.

        Raises: NoRoomError if the machine has no shared memory left; the caller must then `discard` the segment.
        """
        if segment.path.exists():
            return
        fd = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, segment.nbytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT):
                raise
            raise NoRoomError(segment.nbytes, 0, 0, f"{segment.path.parent}: {error.strerror}") from error
        finally:
            os.close(fd)

    def adopt(self, path: Path) -> Segment:
        """Take over a segment that an earlier keeper left here. It may put the pool above its limit; `take` heals."""
        segment = Segment(path, path.stat().st_size)
        self._all.add(segment)
        return segment

    def give_back(self, segment: Segment) -> None:
        """Nobody writes to it any more and its content may go; the pages are kept for the next part."""
        assert segment in self._all, segment
        assert segment not in self._free, segment
        self._free.append(segment)

    def discard(self, segment: Segment) -> None:
        """Remove the file. Whoever still has it mapped writes into nothing, which is the point: a rank that died, or
        hangs, in the middle of a copy can never spoil a later part."""
        self._all.discard(segment)
        if segment in self._free:
            self._free.remove(segment)
        segment.path.unlink(missing_ok=True)
        segment.unmap()

    def trim(self) -> None:
        """Give up all free segments, when parts of their size will not come again."""
        for segment in list(self._free):
            self.discard(segment)
