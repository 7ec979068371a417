"""What a keeper's folder says about itself after a crash: one index entry beside every sealed segment.

An entry is written whole or not at all (rename) and goes before its segment is used again, so a segment with an entry
holds exactly what the entry says, block hashes prove it, and a segment without one holds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import structlog
import xxhash
from pydantic import ConfigDict

from jobs.train import wire
from jobs.train.keeper.faults import Faults, Point, no_faults
from jobs.train.keeper.segments import SUFFIX
from jobs.train.keeper.values import PartMeta
from jobs.train.wire import WIRE, WireError

_ENTRY_SUFFIX = ".json"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """The part that a segment holds, and the size of the blocks that its hashes cover."""

    __pydantic_config__: ClassVar[ConfigDict] = WIRE

    part: PartMeta
    block_bytes: int


def entry_path(segment: Path) -> Path:
    """Where the index entry of a segment lies."""
    return segment.with_suffix(_ENTRY_SUFFIX)


def write_entry(segment: Path, entry: IndexEntry, faults: Faults = no_faults) -> None:
    """Make the part visible to the next keeper. Raises: OSError, with nothing visible."""
    target = entry_path(segment)
    draft = target.with_suffix(".draft")
    draft.write_bytes(wire.dump(entry))
    faults(Point.SEAL_HALF_INDEX)
    os.replace(draft, target)


def remove_entry(segment: Path) -> None:
    """The segment holds nothing from here on."""
    entry_path(segment).unlink(missing_ok=True)


def sealed_segments(folder: Path, block_bytes: int) -> Iterator[tuple[Path, PartMeta]]:
    """The sealed segments of a folder, every block hash verified; everything else in it is removed.

    Reads all of them (10 GB/s and core): the price of never passing on a damaged part.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        part = _verified(path, block_bytes)
        if part is not None:
            yield path, part
        else:
            remove_entry(path)
            path.unlink()
    for path in [*folder.glob("*.draft"), *folder.glob(f"*{_ENTRY_SUFFIX}")]:
        if path.suffix == ".draft" or not path.with_suffix(SUFFIX).exists():
            path.unlink()


def _verified(path: Path, block_bytes: int) -> PartMeta | None:
    """The part in a segment; None if there is none, or not the one that its entry promises."""
    try:
        entry = wire.load(IndexEntry, entry_path(path).read_bytes())
    except FileNotFoundError:
        return None
    except WireError as error:
        _log.warning("index entry unreadable, segment dropped", segment=str(path), error=str(error))
        return None
    if entry.block_bytes != block_bytes:
        _log.warning("segment has other block sizes, dropped", segment=str(path), block_bytes=entry.block_bytes)
        return None
    bad = damaged_blocks(path, entry.part, block_bytes)
    if bad:
        _log.warning("segment damaged, dropped", segment=str(path), blocks=bad[:8])
        return None
    return entry.part


def damaged_blocks(path: Path, part: PartMeta, block_bytes: int) -> list[int]:
    """Blocks of a segment file that do not have the hash that the part's entry promises."""
    bad = []
    with path.open("rb") as file:
        for index, promised in enumerate(part.blocks):
            want = min(block_bytes, part.nbytes - index * block_bytes)
            data = file.read(want)
            if len(data) != want or block_hash(data) != promised:
                bad.append(index)
    return bad


def block_hash(data: bytes | memoryview) -> str:
    """xxh3-128 in hexadecimal: 10 GB/s and core, no defence against forgers. Releases the GIL for large blocks."""
    return xxhash.xxh3_128_hexdigest(data)
