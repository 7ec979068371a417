"""The blocks of a part that a rank needs: announced ahead, read once each in ascending order, verified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.train.state.hashing import BLOCK_BYTES, verify_block
from jobs.train.state.manifest import Part
from jobs.train.state.sources import ReadsAhead, ShardSource

# How many blocks a source is told of in advance: 64 MiB keep a disk's queue full while one block is hashed and copied.
_BLOCKS_AHEAD = 16


def needed_blocks(file_offset: NDArray[np.int64], nbytes: NDArray[np.int64]) -> list[int]:
    """Blocks that the byte ranges touch, ascending; ranges must not be empty."""
    first, last = file_offset // BLOCK_BYTES, (file_offset + nbytes - 1) // BLOCK_BYTES
    touched = np.zeros(int(last.max()) + 2, dtype=np.int64)
    np.add.at(touched, first, 1)
    np.add.at(touched, last + 1, -1)
    return [int(block) for block in np.flatnonzero(np.cumsum(touched))]


class VerifiedBlocks:
    """Reads a part's blocks; going back to an earlier one reads it again."""

    def __init__(self, part: Part, needed: Sequence[int], source: ShardSource) -> None:
        self.read_bytes = 0
        self._part = part
        self._source = source
        self._ahead = source if isinstance(source, ReadsAhead) else None
        self._unannounced = iter(needed)
        self._block = -1
        self._data = memoryview(b"")
        for _ in range(_BLOCKS_AHEAD):
            self._announce()

    def at(self, position: int) -> memoryview:
        """The whole block that holds this position of the file.

        Raises: CorruptStateError naming the file if its bytes are not those that were saved.
        """
        block = position // BLOCK_BYTES
        if block != self._block:
            self._announce()
            self._data = self._read(block)
            self._block = block
        return self._data

    def _read(self, block: int) -> memoryview:
        start, nbytes = self._range(block)
        data = self._source.read(self._part.file, start, nbytes)
        if self._part.blocks:
            verify_block(data, self._part.blocks[block], self._part.file, block)
        self.read_bytes += nbytes
        return data

    def _announce(self) -> None:
        block = next(self._unannounced, None) if self._ahead else None
        if block is not None and self._ahead:
            self._ahead.will_need(self._part.file, *self._range(block))

    def _range(self, block: int) -> tuple[int, int]:
        start = block * BLOCK_BYTES
        return start, min(BLOCK_BYTES, self._part.nbytes - start)
