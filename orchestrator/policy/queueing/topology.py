"""Where workers sit: a tree of places of any depth, and how far apart one job's workers may be.

A job goes into the smallest place that holds it, and of several such places into the fullest: large holes stay whole
for large jobs. Shapes: N nodes of one pool, sorted by place (`Ground`). Source: the search for the lowest domain that
fits is Kueue's topology-aware scheduling; islands for modular jobs are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.parties import Reach, Rules
from orchestrator.policy.queueing.places import Level
from orchestrator.policy.queueing.values import Coupling


def common_depth(levels: Sequence[Level], reach: Reach) -> int:
    """How many places of their paths workers must share so that no link between them is slower than `reach`.

    Two workers that share d places cross the links of level d and of all below it.
    """
    too_slow = [depth for depth, level in enumerate(levels) if not _within(level, reach)]
    return too_slow[-1] + 1 if too_slow else 0


def _within(level: Level, reach: Reach) -> bool:
    fast = level.bandwidth_bytes_per_s is None or level.bandwidth_bytes_per_s >= reach.min_bandwidth_bytes_per_s
    return fast and (level.latency_s is None or level.latency_s <= reach.max_latency_s)


def reach_depths(levels: Sequence[Level], rules: Rules) -> dict[Coupling, int]:
    """Places that the workers of a job must share, by coupling."""
    return {
        Coupling.TIGHT: common_depth(levels, rules.tight),
        Coupling.MODULAR: common_depth(levels, rules.modular),
        Coupling.LOOSE: 0,
    }


def place(ground: Ground, slots_N: Devices, workers: int, *, shared: int) -> Taken | None:
    """Nodes for `workers`, all within one place of depth `shared` or deeper; None if no such place holds them.

    `slots_N`: workers that each node takes. Holds: never more than a node's slots, exactly `workers` in all.
    """
    for depth in range(ground.depth, min(shared, ground.depth) - 1, -1):
        chosen = _fullest(_sums(ground, slots_N, depth), workers)
        if chosen is not None:
            begin, end = _bounds(ground, depth, chosen)
            return _fill(ground, slots_N, workers, begin, end, depth)
    return None


def place_islands(
    ground: Ground, slots_N: Devices, workers: int, *, shared: int, island: int, least: int
) -> Taken | None:
    """Like `place`, with at least `least` workers in every place of depth `island` that is used.

    A job that fits one island gets one. Otherwise places too small for an island are left to others, and an island
    that would come out short is filled up from the largest one.
    """
    whole = place(ground, slots_N, workers, shared=island)
    if whole is not None or workers < least:
        return whole
    depth = min(island, ground.depth)
    sums = _sums(ground, slots_N, depth)
    small = np.repeat(sums < least, np.diff(np.append(ground.starts[depth], len(slots_N))))
    eligible_N = np.where(small, 0, slots_N)
    for outer in range(depth - 1, min(shared, ground.depth) - 1, -1):
        chosen = _fullest(_sums(ground, eligible_N, outer), workers)
        if chosen is not None:
            return _islands_in(ground, eligible_N, workers, _bounds(ground, outer, chosen), depth, least)
    return None


def extend(ground: Ground, slots_N: Devices, held: Sequence[int], extra: int, *, shared: int) -> Taken | None:
    """Nodes for `extra` workers more of a job that sits on `held`: as near to it as possible; it does not move."""
    first, last = min(held), max(held)
    for depth in range(ground.depth, min(shared, ground.depth) - 1, -1):
        at = int(np.searchsorted(ground.starts[depth], first, side="right")) - 1
        begin, end = _bounds(ground, depth, at)
        if last < end and int(slots_N[begin:end].sum()) >= extra:
            return _fill(ground, slots_N, extra, begin, end, depth)
    return None


def _sums(ground: Ground, slots_N: Devices, depth: int) -> Devices:
    if depth == ground.depth:
        return slots_N
    return np.add.reduceat(slots_N, ground.starts[depth])


def _fullest(sums: Devices, workers: int) -> int | None:
    """The place with the fewest free slots that still fits, the first of equals; None if none does."""
    if not len(sums):
        return None
    spare = np.where(sums >= workers, sums, np.iinfo(np.int64).max)
    at = int(spare.argmin())
    return at if sums[at] >= workers else None


def _bounds(ground: Ground, depth: int, at: int) -> tuple[int, int]:
    starts = ground.starts[depth]
    return int(starts[at]), int(starts[at + 1]) if at + 1 < len(starts) else len(ground.names)


def _fill(ground: Ground, slots_N: Devices, workers: int, begin: int, end: int, depth: int) -> Taken:
    """Fill one place: whole parts of it, largest first, until the rest fits one part, then the fullest such part."""
    if depth == ground.depth:
        return ((begin, workers),)
    children, sums = _children(ground, slots_N, begin, end, depth + 1)
    taken: list[tuple[int, int]] = []
    rest = workers
    order = np.argsort(-sums, kind="stable")
    for rank, child in enumerate(order.tolist()):
        remaining = order[rank:]
        if int(sums[child]) >= rest:
            fitting = sums[remaining] >= rest
            child = int(remaining[fitting][np.argmin(sums[remaining][fitting])])
        part = min(rest, int(sums[child]))
        begin, end = children[child]
        taken += _fill(ground, slots_N, part, begin, end, depth + 1) if part else ()
        rest -= part
        if not rest:
            break
    assert not rest, "the place was chosen because it fits"
    return tuple(sorted(taken))


def _children(
    ground: Ground, slots_N: Devices, begin: int, end: int, depth: int
) -> tuple[list[tuple[int, int]], Devices]:
    starts: NDArray[np.int64] = ground.starts[depth]
    inner = starts[(starts >= begin) & (starts < end)]
    sums = np.add.reduceat(slots_N[begin:end], inner - begin)
    return list(zip(inner.tolist(), [*inner[1:].tolist(), end], strict=True)), sums


def _islands_in(
    ground: Ground, slots_N: Devices, workers: int, bounds: tuple[int, int], depth: int, least: int
) -> Taken | None:
    children, sums = _children(ground, slots_N, *bounds, depth)
    parts: list[tuple[int, int]] = []
    rest = workers
    for child in np.argsort(-sums, kind="stable").tolist():
        part = min(rest, int(sums[child]))
        if 0 < part < least:
            rest, part = _top_up(parts, rest, part, least)
        if part:
            parts.append((child, part))
            rest -= part
        if not rest:
            break
    if rest:
        return None
    filled = [_fill(ground, slots_N, part, children[child][0], children[child][1], depth) for child, part in parts]
    return tuple(sorted(one for taken in filled for one in taken))


def _top_up(parts: list[tuple[int, int]], rest: int, part: int, least: int) -> tuple[int, int]:
    """Take workers back from the islands so far, so that the last one reaches `least` and none falls below it."""
    for at, (child, size) in enumerate(parts):
        moved = min(size - least, least - part)
        parts[at] = (child, size - moved)
        rest, part = rest + moved, part + moved
    return (rest, part) if part >= least else (rest, 0)
