"""The law of the books, as a check on every decision: what is given out was there, and nothing is given out twice."""

from __future__ import annotations

from orchestrator.policy.queueing.decisions import Admit, Decisions, Evict, Placement, Resize
from orchestrator.policy.queueing.places import NodeState
from orchestrator.policy.queueing.values import LeaseState, Snapshot

Spot = tuple[str, str]


def breaches(snapshot: Snapshot, decisions: Decisions) -> list[str]:
    """Every way in which decisions would break the books; empty if they keep them.

    Checked: a node never has more devices leased than it has, draining ones included, unless it was so before and
    nothing was added; new seats only on nodes that take new work; every waiting job has one verdict; nobody is
    started below its minimum.
    """
    observed = {(pool.name, node.name): node for pool in snapshot.pools for node in pool.nodes}
    charged: dict[Spot, int] = {}
    for lease in snapshot.leases:
        for node, devices in lease.nodes:
            charged[lease.pool, node] = charged.get((lease.pool, node), 0) + devices
    added = _added(snapshot, decisions)
    found = [
        f"{spot}: {charged.get(spot, 0)} + {devices} devices leased of {observed[spot].devices}"
        for spot, devices in sorted(added.items())
        if charged.get(spot, 0) + devices > observed[spot].devices or observed[spot].state is not NodeState.OK
    ]
    return found + _verdict_breaches(snapshot, decisions)


def _added(snapshot: Snapshot, decisions: Decisions) -> dict[Spot, int]:
    """Devices newly leased, by node; what a job keeps is not new, and what it gives back is charged while it drains."""
    per_worker = {job.id: job.devices_per_worker for job in snapshot.waiting}
    per_worker |= {one.job.id: one.job.devices_per_worker for one in snapshot.running}
    held: dict[tuple[str, str, str], int] = {}
    for lease in snapshot.leases:
        if lease.state is LeaseState.HELD:
            for node, devices in lease.nodes:
                held[lease.holder, lease.pool, node] = held.get((lease.holder, lease.pool, node), 0) + devices
    added: dict[Spot, int] = {}
    for job, placement in _placements(decisions):
        for seats in placement:
            new = seats.workers * per_worker[job] - held.get((job, seats.pool, seats.node), 0)
            if new > 0:
                added[seats.pool, seats.node] = added.get((seats.pool, seats.node), 0) + new
    return added


def _placements(decisions: Decisions) -> list[tuple[str, Placement]]:
    starts = [(one.job, one.placement) for one in decisions.verdicts if isinstance(one, Admit)]
    return starts + [(one.job, one.placement) for one in decisions.changes if isinstance(one, Resize)]


def _verdict_breaches(snapshot: Snapshot, decisions: Decisions) -> list[str]:
    found = []
    answered = sorted(one.job for one in decisions.verdicts)
    if answered != sorted(job.id for job in snapshot.waiting):
        found.append("not every waiting job has exactly one verdict")
    changed = [one.job for one in decisions.changes]
    if len(set(changed)) != len(changed):
        found.append("a running job is changed twice")
    sizes = {job.id: job.sizes for job in snapshot.waiting} | {one.job.id: one.job.sizes for one in snapshot.running}
    for job, placement in _placements(decisions):
        workers = sum(seats.workers for seats in placement)
        if workers not in sizes[job]:
            found.append(f"{job}: {workers} workers are no useful size of {sizes[job]}")
    stopped = {one.job for one in decisions.changes if isinstance(one, Evict)}
    if stopped & {job.id for job in snapshot.waiting}:
        found.append("a waiting job is stopped")
    return found
