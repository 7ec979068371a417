"""Where a loading rank reads parts from: storage, a keeper's shared memory, or a foreign checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jobs.train.state.errors import CorruptStateError


class ShardSource(Protocol):
    """Reads byte ranges of parts; every Storage is one."""

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        """Bytes [offset, offset + nbytes) of a part; without a copy where possible.

        Raises: CorruptStateError if the part is missing or too short.
        """
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that can begin to fetch bytes before they are asked for."""

    def will_need(self, file: str, offset: int, nbytes: int) -> None:
        """Bytes [offset, offset + nbytes) will be read soon; never fails."""
        ...


class MemorySource:
    """Parts that are in memory already, by file name."""

    def __init__(self, parts: Mapping[str, memoryview]) -> None:
        self._parts = parts

    def read(self, file: str, offset: int, nbytes: int) -> memoryview:
        part = self._parts.get(file)
        if part is None or offset + nbytes > len(part):
            raise CorruptStateError("is not in memory or too short", where=file)
        return part[offset : offset + nbytes]
