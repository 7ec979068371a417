"""Which nodes, for how many ranks: placement of a world size on the room there is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.policy.ranks import Place, rank_order, shared_levels

NO_PLACES: Mapping[str, Place] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A world size and the node of every worker, in rank order."""

    world_size: int
    nodes: tuple[str, ...]


def size_on(
    fits: Mapping[str, int],
    held: Mapping[str, int],
    world_size: int,
    ranks_per_worker: int,
    places: Mapping[str, Place] = NO_PLACES,
) -> Size:
    """`world_size` ranks placed where the run has workers already, then near those, then where there is most room.

    `fits`: ranks that each node can hold, whole workers only. `held`: workers that the run has on each node. `places`:
    where nodes are, as far as anybody named it; ranks follow it.
    Raises: ValueError if they do not fit.
    """
    seats = {node: min(held.get(node, 0), ranks // ranks_per_worker) for node, ranks in fits.items()}
    here = {places.get(node, ()) for node, workers in seats.items() if workers}
    near = {node: shared_levels(places.get(node, ()), here) for node in fits}
    order = sorted(fits, key=lambda node: (-seats[node], -near[node], -fits[node], node))
    left = -(-world_size // ranks_per_worker)
    chosen = dict.fromkeys(order, 0)
    for limit in (seats, {node: ranks // ranks_per_worker for node, ranks in fits.items()}):
        for node in order:
            more = min(left, limit[node] - chosen[node])
            chosen[node] += more
            left -= more
    if left > 0:
        raise ValueError(f"{world_size} ranks do not fit on {dict(fits)}")
    return Size(world_size=world_size, nodes=rank_order(chosen, places))


def missing_seats(size: Size, held: Mapping[str, int]) -> tuple[str, ...]:
    """Every node of `size` for all its workers, if the run does not hold enough of them yet; else nothing."""
    wanted = {node: size.nodes.count(node) for node in size.nodes}
    return tuple(node for node, count in sorted(wanted.items()) if count > held.get(node, 0) for _ in range(count))
