"""What must change whoever waits: spent budgets, closed windows, nodes that left or leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from orchestrator.policy.lending.session import SessionPlan, plan_session
from orchestrator.policy.queueing.board import Board, Sitting
from orchestrator.policy.queueing.decisions import ChangeCause, Evict
from orchestrator.policy.queueing.gates import closes_at_s
from orchestrator.policy.queueing.ground import Ground
from orchestrator.policy.queueing.money import spent_up
from orchestrator.policy.queueing.places import NodeState
from orchestrator.policy.queueing.seating import seat_more
from orchestrator.policy.queueing.values import UNLIMITED, Lease, LeaseState
from orchestrator.policy.windows import current

_ID = attrgetter("running.job.id")


@dataclass(slots=True)
class Forced:
    """Evictions that nothing can avert, and why and until when the other jobs were moved."""

    evictions: dict[str, Evict] = field(default_factory=dict)
    moves: dict[str, tuple[ChangeCause, float]] = field(default_factory=dict)


def force(board: Board) -> Forced:
    """Change the sittings that cannot stay as they are; all others are left alone."""
    forced, everybody = Forced(), sorted(board.sittings.values(), key=_ID)
    for sitting in everybody:
        job = sitting.running.job
        found = None if job.window is None and job.spending is UNLIMITED else _over(board, sitting)
        if found is not None:
            evict(board, sitting, found.drain_until_s)
            forced.evictions[sitting.job.id] = found
    lost, leaving = _lost_seats(board), _leaving(board)
    for sitting in everybody:
        if not sitting.changed:
            until_s = _leave(board, sitting, leaving) if leaving else None
            _move(board, sitting, lost.get(sitting.job.id, 0), until_s, forced)
    return forced


def evict(board: Board, sitting: Sitting, until_s: float) -> None:
    """Let a job drain: its devices stay charged, and are expected back."""
    for pool in list(sitting.seats):
        for at, devices in list(sitting.seats[pool].items()):
            release(board, sitting, pool, at, devices, until_s)
    sitting.changed = True


def release(board: Board, sitting: Sitting, pool: str, at: int, devices: int, until_s: float | None) -> None:
    """Take seats off a job; the devices drain until `until_s`, None = they do not exist any more."""
    nodes, ground = sitting.seats[pool], board.grounds[pool]
    nodes[at] -= devices
    if not nodes[at]:
        del nodes[at]
    board.later.charge(sitting.job.queue, sitting.job.tenant, ground.pool, -devices)
    if until_s is not None:
        ground.drain(at, devices, until_s)


def _over(board: Board, sitting: Sitting) -> Evict | None:
    """The end of a stay that no device can prolong."""
    job, now_s = sitting.job, board.snapshot.now_s
    if spent_up(job.spending):
        until_s = now_s + board.snapshot.rules.drain_grace_s
        detail = "its budget is spent; its state is saved"
        return Evict(job=job.id, cause=ChangeCause.BUDGET_SPENT, detail=detail, drain_until_s=until_s, requeue=False)
    closes_s = closes_at_s(board, job)
    if closes_s is not None and closes_s <= now_s:
        detail = f"window {job.window!r} has closed"
        until_s = _grace_ends_s(board, job.window)
        return Evict(job=job.id, cause=ChangeCause.WINDOW_CLOSED, detail=detail, drain_until_s=until_s)
    ends_s = night_ends_s(board, sitting)
    if closes_s is not None and ends_s is not None and now_s >= ends_s:
        what = f"what ends a night takes {closes_s - ends_s:.0f} s"
        detail = f"window {job.window!r} closes in {closes_s - now_s:.0f} s; {what}"
        return Evict(job=job.id, cause=ChangeCause.WINDOW_CLOSED, detail=detail, drain_until_s=closes_s)
    return None


def night_ends_s(board: Board, sitting: Sitting) -> float | None:
    """When a job stops to train in its window, so that what must follow fits: as it was planned when it started; None
    without a window."""
    closes_s = closes_at_s(board, sitting.job)
    if closes_s is None:
        return None
    ending = sitting.job.ending if sitting.running.tempo is None else sitting.running.tempo.ending
    begun_s, slice_s = sitting.running.started_s, sitting.job.min_slice_s
    plan = plan_session(ending, begins_s=begun_s, until_s=closes_s, min_slice_s=slice_s)
    # A session that would not be begun any more, for its end has become longer since, still leaves in time.
    return plan.train_until_s if isinstance(plan, SessionPlan) else closes_s - ending.leave_s


def _grace_ends_s(board: Board, window: str | None) -> float:
    """Until when devices may be held after a close: counted from the close, however late this decision is."""
    hours, now_s = board.windows[window or ""], board.snapshot.now_s
    closed = current(hours.window, now_s=now_s - hours.grace_s)
    return now_s if closed is None else closed.closes_at_s + hours.grace_s


def _lost_seats(board: Board) -> dict[str, int]:
    """Devices each job has lost: on nodes that are gone, and where a node has fewer devices than are held on it.

    Which devices of a shrunken node are gone nobody says; jobs with the least to lose give them up.
    """
    lost: dict[str, int] = {}
    for lease in board.snapshot.leases:
        if lease.state is LeaseState.HELD and lease.holder in board.sittings and lease.pool in board.grounds:
            gone = _on_vanished(lease, board.grounds[lease.pool])
            if gone:
                lost[lease.holder] = lost.get(lease.holder, 0) + gone
    for ground in board.grounds.values():
        for holder, devices in _shortfalls(board, ground):
            lost[holder] = lost.get(holder, 0) + devices
    return lost


def _on_vanished(lease: Lease, ground: Ground) -> int:
    return sum(devices for name, devices in lease.nodes if name not in ground.index)


def _shortfalls(board: Board, ground: Ground) -> list[tuple[str, int]]:
    pool, found = ground.pool.name, []
    held = [0] * len(ground.names)
    for sitting in board.sittings.values():
        seats = sitting.seats.get(pool)
        if seats:
            for at, devices in seats.items():
                held[at] += devices
    if (np.array(held, dtype=np.int64) <= ground.whole).all():
        return []
    for node in ground.pool.nodes:
        at = ground.index[node.name]
        missing = held[at] - node.devices
        if missing > 0:
            found += _shed(board, pool, at, missing)
    return found


def _shed(board: Board, pool: str, at: int, missing: int) -> list[tuple[str, int]]:
    there = [one for one in board.sittings.values() if one.seats.get(pool, {}).get(at)]
    there.sort(key=lambda one: (one.job.priority, one.running.lost_work_s, one.job.id))
    found = []
    for sitting in there:
        per_worker = sitting.job.devices_per_worker
        part = min(sitting.seats[pool][at], -(-missing // per_worker) * per_worker)
        release(board, sitting, pool, at, part, None)
        found.append((sitting.job.id, part))
        missing -= part
        if missing <= 0:
            break
    return found


def _move(board: Board, sitting: Sitting, lost: int, until_s: float | None, forced: Forced) -> None:
    """Fill a job that lost seats up to its minimum where there is room, and cut it to a useful size; also one whose
    owner has pinned it below what it has."""
    pinned = sitting.workers > sitting.job.sizes[-1]
    if not lost and until_s is None and not pinned:
        return
    cause = ChangeCause.DEVICES_LOST if lost else ChangeCause.PINNED if until_s is None else ChangeCause.NODE_LEAVES
    end_s = board.snapshot.now_s if until_s is None else until_s
    if cause is ChangeCause.PINNED:
        end_s += board.snapshot.rules.drain_grace_s
    if sitting.workers < sitting.job.sizes[0]:
        _fill_up(board, sitting)
    if sitting.workers < (1 if sitting.job.serves else sitting.job.sizes[0]):
        detail = f"{sitting.workers} of at least {sitting.job.sizes[0]} workers are left"
        evict(board, sitting, end_s)
        forced.evictions[sitting.job.id] = Evict(job=sitting.job.id, cause=cause, detail=detail, drain_until_s=end_s)
        return
    if sitting.workers >= sitting.job.sizes[0]:
        _cut(board, sitting, end_s)
    forced.moves[sitting.job.id] = (cause, end_s)


def _leaving(board: Board) -> dict[str, dict[int, float]]:
    """Nodes that leave or that jobs leave, by pool: until when their devices must be given up."""
    latest_s = board.snapshot.now_s + board.snapshot.rules.drain_grace_s
    found: dict[str, dict[int, float]] = {}
    for ground in board.grounds.values():
        for node in ground.pool.nodes:
            if node.state is NodeState.LEAVING or (node.state is NodeState.HELD and node.leaves_at_s is not None):
                until_s = latest_s if node.leaves_at_s is None else min(node.leaves_at_s, latest_s)
                found.setdefault(ground.pool.name, {})[ground.index[node.name]] = until_s
    return found


def _leave(board: Board, sitting: Sitting, leaving: dict[str, dict[int, float]]) -> float | None:
    """Give up seats on nodes that leave; return until when, None if there are none."""
    ends: list[float] = []
    for pool in sitting.seats.keys() & leaving.keys():
        for at in sitting.seats[pool].keys() & leaving[pool].keys():
            ends.append(leaving[pool][at])
            release(board, sitting, pool, at, sitting.seats[pool][at], ends[-1])
    return min(ends, default=None)


def _fill_up(board: Board, sitting: Sitting) -> None:
    job = sitting.job
    missing = job.sizes[0] - sitting.workers
    for pool, nodes in sorted(sitting.seats.items()):
        ground = board.grounds[pool]
        if not nodes or ground.total_free < missing * job.devices_per_worker:
            continue
        taken = seat_more(board, job, ground, ground.free, sorted(nodes), missing)
        if taken is not None:
            # Not charged again: the devices it lost are charged until their lease is over.
            take_seats(board, sitting, pool, taken)
            return


def take_seats(board: Board, sitting: Sitting, pool: str, taken: tuple[tuple[int, int], ...]) -> None:
    """Seat a job on devices that are free now."""
    board.grounds[pool].take(taken)
    nodes = sitting.seats.setdefault(pool, {})
    for at, devices in taken:
        nodes[at] = nodes.get(at, 0) + devices
    total = sum(devices for _, devices in taken)
    board.later.charge(sitting.job.queue, sitting.job.tenant, board.grounds[pool].pool, total)


def _cut(board: Board, sitting: Sitting, until_s: float) -> None:
    """Workers beyond the largest useful size would only wait: their seats are given back, the last ones first."""
    size = max(size for size in sitting.job.sizes if size <= sitting.workers)
    surplus = (sitting.workers - size) * sitting.job.devices_per_worker
    for pool in sorted(sitting.seats, reverse=True):
        for at, devices in sorted(sitting.seats[pool].items(), reverse=True):
            part = min(surplus, devices)
            if part:
                release(board, sitting, pool, at, part, until_s)
                surplus -= part
