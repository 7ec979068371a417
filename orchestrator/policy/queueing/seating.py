"""Seats for one job in one pool, by its coupling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.policy.queueing.board import Board
from orchestrator.policy.queueing.ground import Devices, Ground, Taken
from orchestrator.policy.queueing.topology import extend, place, place_islands
from orchestrator.policy.queueing.values import Coupling, Job


def seat(board: Board, job: Job, ground: Ground, free_N: Devices, workers: int) -> Taken | None:
    """Devices per node for so many workers on what is free; None where they do not fit as their coupling asks."""
    per_worker = job.devices_per_worker
    slots_N = free_N // per_worker if per_worker > 1 else free_N
    if job.coupling is Coupling.MODULAR:
        taken = place_islands(
            ground,
            slots_N,
            workers,
            shared=board.depths[Coupling.MODULAR],
            island=board.depths[Coupling.TIGHT],
            least=board.snapshot.rules.island_min_workers,
        )
    else:
        taken = place(ground, slots_N, workers, shared=board.depths[job.coupling])
    return _in_devices(taken, per_worker)


def seat_more(
    board: Board, job: Job, ground: Ground, free_N: Devices, held: Sequence[int], workers: int
) -> Taken | None:
    """Devices per node for `workers` more beside the nodes a job holds; islands grow only where they are."""
    slots_N = free_N // job.devices_per_worker
    if job.coupling is Coupling.MODULAR:
        inside_N = np.zeros_like(slots_N)
        inside_N[list(held)] = slots_N[list(held)]
        near = extend(ground, inside_N, held, workers, shared=board.depths[Coupling.MODULAR])
        if near is not None:
            return _in_devices(near, job.devices_per_worker)
    return _in_devices(
        extend(ground, slots_N, held, workers, shared=board.depths[job.coupling]), job.devices_per_worker
    )


def _in_devices(taken: Taken | None, per_worker: int) -> Taken | None:
    return None if taken is None else tuple((at, workers * per_worker) for at, workers in taken)
