"""How many workers a run could hold right now: nodes that are alive and not draining, less what others hold there,
plus what the run holds itself.

Ray Train counts node totals, draining nodes and other people's actors included; acting on that kills a healthy group
for room that is not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._private.state import state as ray_state

from orchestrator.adapters.ray_train.domains import place_of
from orchestrator.policy.ranks import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as the cluster reports it: `free` is what nobody holds of `total`; `drain_deadline_s` is a Unix time, 0
    for a drain without one, None when the node is not draining; `place`: its path, () if its labels name none."""

    node_id: str
    free: Mapping[str, float]
    total: Mapping[str, float]
    drain_deadline_s: float | None = None
    place: Place = ()


def read_nodes() -> tuple[NodeView, ...]:
    """Nodes that are alive, ordered by id. Ray's view of free resources may lag by some 100 ms."""
    draining = ray_state.get_draining_nodes()
    free = ray_state.available_resources_per_node()
    return tuple(
        NodeView(
            node_id=node["NodeID"],
            free=free.get(node["NodeID"], {}),
            total=node["Resources"],
            drain_deadline_s=draining[node["NodeID"]] / 1000 if node["NodeID"] in draining else None,
            place=place_of(node.get("Labels") or {}),
        )
        for node in sorted(ray.nodes(), key=lambda n: n["NodeID"])
        if node["Alive"]
    )


def room(
    nodes: tuple[NodeView, ...], per_rank: Mapping[str, float], own: Mapping[str, int], ranks_per_worker: int
) -> dict[str, int]:
    """Ranks that fit on each node that stays, in whole workers. Pure.

    `own`: ranks that this run holds on each node now; their resources count as free to us.
    """
    fits = {}
    for node in nodes:
        if node.drain_deadline_s is None:
            fits[node.node_id] = _ranks_that_fit(node.free, per_rank, own.get(node.node_id, 0), ranks_per_worker)
    return {node_id: ranks for node_id, ranks in fits.items() if ranks}


def _ranks_that_fit(free: Mapping[str, float], per_rank: Mapping[str, float], own: int, ranks_per_worker: int) -> int:
    needs = {name: amount for name, amount in per_rank.items() if amount > 0}
    if not needs:
        raise ValueError("a worker that needs no resource fits everywhere without end")
    # Ray counts in ten-thousandths; the small amount keeps 0.30000000000000004 / 0.1 at 3.
    ranks = own + min(math.floor(free.get(name, 0.0) / amount + 1e-4) for name, amount in needs.items())
    return ranks - ranks % ranks_per_worker
