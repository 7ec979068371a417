"""More workers for jobs that have some: beside those they have, within quota, promises and what resizing costs."""

from __future__ import annotations

import numpy as np

from orchestrator.policy.queueing.board import Board, Sitting, workers_before
from orchestrator.policy.queueing.fit import Fitter
from orchestrator.policy.queueing.forced import take_seats
from orchestrator.policy.queueing.ground import Taken
from orchestrator.policy.queueing.promises import allowance, consume, expected_end_s
from orchestrator.policy.queueing.seating import seat_more
from orchestrator.policy.resize import Conditions, Hold, Resize, ResizeState, Suspend, choose_world_size


def grow(fitter: Fitter, sitting: Sitting, most_workers: int) -> int:
    """Seat a job on more devices, up to a useful size; return the workers it got, 0 if none fit."""
    job, board = sitting.job, fitter.board
    for size in reversed(job.sizes):
        if sitting.workers < size <= most_workers and (found := _seat(fitter, sitting, size)) is not None:
            got = size - sitting.workers
            _enter(board, fitter, sitting, *found)
            return got
    return 0


def _seat(fitter: Fitter, sitting: Sitting, size: int) -> tuple[str, Taken] | None:
    job, board = sitting.job, fitter.board
    extra = size - sitting.workers
    devices = extra * job.devices_per_worker
    now_s, unknown_s = board.snapshot.now_s, board.snapshot.rules.unknown_run_s
    for pool in (name for name in board.candidates(job) if sitting.seats.get(name)):
        ground = board.grounds[pool]
        room = min(
            ground.total_free,
            max(board.account(job.queue, pool).available, board.now.shares.own_available(job.tenant, pool)),
        )
        # Its present end is the latest it can have: more workers only bring it nearer.
        end_s = expected_end_s(job, sitting.workers, now_s, unknown_s)
        allowed = allowance(fitter.promises.get(pool, []), board, job, pool, end_s)
        if not ground.pool.in_sight or devices > min(room, allowed.devices, allowed.quota):
            continue
        free_N = ground.free if allowed.limit is None else np.minimum(ground.free, allowed.limit)
        taken = seat_more(board, job, ground, free_N, sorted(sitting.seats[pool]), extra)
        if taken is not None:
            return pool, taken
    return None


def _enter(board: Board, fitter: Fitter, sitting: Sitting, pool: str, taken: Taken) -> None:
    job = sitting.job
    devices = sum(count for _, count in taken)
    end_s = expected_end_s(job, sitting.workers, board.snapshot.now_s, board.snapshot.rules.unknown_run_s)
    draw = board.account(job.queue, pool).draw(devices)
    consume(fitter.promises.get(pool, []), board, job, end_s, taken, draw)
    take_seats(board, sitting, pool, taken)
    board.now.charge(job.queue, job.tenant, board.grounds[pool].pool, devices)
    board.started.append((job, end_s, pool, taken))
    # Who was given more in this decision is not asked for it in the same one.
    sitting.changed = True


def pays(sitting: Sitting, usable_workers: int, now_s: float) -> tuple[int, ResizeState | None]:
    """The size `policy.resize` chooses with so many usable workers, and what it remembers.

    A job that says nothing of its resizes takes what it is given.
    """
    tempo, running = sitting.running.tempo, workers_before(sitting)
    if tempo is None:
        return usable_workers, None
    conditions = Conditions(
        running_workers=running,
        usable_workers=usable_workers,
        outlook=tempo.outlook,
        stall_s=tempo.stall_s,
        stop_s=tempo.stop_s,
    )
    decision, state = choose_world_size(tempo.plan, conditions, tempo.state, now_s=now_s)
    match decision:
        case Resize(workers=workers):
            return workers, state
        case Hold() | Suspend():
            return running, state
