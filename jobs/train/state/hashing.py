"""Hashes of a part file, one per block, so that a reader verifies only the blocks it reads.

xxh3-128 finds damage at memory speed; it is no defence against somebody who forges files (registered model versions
carry sha256 for that).
"""

from __future__ import annotations

import xxhash

from jobs.train.state.errors import CorruptStateError

BLOCK_BYTES = 4 * 2**20


def num_blocks(nbytes: int) -> int:
    """Blocks of a file of this size; the last one may be short."""
    return -(-nbytes // BLOCK_BYTES)


def hash_blocks(data: memoryview) -> list[str]:
    """One hexadecimal hash per block of a whole file's bytes. Releases the GIL, so it may run beside training."""
    return [xxhash.xxh3_128_hexdigest(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]


class BlockHasher:
    """The same hashes from a file that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._current = xxhash.xxh3_128()
        self._filled = 0

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the file."""
        at = 0
        while at < len(data):
            taken = min(BLOCK_BYTES - self._filled, len(data) - at)
            self._current.update(data[at : at + taken])
            self._filled += taken
            at += taken
            if self._filled == BLOCK_BYTES:
                self._close_block()

    def hexdigests(self) -> list[str]:
        """Hashes of all blocks; nothing may follow."""
        if self._filled:
            self._close_block()
        return self._done

    def _close_block(self) -> None:
        self._done.append(self._current.hexdigest())
        self._current.reset()
        self._filled = 0


def verify_block(data: memoryview, expected: str, file: str, block: int) -> None:
    """Raises CorruptStateError naming the file unless the block's bytes have the expected hash."""
    if xxhash.xxh3_128_hexdigest(data) != expected:
        at = block * BLOCK_BYTES
        raise CorruptStateError(
            f"bytes {at}..{at + len(data) - 1} have changed since they were saved (xxh3-128 differs)",
            where=file,
            next_step="An older checkpoint may be good: 'tide checkpoint verify' checks all of a run",
        )
