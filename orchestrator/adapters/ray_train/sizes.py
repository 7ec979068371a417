"""How large a run may be right now, and where its workers sit: the job's bounds, the lease, and the room there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.adapters.ray_train.capacity import NodeView, room
from orchestrator.adapters.ray_train.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The job's own limits: ranks, and what each needs."""

    min_workers: int
    max_workers: int
    per_rank: Mapping[str, float]
    ranks_per_worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A world size and the node of every worker, in rank order."""

    world_size: int
    nodes: tuple[str, ...]


class LeaseSizes:
    """As many ranks as the lease says, else as many as fit; never outside the job's bounds."""

    def __init__(
        self, bounds: Bounds, read_lease: Callable[[], Lease], read_nodes: Callable[[], tuple[NodeView, ...]]
    ) -> None:
        self._bounds = bounds
        self._read_lease = read_lease
        self._read_nodes = read_nodes

    def start_size(self, held: Mapping[str, int]) -> Size | str:
        """The size to start at, or the sentence that says why the run has to wait.

        `held`: workers that the run holds on each node now; their room counts as free to it.
        """
        bounds = self._bounds
        per_worker = bounds.ranks_per_worker
        own = {node: workers * per_worker for node, workers in held.items()}
        fits = room(self._read_nodes(), bounds.per_rank, own, per_worker)
        there = sum(fits.values())
        pinned = self._read_lease().workers
        wanted = bounds.max_workers if pinned is None else min(max(pinned, bounds.min_workers), bounds.max_workers)
        least = bounds.min_workers if pinned is None else wanted
        if there < least:
            return f"there is room for {there} workers; {least} are needed"
        world_size = min(wanted, there)
        return Size(world_size=world_size, nodes=place(fits, held, -(-world_size // per_worker), per_worker))


def place(fits: Mapping[str, int], held: Mapping[str, int], num_workers: int, ranks_per_worker: int) -> tuple[str, ...]:
    """The node of each of `num_workers` workers: where the run has workers already, then where there is most room.

    Raises: ValueError if they do not fit.
    """
    order = sorted(fits, key=lambda node: (-min(held.get(node, 0), fits[node] // ranks_per_worker), -fits[node], node))
    seats = {node: min(held.get(node, 0), fits[node] // ranks_per_worker) for node in order}
    missing = num_workers - sum(seats.values())
    for node in order:
        more = min(max(0, missing), fits[node] // ranks_per_worker - seats[node])
        seats[node] += more
        missing -= more
    if missing > 0:
        raise ValueError(f"{num_workers} workers do not fit on {dict(fits)}")
    chosen = [node for node in order for _ in range(seats[node])]
    return tuple(chosen[:num_workers])
