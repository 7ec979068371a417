"""Does a node's keeper fit into shared memory? Asked before training starts, answered with numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.train.keeper.judge import KEPT_COMPLETE
from orchestrator.spec.errors import ExitCode, UserError

# Segments are rounded up to whole huge pages, so that the kernel may back them with such.
GRAIN_BYTES = 2 * 2**20
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A shared-memory file system, in bytes: its size and what is free of it."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What a keeper will need at most, in bytes: for the node's own ranks and for parts mirrored to it."""

    own_bytes: int
    mirrored_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.own_bytes + self.mirrored_bytes


def space(folder: Path) -> Space:
    """The file system that holds `folder`. Raises: OSError."""
    found = os.statvfs(folder)
    return Space(total_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize)


def rounded(nbytes: int, grain_bytes: int = GRAIN_BYTES) -> int:
    """Size of the segment for a part of `nbytes`."""
    return max(1, -(-nbytes // grain_bytes)) * grain_bytes


def plan_memory(
    own_parts: Iterable[int],
    mirrored_parts: Iterable[int],
    *,
    node: str,
    limit_bytes: int,
    space: Space,
    held_bytes: int = 0,
    flushes: bool = False,
) -> MemoryPlan:
    """What the keeper of `node` needs for parts of these sizes (bytes), checked against its limit and the machine.

    Each part has a copy in two complete snapshots and one in the making; with `flushes`, own parts have one more, since
    storage may take longer than the next two snapshots. `held_bytes`: what this keeper holds already and will reuse.

    Raises: UserError (never) with the numbers if it cannot fit.
    """
    own = sum(map(rounded, own_parts)) * (KEPT_COMPLETE + 1 + flushes)
    mirrored = sum(map(rounded, mirrored_parts)) * (KEPT_COMPLETE + 1)
    plan = MemoryPlan(own_bytes=own, mirrored_bytes=mirrored)
    needs = (
        f"the keeper of node {node} needs {_gib(plan.total_bytes)} of shared memory for snapshots "
        f"({_gib(own)} for its own ranks, {_gib(mirrored)} mirrored from others)"
    )
    if plan.total_bytes > limit_bytes:
        raise _refused(f"{needs}, but its limit is {_gib(limit_bytes)}")
    if plan.total_bytes > space.free_bytes + held_bytes:
        used = space.total_bytes - space.free_bytes - held_bytes
        raise _refused(f"{needs}, but /dev/shm has {_gib(space.total_bytes)}, of which others use {_gib(used)}")
    return plan


def _refused(problem: str) -> UserError:
    return UserError(
        problem,
        code=ExitCode.NEVER,
        next_step="Run on more nodes, raise checkpoint.keeper_memory (and the size of /dev/shm), or lower "
        "checkpoint.mirrors",
    )


def _gib(nbytes: int) -> str:
    return f"{nbytes / _GIB:.2f} GiB"
