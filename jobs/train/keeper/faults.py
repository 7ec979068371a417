"""Named places at which tests make a keeper fail. In production nothing listens."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Point(enum.StrEnum):
    """Where a crash is interesting: just before or after something becomes visible."""

    ALLOC_CREATED = "alloc.created"  # the segment exists, the rank does not know yet
    SEAL_BEFORE_INDEX = "seal.before_index"  # the part is whole, but nothing says so
    SEAL_HALF_INDEX = "seal.half_index"  # the index entry is written, but not in place
    SEAL_AFTER_INDEX = "seal.after_index"
    DROP_AFTER_INDEX = "drop.after_index"  # no longer listed, its segment not reused yet
    MIRROR_BEFORE_BLOCK = "mirror.before_block"
    MIRROR_AFTER_BLOCK = "mirror.after_block"
    LAND_BLOCK = "land.block"  # a block has arrived at the peer, not verified yet
    LAND_BEFORE_SEAL = "land.before_seal"
    FLUSH_BEFORE_PART = "flush.before_part"
    FLUSH_AFTER_PART = "flush.after_part"
    FLUSH_BEFORE_COMMIT = "flush.before_commit"
    FLUSH_AFTER_COMMIT = "flush.after_commit"


Faults = Callable[[Point], None]


def no_faults(point: Point) -> None:
    """Called at every point; does nothing."""
