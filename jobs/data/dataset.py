"""Reading a packed data set: splits as long arrays of bytes, in memory that the kernel pages in and out.

Opening costs one stat per shard; memory stays constant however large the data set is.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.data.manifest import BLOCK_BYTES, Manifest, Split, read_manifest
from jobs.data.shard import Bytes, ShardReader
from jobs.data.store import resolve
from orchestrator.spec.errors import UserError


class PackedSplit:
    """The bytes of one split's shards, one after the other: `len`, indexing, slicing, `numpy.asarray`."""

    def __init__(self, name: str, split: Split, folder: Path) -> None:
        self.name, self.documents = name, split.documents
        self.readers = [
            ShardReader(folder / shard.file, shard, f"{name}[{index}]") for index, shard in enumerate(split.shards)
        ]
        # ends[i] is where shard i ends in the split.
        self._ends = list(itertools.accumulate(shard.num_bytes for shard in split.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, key: int | slice) -> Bytes | int:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self.read(start, max(start, stop))
            return self.read(0, len(self))[key]
        position = key + len(self) if key < 0 else key
        if not 0 <= position < len(self):
            raise IndexError(f"byte {key} of split {self.name}, which has {len(self)}")
        return int(self.read(position, position + 1)[0])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self.read(0, len(self))
        return whole if dtype is None and not copy else np.array(whole, dtype=dtype)

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes [start, stop): a view where they lie in one shard, else a copy. Raises: UserError if damaged."""
        pieces = [
            self.readers[index].read(first, last) for index, first, last in self._ranges(start, min(stop, len(self)))
        ]
        if not pieces:
            return np.empty(0, dtype=np.uint8)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def windows(self, starts: NDArray[np.int64], length: int) -> Bytes:
        """Bytes [starts[i], starts[i] + length) as row i of an array (len(starts), length).

        Raises: ValueError if a window leaves the split; UserError if one touches a damaged block.
        """
        if len(starts) and not 0 <= starts.min() <= starts.max() <= len(self) - length:
            raise ValueError(
                f"windows of {length} bytes must start within 0..{len(self) - length} of split {self.name}"
            )
        rows = np.empty((len(starts), length), dtype=np.uint8)
        for row, start in enumerate(starts.tolist()):
            rows[row] = self.read(start, start + length)
        return rows

    def blocks(self, num_bytes: int = 16 * BLOCK_BYTES) -> Iterator[Bytes]:
        """The whole split in order, in views of at most `num_bytes`."""
        for reader in self.readers:
            size = reader.shard.num_bytes
            for start in range(0, size, num_bytes):
                yield reader.read(start, min(start + num_bytes, size))

    def _ranges(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The parts of [start, stop) as (shard, first byte, last byte + 1) within each shard."""
        index = bisect.bisect_right(self._ends, start)
        while start < stop:
            begin, end = self._ends[index - 1] if index else 0, self._ends[index]
            yield index, start - begin, min(stop, end) - begin
            start, index = end, index + 1


class PackedDataset:
    """A data set in one folder. Pickles as its folder's path."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self._splits = {name: PackedSplit(name, split, self.folder) for name, split in self.manifest.splits.items()}
        for split in self._splits.values():
            for reader in split.readers:
                reader.check_size()

    def split(self, name: str) -> PackedSplit:
        """The split called `name`. Raises: UserError if there is none."""
        if name not in self._splits:
            problem = f"there is no split {name!r}; a data set has {' and '.join(self._splits)}"
            raise UserError(problem, where=str(self.folder))
        return self._splits[name]

    def __reduce__(self) -> tuple[type[PackedDataset], tuple[Path]]:
        return PackedDataset, (self.folder,)


def open_dataset(ref_or_dir: str | Path, home: Path | None = None) -> PackedDataset:
    """Open `name@version` in the state folder `home`, or the data set in a folder.

    Text is a reference unless it holds a path separator. Raises: UserError if there is none or a shard is missing,
    truncated or too long; damaged content is found when it is read.
    """
    if isinstance(ref_or_dir, str) and os.sep not in ref_or_dir and home is not None:
        return PackedDataset(resolve(ref_or_dir, home))
    return PackedDataset(Path(ref_or_dir))
