"""Which nodes, for how many ranks: placement of a world size on the room there is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A world size and the node of every worker, in rank order."""

    world_size: int
    nodes: tuple[str, ...]


def size_on(fits: Mapping[str, int], held: Mapping[str, int], world_size: int, ranks_per_worker: int) -> Size:
    """`world_size` ranks placed where the run has workers already, then where there is most room.

    `fits`: ranks that each node can hold, whole workers only. `held`: workers that the run has on each node.
    Raises: ValueError if they do not fit.
    """
    seats = {node: min(held.get(node, 0), ranks // ranks_per_worker) for node, ranks in fits.items()}
    order = sorted(fits, key=lambda node: (-seats[node], -fits[node], node))
    num_workers = -(-world_size // ranks_per_worker)
    missing = num_workers - sum(seats.values())
    for node in order:
        more = min(max(0, missing), fits[node] // ranks_per_worker - seats[node])
        seats[node] += more
        missing -= more
    if missing > 0:
        raise ValueError(f"{world_size} ranks do not fit on {dict(fits)}")
    chosen = [node for node in order for _ in range(seats[node])]
    return Size(world_size=world_size, nodes=tuple(chosen[:num_workers]))


def missing_seats(size: Size, held: Mapping[str, int]) -> tuple[str, ...]:
    """Every node of `size` for all its workers, if the run does not hold enough of them yet; else nothing."""
    wanted = {node: size.nodes.count(node) for node in size.nodes}
    return tuple(node for node, count in sorted(wanted.items()) if count > held.get(node, 0) for _ in range(count))
