"""Endpoints that hold leases: they come down to what lending leaves them, and take what is theirs before anybody.

How many devices an endpoint is to have is the lending policy's decision; here it is carried out. What it misses and
nobody has let go of yet is the pool's headroom, for which running jobs give way (`headroom.call_back`).
"""

from __future__ import annotations

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.decisions import ChangeCause
from orchestrator.policy.queueing.forced import Forced, release, take_seats
from orchestrator.policy.queueing.ground import Ground
from orchestrator.policy.queueing.seating import seat_more


def settle_endpoints(board: Board, forced: Forced) -> None:
    """Give every endpoint the devices that it is owed, as far as they are free, and take from it what it lends."""
    for ground in board.grounds.values():
        left = ground.pool.headroom
        for holder, devices in sorted(ground.pool.owed):
            sitting = board.sittings.get(holder)
            if sitting is not None and ground.pool.in_sight and holder not in forced.evictions:
                left -= _settle(board, ground, sitting, devices, forced, left)


def is_owed(board: Board, sitting: Sitting) -> bool:
    """Whether lending says how much an endpoint holds; then it does not grow by itself."""
    pools = (board.grounds[name].pool for name in sitting.seats)
    return any(sitting.job.id == holder for pool in pools for holder, _ in pool.owed)


def _settle(board: Board, ground: Ground, sitting: Sitting, owed: int, forced: Forced, most: int) -> int:
    """Bring one endpoint to what it is owed; return the devices that it took."""
    job = sitting.job
    goal = max(job.sizes[0], min(job.sizes[-1], owed // job.devices_per_worker))
    if sitting.workers > goal:
        _lend(board, ground, sitting, sitting.workers - goal, forced)
        return 0
    return _take(board, ground, sitting, min(goal - sitting.workers, most // job.devices_per_worker), forced)


def _lend(board: Board, ground: Ground, sitting: Sitting, workers: int, forced: Forced) -> None:
    """Let replicas go: their devices drain, and whoever is given them later has them.

    Nodes with the fewest go first, as Ray Serve chooses replicas (`DeploymentScheduler._get_replicas_to_stop`).
    """
    until_s = board.snapshot.now_s + board.snapshot.rules.drain_grace_s
    left = workers * sitting.job.devices_per_worker
    seats = sitting.seats.get(ground.pool.name, {})
    for at, devices in sorted(seats.items(), key=lambda one: (one[1], -one[0])):
        part = min(left, devices)
        if part:
            release(board, sitting, ground.pool.name, at, part, until_s)
            left -= part
    forced.moves.setdefault(sitting.job.id, (ChangeCause.LENT, until_s))


def _take(board: Board, ground: Ground, sitting: Sitting, workers: int, forced: Forced) -> int:
    """Take replicas' devices of those that are free and kept for it: all that are missing, or as many as there are."""
    job, pool = sitting.job, ground.pool
    for more in range(min(workers, int(ground.free.sum()) // job.devices_per_worker), 0, -1):
        taken = seat_more(board, job, ground, ground.free, sorted(sitting.seats.get(pool.name, {})), more)
        if taken is not None:
            devices = more * job.devices_per_worker
            take_seats(board, sitting, pool.name, taken)
            board.now.charge(job.queue, job.tenant, pool, devices)
            ground.total_free += devices  # they were kept free for it
            forced.moves.setdefault(job.id, (ChangeCause.RETURNED, board.snapshot.now_s))
            return devices
    return 0
