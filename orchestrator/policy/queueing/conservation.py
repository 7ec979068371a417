"""The law of the books, as a check on every decision: what is given out was there, and nothing is given out twice."""

from __future__ import annotations

from operator import attrgetter

from orchestrator.policy.queueing.decisions import Decisions, Evict, Placement, Resize, workers_in
from orchestrator.policy.queueing.places import NodeState
from orchestrator.policy.queueing.values import Job, LeaseState, Snapshot

Spot = tuple[str, str]
Placements = list[tuple[str, Placement]]
_ID = attrgetter("id")


def breaches(snapshot: Snapshot, decisions: Decisions) -> list[str]:
    """Every way in which decisions would break the books; empty if they keep them.

    Checked: a node never has more devices leased than it has, draining ones included, unless it was so before and
    nothing was added; new seats only on nodes that take new work; every waiting job has one verdict; nobody is
    started below its minimum.
    """
    placements, waiting = _placements(decisions), dict(zip(map(_ID, snapshot.waiting), snapshot.waiting, strict=True))
    placed = _placed(snapshot, placements, waiting)
    added = _added(snapshot, placements, placed)
    observed = {
        (pool.name, node.name): node
        for pool in snapshot.pools
        for node in pool.nodes
        if (pool.name, node.name) in added
    }
    charged = dict.fromkeys(added, 0)
    for lease in snapshot.leases:
        for name, devices in lease.nodes:
            if (lease.pool, name) in added:
                charged[lease.pool, name] += devices
    found = [
        f"{spot}: {charged[spot]} + {devices} devices leased of {observed[spot].devices}"
        for spot, devices in sorted(added.items())
        if charged[spot] + devices > observed[spot].devices or observed[spot].state is not NodeState.OK
    ]
    found += [
        f"{job}: {workers} workers are no useful size of {placed[job].sizes}"
        for job, placement in placements
        if not _useful(placed[job], workers := workers_in(placement))
    ]
    return found + _verdict_breaches(waiting, decisions)


def _useful(job: Job, workers: int) -> bool:
    """An endpoint that lost a node stays with less than its minimum."""
    return workers in job.sizes or (job.serves and 0 < workers < job.sizes[0])


def _added(snapshot: Snapshot, placements: Placements, placed: dict[str, Job]) -> dict[Spot, int]:
    """Devices newly leased, by node; what a job keeps is not new, and what it gives back is charged while it drains."""
    held: dict[tuple[str, str, str], int] = {}
    for lease in snapshot.leases:
        if lease.state is LeaseState.HELD and lease.holder in placed:
            for node, devices in lease.nodes:
                held[lease.holder, lease.pool, node] = held.get((lease.holder, lease.pool, node), 0) + devices
    added: dict[Spot, int] = {}
    for job, placement in placements:
        for seats in placement:
            new = seats.workers * placed[job].devices_per_worker - held.get((job, seats.pool, seats.node), 0)
            if new > 0:
                added[seats.pool, seats.node] = added.get((seats.pool, seats.node), 0) + new
    return added


def _placed(snapshot: Snapshot, placements: Placements, waiting: dict[str, Job]) -> dict[str, Job]:
    """The jobs that are given seats, by id."""
    names = {job for job, _ in placements}
    found = {name: waiting[name] for name in names if name in waiting}
    return found | {one.job.id: one.job for one in snapshot.running if one.job.id in names}


def _placements(decisions: Decisions) -> Placements:
    starts = [(one.job, one.placement) for one in decisions.starts]
    return starts + [(one.job, one.placement) for one in decisions.changes if isinstance(one, Resize)]


def _verdict_breaches(waiting: dict[str, Job], decisions: Decisions) -> list[str]:
    found = []
    # As many as there are jobs, none twice and each for one of them: one for every job.
    answered = [one.job for one in decisions.starts]
    for group in decisions.waits:
        answered += group.jobs
    if len(answered) != len(waiting) or set(answered) != waiting.keys():
        found.append("not every waiting job has exactly one verdict")
    changed = [one.job for one in decisions.changes]
    if len(set(changed)) != len(changed):
        found.append("a running job is changed twice")
    stopped = {one.job for one in decisions.changes if isinstance(one, Evict)}
    if stopped & waiting.keys():
        found.append("a waiting job is stopped")
    return found
