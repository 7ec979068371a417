"""Who gets how many of the workers that a study holds.

First as many trials as may run at once, each at its smallest size, those that have come furthest first; what is left
over makes the surviving trials larger, the smallest first, by sizes that make them faster (a step takes ceil(M / W)
passes, so most sizes in between would only cost). A trial that runs is not resized unless it must shrink, or the rest
of its rung is long enough to win back the stall. A trial that gets nothing is paused: it holds no worker and costs
nothing until there is room again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.policy.batch_plan import BatchPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """A trial that could use workers now.

    `step` is how far it has come, `workers` what it holds (0: none). `rung_s` is how long the rest of its rung takes at
    its present size, None where nobody knows yet.
    """

    trial: str
    step: int
    workers: int
    batch: BatchPlan
    rung_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one trial, how many trials run at once, and the stall of changing a size."""

    min_workers: int
    max_workers: int
    min_trials: int
    max_trials: int
    stall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """Workers by trial; who is missing gets none. `room_for_new` more trials could start at the smallest size."""

    workers: Mapping[str, int]
    room_for_new: int


def allot(num_workers: int, seekers: Sequence[Seeker], shape: Shape, *, may_draw: bool) -> Allotment:
    """Divide `num_workers`; with room for fewer than `min_trials`, nobody gets any and the study waits.

    New trials come before larger ones: `may_draw` says whether there can be any.
    """
    places = min(num_workers // shape.min_workers, shape.max_trials)
    if places < shape.min_trials:
        return Allotment(workers={}, room_for_new=0)
    seated = sorted(seekers, key=_claim)[:places]
    room_for_new = places - len(seated) if may_draw else 0
    left = num_workers - shape.min_workers * (len(seated) + room_for_new)
    workers = {seeker.trial: shape.min_workers for seeker in seated}
    left -= _keep_sizes(seated, workers, shape, left)
    if room_for_new == 0:
        _grow(seated, workers, shape, left)
    return Allotment(workers=workers, room_for_new=room_for_new)


def _claim(seeker: Seeker) -> tuple[bool, int, str]:
    """Who runs keeps running; then who has come furthest; then who was drawn first."""
    return (seeker.workers == 0, -seeker.step, seeker.trial)


def _keep_sizes(seated: Sequence[Seeker], workers: dict[str, int], shape: Shape, left: int) -> int:
    """Leave running trials the size they have, as far as that goes; returns what that took."""
    taken = 0
    for seeker in seated:
        held = min(seeker.workers, shape.max_workers)
        extra = held - shape.min_workers
        if extra > 0:
            size = _largest_useful(seeker.batch, shape, shape.min_workers + min(extra, left - taken))
            taken += size - shape.min_workers
            workers[seeker.trial] = size
    return taken


def _grow(seated: Sequence[Seeker], workers: dict[str, int], shape: Shape, left: int) -> None:
    """Give what is left to the smallest trials, one useful size at a time, where that pays."""
    open_ = {seeker.trial: seeker for seeker in seated}
    while left > 0 and open_:
        trial = min(open_, key=lambda one: (workers[one], -open_[one].step, one))
        seeker, size = open_[trial], workers[trial]
        bigger = _next_useful(seeker.batch, shape, size)
        if bigger is None or bigger - size > left or not _pays(seeker, bigger, shape):
            del open_[trial]
            continue
        left -= bigger - size
        workers[trial] = bigger


def _pays(seeker: Seeker, size: int, shape: Shape) -> bool:
    """Starting at a size is free; changing it must win back its stall within the rung."""
    if seeker.workers in (0, size):
        return True
    if seeker.rung_s is None:
        return False
    faster = seeker.batch.throughput(size) / seeker.batch.throughput(seeker.workers)
    return seeker.rung_s * (1.0 - 1.0 / faster) > shape.stall_s


def _useful(batch: BatchPlan, shape: Shape) -> list[int]:
    return sorted({shape.min_workers, *batch.useful_sizes(shape.min_workers, shape.max_workers)})


def _largest_useful(batch: BatchPlan, shape: Shape, most: int) -> int:
    return max(size for size in _useful(batch, shape) if size <= max(most, shape.min_workers))


def _next_useful(batch: BatchPlan, shape: Shape, size: int) -> int | None:
    return next((other for other in _useful(batch, shape) if other > size), None)
