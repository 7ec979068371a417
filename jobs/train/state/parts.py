"""One rank's part: the same bytes whether they go into shared memory or into a file.

Speed matters here: a snapshot stands in the training loop's way for one memory copy, no more.
"""

from __future__ import annotations

from collections.abc import Iterator

from jobs.train.state.hashing import BlockHasher, hash_blocks
from jobs.train.state.layout import PartLayout
from jobs.train.state.manifest import Part
from jobs.train.state.memory import chunks_of
from jobs.train.state.storage import Storage
from jobs.train.state.view import ShardView


def part_nbytes(view: ShardView) -> int:
    """Size of the rank's part in bytes."""
    return PartLayout.of(view).nbytes


def encode_part(layout: PartLayout) -> Iterator[memoryview]:
    """The part's bytes in order; each chunk is valid until the next is asked for."""
    yield memoryview(layout.header)
    yield from chunks_of(layout.runs)


def copy_part_into(layout: PartLayout, buffer: memoryview) -> None:
    """Copy the part into a buffer of at least `layout.nbytes`, without hashing: all that a snapshot must wait for.

    Raises: ValueError if the buffer is too small.
    """
    if len(buffer) < layout.nbytes:
        raise ValueError(f"buffer has {len(buffer)} bytes; the part needs {layout.nbytes}")
    at = 0
    for chunk in encode_part(layout):
        buffer[at : at + len(chunk)] = chunk
        at += len(chunk)


def describe_part(layout: PartLayout, *, rank: int, file: str, blocks: list[str]) -> Part:
    """The part's entry in the manifest."""
    return Part(rank=rank, file=file, nbytes=layout.nbytes, blocks=tuple(blocks), groups=layout.groups)


def write_part_into(layout: PartLayout, buffer: memoryview, *, rank: int, file: str) -> Part:
    """`copy_part_into`, then hash: the part's entry, for callers that have nothing better to do meanwhile."""
    copy_part_into(layout, buffer)
    return describe_part(layout, rank=rank, file=file, blocks=hash_blocks(buffer[: layout.nbytes]))


def write_part(layout: PartLayout, storage: Storage, *, rank: int, file: str) -> Part:
    """Write the part to storage, durably, and return its entry; nothing refers to it before `commit`.

    Raises: StorageError.
    """
    hasher = BlockHasher()
    storage.write(file, _hashed(encode_part(layout), hasher), layout.nbytes)
    return describe_part(layout, rank=rank, file=file, blocks=hasher.hexdigests())


def _hashed(chunks: Iterator[memoryview], hasher: BlockHasher) -> Iterator[memoryview]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
