"""Which rank sits where: ranks follow position in the tree of places, so survivors of a resize keep their neighbours.

Collectives talk mostly between neighbouring ranks; what is near in rank should be near in the network, before and
after every resize.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Place = tuple[str, ...]
"""A node's path in the tree of places, widest place first; () where nobody has named one."""


def rank_order(seats: Mapping[str, int], place_of: Mapping[str, Place]) -> tuple[str, ...]:
    """The node of every worker, rank 0 first. `seats`: workers on each node; `place_of`: the places that are known.

    Holds: workers of one place are consecutive at every level; nodes that are in two groups come in the same order in
    both, and two that were next to each other still are unless a newcomer stands between them.
    """
    nodes = sorted(seats, key=lambda node: (place_of.get(node, ()), node))
    return tuple(node for node in nodes for _ in range(seats[node]))


def shared_levels(place: Place, others: Iterable[Place]) -> int:
    """How many levels from the widest on a place shares with the nearest of the others; 0 if with none."""
    return max((_common(place, other) for other in others), default=0)


def _common(left: Place, right: Place) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((level for level, (a, b) in pairs if a != b), min(len(left), len(right)))
