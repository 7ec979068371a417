"""How many nodes more a pool needs for what waits, and which of its nodes nobody needs: for pools that can be sized.

The answer comes from the decision itself: the same snapshot with all the nodes that could come is decided on, too, and
whoever gets more there than in the real one is what nodes are needed for. So quota, order, budgets, windows and
whether growing pays count as they will when the nodes have come. Refuses to know how nodes are asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.policy.queueing.decisions import Decisions, Resize
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.policy.queueing.values import LeaseState, Snapshot

MOST_IMAGINED = 4096
"""Nodes imagined at once; a pool that could grow further is asked again when these have come."""

Added = dict[str, Counter[tuple[str, str]]]
"""Devices newly given, by job and by (pool, node)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`nodes` more could come to a pool, each with so many devices, below `place`."""

    nodes: int
    devices: int
    place: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """`more` nodes are needed beside those that are there; `spare` ones could go: nobody sits there, or is to sit."""

    more: int = 0
    spare: tuple[str, ...] = ()


def grown(snapshot: Snapshot, rooms: Mapping[str, Room]) -> Snapshot:
    """The snapshot as if every node that could come had come."""
    return replace(snapshot, pools=tuple(_grown(pool, rooms.get(pool.name)) for pool in snapshot.pools))


def needs(snapshot: Snapshot, real: Decisions, larger: Decisions, rooms: Mapping[str, Room]) -> dict[str, Need]:
    """What each pool with room needs; `larger` is the decision on `grown(snapshot, rooms)`."""
    now, then = _added(snapshot, real), _added(snapshot, larger)
    wants = {job: more for job, more in then.items() if more.total() > now.get(job, Counter()).total()}
    pools = {pool.name: pool for pool in snapshot.pools}
    return {name: _need(snapshot, pools[name], room, now, wants) for name, room in rooms.items() if name in pools}


def _grown(pool: Pool, room: Room | None) -> Pool:
    if room is None:
        return pool
    count = min(room.nodes, MOST_IMAGINED)
    more = (Node(name=f"{_imagined(pool.name)}{at:05d}", devices=room.devices, place=room.place) for at in range(count))
    return replace(pool, nodes=(*pool.nodes, *more))


def _imagined(pool: str) -> str:
    """How names of nodes begin that are not there; sorts behind Ray's and Kubernetes' names."""
    return f"~{pool}~"


def _need(snapshot: Snapshot, pool: Pool, room: Room, now: Added, wants: Added) -> Need:
    taken = _taken(snapshot, pool.name, now)
    free = {node.name: node.devices - taken[node.name] for node in pool.nodes if node.state is NodeState.OK}
    left = sum(max(0, devices) for devices in free.values()) - pool.headroom
    demand = sum(max(0, _in(more, pool) - _in(now.get(job, Counter()), pool)) for job, more in wants.items())
    # A gang may need whole nodes where free devices are strewn over many.
    imagined = sum(_in(more, pool, _imagined(pool.name)) for more in wants.values())
    more = min(room.nodes, math.ceil(max(imagined, demand - left, 0) / room.devices))
    return Need(more=more, spare=() if more else _spare(pool, taken, left))


def _in(added: Counter[tuple[str, str]], pool: Pool, prefix: str = "") -> int:
    return sum(devices for (where, node), devices in added.items() if where == pool.name and node.startswith(prefix))


def _spare(pool: Pool, taken: Counter[str], left: int) -> tuple[str, ...]:
    """Empty nodes that take new work, as long as what endpoints need stays free."""
    found = []
    for node in sorted(pool.nodes, key=lambda one: one.name):
        if node.state is NodeState.OK and not taken[node.name] and node.devices <= left:
            found.append(node.name)
            left -= node.devices
    return tuple(found)


def _taken(snapshot: Snapshot, pool: str, now: Added) -> Counter[str]:
    """Devices by node that somebody holds, is giving back, or is given now."""
    taken: Counter[str] = Counter()
    for lease in snapshot.leases:
        for node, devices in lease.nodes if lease.pool == pool else ():
            taken[node] += devices
    for more in now.values():
        for (where, node), devices in more.items():
            taken[node] += devices if where == pool else 0
    return taken


def _added(snapshot: Snapshot, decisions: Decisions) -> Added:
    """What a decision gives beyond what each job holds already."""
    devices = {job.id: job.devices_per_worker for job in snapshot.waiting}
    devices |= {one.job.id: one.job.devices_per_worker for one in snapshot.running}
    held: Added = {}
    for lease in snapshot.leases:
        if lease.state is LeaseState.HELD:
            for node, count in lease.nodes:
                held.setdefault(lease.holder, Counter())[lease.pool, node] += count
    placed = [(one.job, one.placement) for one in decisions.starts]
    placed += [(one.job, one.placement) for one in decisions.changes if isinstance(one, Resize)]
    added: Added = {}
    for job, placement in placed:
        seats = Counter[tuple[str, str]]()
        for one in placement:
            seats[one.pool, one.node] += one.workers * devices[job]
        added[job] = seats - held.get(job, Counter())
    return added
