"""Devices that endpoints want back: when more must be kept free than is free or on its way, running jobs give way.

Shrinking comes before stopping, and who loses least comes first, as in a preemption; nobody's minimum run time stands
against it, because whoever runs on lent devices was told so. Which devices are lent and when they are called back is
the lending policy's decision; here it is carried out. In an emergency the deadline is the shortest that is safe: twice
what the job's stops have taken, which ends in a snapshot in memory; storage waits until the devices are gone. An
orderly recall kills nobody who is only as slow as usual.
"""

from __future__ import annotations

from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.decisions import ChangeCause, Evict
from orchestrator.policy.queueing.forced import Forced, evict
from orchestrator.policy.queueing.ground import Ground
from orchestrator.policy.queueing.victims import cost

EMERGENCY_LEAST_S = 5.0
"""No stop is asked to be quicker: ranks agree on a step, make it, and copy their state."""
EMERGENCY_UNKNOWN_S = 30.0
"""For a job of which no stop was seen yet."""
SLACK = 1.25
"""A recall waits this much longer than 95 of 100 of the job's stops took, where that is more than the usual grace."""


def call_back(board: Board, forced: Forced) -> None:
    """Let jobs give up what pools are short of for their endpoints; what drains already counts as given."""
    for name in sorted(board.grounds):
        ground = board.grounds[name]
        if ground.pool.in_sight and _short(ground) > 0:
            _shrink(board, ground, forced)
            _stop(board, ground, forced)


def _short(ground: Ground) -> int:
    """Devices that are missing from the headroom once every drain is over."""
    return -ground.total_free - int(ground.draining.sum())


def _there(board: Board, ground: Ground) -> list[Sitting]:
    """Who sits where devices count for the headroom, and was not stopped; least loss first."""
    sittings = (one for one in board.sittings.values() if not one.changed and not one.job.serves)
    found = (one for one in sittings if _seats(ground, one))
    return sorted(found, key=cost)


def _seats(ground: Ground, sitting: Sitting) -> dict[int, int]:
    """Its devices on nodes that take new work; those of held and leaving nodes are nobody's headroom."""
    return {at: count for at, count in sitting.seats.get(ground.pool.name, {}).items() if ground.ok[at]}


def deadline(board: Board, ground: Ground, sitting: Sitting) -> tuple[ChangeCause, float]:
    """Why a job gives devices back, and until when."""
    now_s, grace_s, tempo = board.snapshot.now_s, board.snapshot.rules.drain_grace_s, sitting.running.tempo
    if not ground.pool.urgent:
        # Its endpoint's lead is as much longer (`lending.from_spec`): to kill it would only lose work.
        slow_s = 0.0 if tempo is None or tempo.slow_stop_s is None else SLACK * tempo.slow_stop_s
        return ChangeCause.RECALL, now_s + max(grace_s, slow_s)
    safe_s = EMERGENCY_UNKNOWN_S if tempo is None else max(EMERGENCY_LEAST_S, 2 * tempo.stop_s)
    return ChangeCause.EMERGENCY, now_s + min(grace_s, safe_s)


def _shrink(board: Board, ground: Ground, forced: Forced) -> None:
    for sitting in _there(board, ground):
        cause, until_s = deadline(board, ground, sitting)
        if _give(board, ground, sitting, _short(ground), until_s):
            forced.moves[sitting.job.id] = (cause, until_s)


def _give(board: Board, ground: Ground, sitting: Sitting, short: int, until_s: float) -> int:
    """Go down to the largest useful size that gives what is short, or as far as it can; return devices given."""
    job, seats = sitting.job, _seats(ground, sitting)
    least = sitting.workers - sum(seats.values()) // job.devices_per_worker
    smaller = [size for size in job.sizes if least <= size < sitting.workers]
    enough = [size for size in smaller if (sitting.workers - size) * job.devices_per_worker >= short]
    if short <= 0 or not smaller:
        return 0
    goal = max(enough) if enough else min(smaller)
    left = given = (sitting.workers - goal) * job.devices_per_worker
    # The last ranks go: survivors keep their neighbours.
    for at in sorted(seats, reverse=True):
        part = min(left, seats[at])
        if part:
            _release(board, ground, sitting, at, part, until_s)
            left -= part
    return given


def _release(board: Board, ground: Ground, sitting: Sitting, at: int, devices: int, until_s: float) -> None:
    nodes = sitting.seats[ground.pool.name]
    nodes[at] -= devices
    if not nodes[at]:
        del nodes[at]
    board.later.charge(sitting.job.queue, sitting.job.tenant, ground.pool, -devices)
    ground.drain(at, devices, until_s)


def _stop(board: Board, ground: Ground, forced: Forced) -> None:
    """What shrinking does not give is given by stopping."""
    for sitting in _there(board, ground):
        if _short(ground) <= 0:
            return
        cause, until_s = deadline(board, ground, sitting)
        detail = f"endpoints need {_short(ground)} more devices of pool {ground.pool.name!r}"
        evict(board, sitting, until_s)
        forced.moves.pop(sitting.job.id, None)
        forced.evictions[sitting.job.id] = Evict(job=sitting.job.id, cause=cause, detail=detail, drain_until_s=until_s)
