"""When is another world size worth a stall? Shrink when forced, grow when the gain outlives the cost.

One running job, one number of usable workers: how many there are and for how long is somebody else's forecast, whose
they are somebody else's decision. Only useful sizes are chosen (`BatchPlan.useful_sizes`): others pay for workers that
wait. Nothing is done twice for changes that come together: arrivals must settle, announced departures are collected as
long as their deadline allows, and whatever forces a restart takes growth along for free.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.policy.batch_plan import BatchPlan


class ResizeReason(enum.StrEnum):
    """Why the size changes, or why it does not."""

    START = "start"
    RESTART = "restart"
    WORKERS_LEAVE = "workers_leave"
    GAIN_OUTLIVES_STALL = "gain_outlives_stall"
    PINNED = "pinned"
    BELOW_MIN = "below_min"
    COLLECTING_DEPARTURES = "collecting_departures"
    BEST_SIZE_ALREADY = "best_size_already"
    GAIN_BELOW_STALL = "gain_below_stall"
    DWELL = "dwell"
    SETTLING = "settling"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeRules:
    """Restraint. All in seconds but `margin`, by which a gain must exceed the stall's cost (0.1 = by a tenth).

    `dwell_s`: least time between a resize and growing again. `settle_s`: how long an offer must stand unchanged.
    `collect_s`: how long an announced departure may wait for others to join it, if its deadline allows.
    """

    dwell_s: float
    settle_s: float
    collect_s: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What the job allows. `pinned_workers` holds the size until it is None again (`tide resize JOB N`)."""

    batch: BatchPlan
    min_workers: int
    max_workers: int
    rules: ResizeRules
    pinned_workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """At least `workers` workers are expected to stay usable for another `expected_s` seconds."""

    workers: int
    expected_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is so now.

    `running_workers`: the group's size, 0 if there is none. `broken`: it cannot go on and must be restarted anyway.
    `usable_workers`: what the job could hold, its own included, departing ones not. `departure_s`: when the first of
    the group's departing workers goes, None if they are gone already or nobody said. `outlook`: forecasts, in any
    order. `stall_s`: measured, last step to next step. `stop_s`: measured, from the decision to state being safe.
    """

    running_workers: int
    usable_workers: int
    outlook: tuple[Outlook, ...]
    stall_s: float
    stop_s: float
    departure_s: float | None = None
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeState:
    """What the policy remembers; None where it has not happened."""

    resized_s: float | None = None
    offered_workers: int | None = None
    offered_since_s: float = 0.0
    departing_since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Run on this many workers from now on."""

    workers: int
    reason: ResizeReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """Snapshot and give the workers back: fewer than the minimum are left."""

    reason: ResizeReason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Change nothing; ask again at `wake_at_s`, or when conditions change."""

    reason: ResizeReason
    detail: str
    wake_at_s: float | None = None


def choose_world_size(
    plan: RunPlan, now: Conditions, state: ResizeState, *, now_s: float
) -> tuple[Resize | Suspend | Hold, ResizeState]:
    """Pick the world size worth paying a resize for; shrink when forced, grow only when the gain outlives the stall.

    Holds: the size is within min..max and never above the usable workers; a group that has lost workers, or whose
    departing workers must be gone by `stop_s`, is answered at once whatever the rules say.
    """
    state = _remember(now, state, now_s)
    decision = _decide(plan, now, state, now_s)
    if isinstance(decision, Hold):
        return decision, state
    return decision, replace(state, resized_s=now_s, departing_since_s=None)


def _remember(now: Conditions, state: ResizeState, now_s: float) -> ResizeState:
    if now.usable_workers != state.offered_workers:
        state = replace(state, offered_workers=now.usable_workers, offered_since_s=now_s)
    departing = now.usable_workers < now.running_workers
    since_s = (state.departing_since_s if state.departing_since_s is not None else now_s) if departing else None
    return replace(state, departing_since_s=since_s)


def _decide(plan: RunPlan, now: Conditions, state: ResizeState, now_s: float) -> Resize | Suspend | Hold:
    if now.usable_workers < now.running_workers and not now.broken:
        until_s = _collect_until_s(plan, now, state)
        if now_s < until_s:
            detail = f"{now.running_workers - now.usable_workers} workers leave; others may follow"
            return Hold(reason=ResizeReason.COLLECTING_DEPARTURES, detail=detail, wake_at_s=until_s)
    if now.usable_workers < plan.min_workers:
        detail = f"{now.usable_workers} usable workers are below the minimum of {plan.min_workers}"
        suspends = now.running_workers > 0
        return (Suspend if suspends else Hold)(reason=ResizeReason.BELOW_MIN, detail=detail)
    if now.broken or now.running_workers == 0 or now.usable_workers < now.running_workers:
        return _restart(plan, now)
    return _pinned(plan, now) if plan.pinned_workers is not None else _grow(plan, now, state, now_s)


def _collect_until_s(plan: RunPlan, now: Conditions, state: ResizeState) -> float:
    """Until when departures may be collected: never so long that state is not safe before the first one."""
    if now.departure_s is None or state.departing_since_s is None:
        return float("-inf")
    return min(state.departing_since_s + plan.rules.collect_s, now.departure_s - now.stop_s)


def _restart(plan: RunPlan, now: Conditions) -> Resize:
    """The stall is paid anyway: take the size with the best long-run rate, growth included."""
    reason = ResizeReason.WORKERS_LEAVE if now.usable_workers < now.running_workers else ResizeReason.RESTART
    reason = ResizeReason.START if now.running_workers == 0 and not now.broken else reason
    size = _clamped_pin(plan, now) if plan.pinned_workers is not None else _best_for_restart(plan, now)
    return Resize(workers=size, reason=reason, detail=f"{now.running_workers} -> {size} of {now.usable_workers} usable")


def _best_for_restart(plan: RunPlan, now: Conditions) -> int:
    """Throughput, less the stall that follows when this size can no longer be held; ties go to fewer workers."""

    def rate(size: int) -> float:
        lasting_s = expected_s(now.outlook, size)
        return plan.batch.throughput(size) * lasting_s / (lasting_s + now.stall_s) if lasting_s > 0 else 0.0

    sizes = _sizes(plan, now.usable_workers)
    best = max(sizes, key=lambda size: (rate(size), -size))
    # Without any forecast there is nothing to weigh: use what there is.
    return best if rate(best) > 0 else sizes[-1]


def _pinned(plan: RunPlan, now: Conditions) -> Resize | Hold:
    size = _clamped_pin(plan, now)
    if size == now.running_workers:
        return Hold(reason=ResizeReason.PINNED, detail=f"pinned to {plan.pinned_workers} workers")
    return Resize(workers=size, reason=ResizeReason.PINNED, detail=f"{now.running_workers} -> {size}, pinned")


def _clamped_pin(plan: RunPlan, now: Conditions) -> int:
    wanted = plan.pinned_workers or plan.min_workers
    return max(plan.min_workers, min(wanted, plan.max_workers, now.usable_workers))


def _grow(plan: RunPlan, now: Conditions, state: ResizeState, now_s: float) -> Resize | Hold:
    larger = [size for size in _sizes(plan, now.usable_workers) if size > now.running_workers]
    faster = [s for s in larger if plan.batch.throughput(s) > plan.batch.throughput(now.running_workers)]
    if not faster:
        detail = f"no size up to {now.usable_workers} is faster than {now.running_workers}"
        return Hold(reason=ResizeReason.BEST_SIZE_ALREADY, detail=detail)
    size = max(faster, key=lambda s: (_net_gain_s(plan, now, s), -s))
    if _net_gain_s(plan, now, size) <= 0:
        lasting_s = expected_s(now.outlook, size)
        detail = f"{size} workers for about {lasting_s:.0f} s do not repay a stall of {now.stall_s:.1f} s"
        return Hold(reason=ResizeReason.GAIN_BELOW_STALL, detail=detail)
    for reason, until_s in _restraints(plan, state):
        if now_s < until_s:
            return Hold(reason=reason, detail=f"growing to {size} waits", wake_at_s=until_s)
    return Resize(
        workers=size,
        reason=ResizeReason.GAIN_OUTLIVES_STALL,
        detail=f"{now.running_workers} -> {size} for about {expected_s(now.outlook, size):.0f} s",
    )


def _restraints(plan: RunPlan, state: ResizeState) -> Iterable[tuple[ResizeReason, float]]:
    if state.resized_s is not None:
        yield ResizeReason.DWELL, state.resized_s + plan.rules.dwell_s
    yield ResizeReason.SETTLING, state.offered_since_s + plan.rules.settle_s


def _net_gain_s(plan: RunPlan, now: Conditions, size: int) -> float:
    """(T(W') - T(W)) x time, less T(W') x stall with its margin: work gained, in units of one pass."""
    after, before = plan.batch.throughput(size), plan.batch.throughput(now.running_workers)
    cost = after * now.stall_s * (1 + plan.rules.margin)
    return (after - before) * expected_s(now.outlook, size) - cost


def expected_s(outlook: tuple[Outlook, ...], workers: int) -> float:
    """How long at least `workers` are expected to stay usable; 0 if nobody forecasts it."""
    return max((one.expected_s for one in outlook if one.workers >= workers), default=0.0)


def _sizes(plan: RunPlan, usable_workers: int) -> tuple[int, ...]:
    return plan.batch.useful_sizes(plan.min_workers, min(usable_workers, plan.max_workers))
