"""Which rank sits where: ranks follow position in the tree of places, so survivors of a resize keep their neighbours.

Collectives talk mostly between neighbouring ranks; what is near in rank should be near in the network, before and
after every resize.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.policy.queueing.decisions import Placement


def rank_nodes(placement: Placement, place_of: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The node of every rank, rank 0 first. `place_of`: each node's path, widest place first.

    Holds: ranks of one place are consecutive at every level; nodes that are in two placements of a job come in the
    same order in both, and two that were next to each other still are unless a newcomer stands between them.
    Raises: KeyError for a node whose place nobody knows.
    """
    seats = sorted(placement, key=lambda one: (*place_of[one.node], one.node))
    return tuple(one.node for one in seats for _ in range(one.workers))
