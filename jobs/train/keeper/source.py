"""Reads parts for a rank that restores: from this node's shared memory, else from a peer, else from storage.

Implements `jobs.train.state.sources.ShardSource`. Every block is verified before it is handed out; a holder whose block
is damaged or gone is passed over for the next one, and what had to be passed over is kept in `passed_over`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import structlog

from jobs.train import wire
from jobs.train.keeper.index import block_hash
from jobs.train.keeper.restore import PartsLostError, Place
from jobs.train.keeper.transport import PeerGoneError, PeerRefusedError, PeerTransport
from jobs.train.keeper.values import PartKey
from jobs.train.state.sources import ShardSource

_log = structlog.get_logger(__name__)
Locate = Callable[[PartKey], str | None]
_Holder = tuple[str, str, Callable[[int, int], memoryview]]


class Stored(Protocol):
    """What is known of a part file: its size, and the hash of each block."""

    @property
    def nbytes(self) -> int: ...

    @property
    def blocks(self) -> Sequence[str]: ...


class KeeperSource:
    """Reads the parts of one snapshot.

    `entries`: what the manifest says of each file; `locate`: the path of a part that this node holds;
    `storage`: where the files may be, too (it may have the same step), or None.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        entries: Mapping[str, Stored],
        *,
        node: str,
        locate: Locate,
        transport: PeerTransport,
        block_bytes: int,
        storage: ShardSource | None = None,
    ) -> None:
        self._places = places
        self._entries = entries
        self._node = node
        self._locate = locate
        self._transport = transport
        self._block_bytes = block_bytes
        self._storage = storage
        self._maps: dict[str, memoryview | None] = {}
        self.passed_over: list[str] = []
        self.read_bytes_by_kind = {"local": 0, "peer": 0, "storage": 0}

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        """Bytes [offset, offset + nbytes) of a part; whole blocks are read and verified to get them.

        Raises: PartsLostError if no holder has them undamaged; ValueError for a range outside the part.
        """
        total = self._entry(file).nbytes
        if not 0 <= offset <= offset + nbytes <= total:
            raise ValueError(f"bytes {offset}..{offset + nbytes} of {file}, which has {total}")
        first, last = offset // self._block_bytes, -(-(offset + nbytes) // self._block_bytes)
        blocks = [self._block(file, index) for index in range(first, last)]
        if len(blocks) == 1:
            return blocks[0][offset - first * self._block_bytes :][:nbytes]
        joined = memoryview(b"".join(blocks))
        return joined[offset - first * self._block_bytes :][:nbytes]

    def _block(self, file: str, index: int) -> memoryview:
        entry = self._entry(file)
        start = index * self._block_bytes
        nbytes = min(self._block_bytes, entry.nbytes - start)
        for kind, where, fetch in self._holders(file):
            try:
                data = fetch(start, nbytes)
            except (PeerGoneError, PeerRefusedError, OSError, ValueError) as error:
                self._pass_over(file, index, where, str(error))
                continue
            if len(data) == nbytes and block_hash(data) == entry.blocks[index]:
                self.read_bytes_by_kind[kind] += nbytes
                return data
            self._pass_over(file, index, where, "does not have its hash")
        raise PartsLostError(f"block {index} of {file} is nowhere to be had; {'; '.join(self.passed_over[-4:])}")

    def _holders(self, file: str) -> list[_Holder]:
        """(kind, name, fetch(offset, nbytes)) of everybody who may have the file, nearest first."""
        place = self._places[file]
        found: list[_Holder] = []
        if self._node in place.nodes:
            found.append(("local", f"node {self._node}", partial(self._local, file, place.key)))
        peers = [peer for peer in place.nodes if peer != self._node]
        found += [("peer", f"node {peer}", partial(self._remote, peer, place.key)) for peer in peers]
        if self._storage is not None:
            found.append(("storage", "storage", partial(self._storage.read, file)))
        return found

    def _local(self, file: str, key: PartKey, offset: int, nbytes: int) -> memoryview:
        if file not in self._maps:
            path = self._locate(key)
            self._maps[file] = map_readonly(path) if path else None
        mapped = self._maps[file]
        if mapped is None:
            raise ValueError("not held here any more")
        return mapped[offset : offset + nbytes]

    def _remote(self, peer: str, key: PartKey, offset: int, nbytes: int) -> memoryview:
        fields = {"key": wire.dump(key).decode(), "offset": offset, "nbytes": nbytes}
        return self._transport.call(peer, "read", fields).payload

    def _entry(self, file: str) -> Stored:
        if file not in self._entries or file not in self._places:
            raise ValueError(f"{file} is not part of this snapshot")
        return self._entries[file]

    def _pass_over(self, file: str, index: int, where: str, why: str) -> None:
        self.passed_over.append(f"{where}: block {index} of {file} {why}")
        _log.warning("block passed over", file=file, block=index, holder=where, why=why)


def map_readonly(path: str) -> memoryview:
    """A file's bytes as memory, without a copy; privately writable, because torch asks for that, never written."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(fd)
