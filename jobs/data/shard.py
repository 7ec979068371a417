"""One shard file: written with a checksum per block, read through memory with every block verified before first use."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from jobs.data.manifest import BLOCK_BYTES, SUM_BYTES, Shard
from orchestrator.spec.errors import UserError

Bytes = NDArray[np.uint8]


class ShardWriter:
    """Appends bytes to a temporary file in `folder`; `close` gives it its final, content-addressed name."""

    def __init__(self, folder: Path, temporary: str) -> None:
        self._folder, self._path = folder, folder / temporary
        self._file: BinaryIO = open(self._path, "xb")  # noqa: SIM115 (closed by close)
        self._sha, self._block, self._sums = hashlib.sha256(), xxhash.xxh3_128(), bytearray()
        self.num_bytes = 0

    def write(self, data: memoryview) -> None:
        """Append `data`; block checksums are taken as the bytes pass."""
        while data:
            piece = data[: BLOCK_BYTES - self.num_bytes % BLOCK_BYTES]
            self._block.update(piece)
            self._sha.update(piece)
            self._file.write(piece)
            self.num_bytes += len(piece)
            if self.num_bytes % BLOCK_BYTES == 0:
                self._end_block()
            data = data[len(piece) :]

    def close(self) -> Shard:
        """Finish the file on disk and return what it holds."""
        if self.num_bytes % BLOCK_BYTES:
            self._end_block()
        sums = bytes(self._sums)
        self._sha.update(sums)
        with self._file as file:
            file.write(sums)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o444)
        sums_hash = xxhash.xxh3_128(sums).hexdigest()
        shard = Shard(num_bytes=self.num_bytes, sha256=self._sha.hexdigest(), sums=sums_hash)
        os.replace(self._path, self._folder / shard.file)
        return shard

    def abandon(self) -> None:
        """Close the file without giving it a name."""
        self._file.close()

    def _end_block(self) -> None:
        self._sums += self._block.digest()
        self._block.reset()


class ShardReader:
    """Content of one shard as a read-only array over mapped memory; opened on first use.

    A block is checked against its checksum once per process, before any of its bytes is handed out.
    """

    def __init__(self, path: Path, shard: Shard, label: str) -> None:
        self.path, self.shard, self.label = path, shard, label
        self._content: Bytes | None = None
        self._sums = b""
        self._verified = bytearray()

    def check_size(self) -> None:
        """Raise UserError if the file is missing or has another size; costs one stat."""
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from error
        if found != self.shard.file_bytes:
            word = "truncated" if found < self.shard.file_bytes else "too long"
            raise self._error(f"{word}: {found} bytes instead of {self.shard.file_bytes}")

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes [start, stop) of the content, not copied. Raises: UserError if a block they lie in is damaged."""
        content = self._content if self._content is not None else self._map()
        for block in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            if not self._verified[block]:
                self._verify(content, block)
        return content[start:stop]

    def _map(self) -> Bytes:
        self.check_size()
        if not self.shard.num_bytes:
            return np.empty(0, dtype=np.uint8)
        try:
            with open(self.path, "rb") as file:
                mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        except OSError as error:
            raise self._error(f"cannot be mapped: {error.strerror}") from error
        content, sums = mapped[: self.shard.num_bytes], mapped[self.shard.num_bytes :].tobytes()
        if xxhash.xxh3_128(sums).hexdigest() != self.shard.sums:
            raise self._error("its block checksums are damaged")
        self._sums, self._verified = sums, bytearray(self.shard.num_blocks)
        self._content = content
        return content

    def _verify(self, content: Bytes, block: int) -> None:
        # Touching a page beyond the end of a file that shrank after it was mapped would kill the process.
        self.check_size()
        piece = content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
        if xxhash.xxh3_128(piece.data).digest() != self._sums[block * SUM_BYTES : (block + 1) * SUM_BYTES]:
            first, last = block * BLOCK_BYTES, block * BLOCK_BYTES + len(piece)
            raise self._error(f"bytes {first}..{last} do not match their checksum")
        self._verified[block] = 1

    def _error(self, problem: str) -> UserError:
        next_step = "Fetch or pack the data set again; 'tide data verify' lists every damaged shard."
        return UserError(f"shard {self.label} is damaged: {problem}", where=str(self.path), next_step=next_step)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
