"""What the deadline asks: how fast work must go, what progress is worth, and which plans can still be rescued.

The net is exact. A plan is *rescuable* when, even if every spot device vanishes at the next tick and takes its unsaved
work along, on-demand alone still finishes in time. A policy that starts rescuable and chooses only rescuable plans,
or the rescue itself, misses no deadline that on-demand can meet (tests/policy/capacity/test_tideline.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.policy.capacity.usual import Usual
from orchestrator.policy.capacity.view import Allocation, CapacityView, Terms

SLACK_S = 1e-3  # far above what floats lose in these sums, far below a tick
PROGRESS_SHARE = 0.88  # of the way from the cheapest price to on-demand's, when the job needs its reference pace
PROGRESS_POWER = 6.0  # how steeply progress gains value when more workers are needed than that
LEAST_SHARE = 0.15
PANIC_SHARE = 10.0  # where nothing can be bought, progress may be worth more than any price
FREE_PRICE_FACTOR = 3.0  # stands in for the on-demand price, in multiples of the dearest pool
RESERVE_STALLS = 2  # disruptions the pace leaves room for before the deadline
RESERVE_TICKS = 2
CATCH_UP = 0.5  # of the way, in ratios, from the reference pace to the most workers: how far on-demand may wait
PRIOR_TICKS = 20
PRIOR_DISRUPTIONS_PER_H = 1.0
LEAST_EFFICIENCY = 0.3
FORGET = 0.99
SUPPLY_PRIOR_S = 43_200.0


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Useful share of the device-time a running job paid for, in worker-seconds, recent ticks counting more."""

    useful_s: float = 0.0
    paid_s: float = 0.0
    done_s: float = 0.0

    def share(self, terms: Terms) -> float:
        """The share so far, starting from what an occasional disruption would leave."""
        disrupted = PRIOR_DISRUPTIONS_PER_H * (terms.stall_s + terms.loss_s) / 3600.0
        weight = PRIOR_TICKS * terms.min_workers * terms.tick_s
        return max(LEAST_EFFICIENCY, (self.useful_s + weight / (1.0 + disrupted)) / (self.paid_s + weight))


def observe_efficiency(efficiency: Efficiency, view: CapacityView) -> Efficiency:
    """Take in what the last tick made of its devices."""
    if view.tick == 0:
        return efficiency
    paid = int(view.past[-1].sum())
    if paid < view.terms.min_workers:
        return Efficiency(efficiency.useful_s, efficiency.paid_s, view.done_s)
    gained = view.done_s - efficiency.done_s
    paid_s = paid * view.terms.tick_s
    return Efficiency(FORGET * efficiency.useful_s + gained, FORGET * efficiency.paid_s + paid_s, view.done_s)


@dataclass(frozen=True, slots=True)
class Supply:
    """Spot devices offered so far, no more than the job could use, summed over ticks."""

    devices: int = 0
    ticks: int = 0

    def mean(self, terms: Terms) -> float:
        """Mean offer, starting from the reference pace until half a day has been seen."""
        prior_ticks = SUPPLY_PRIOR_S / terms.tick_s
        return (self.devices + reference_workers(terms) * prior_ticks) / (self.ticks + prior_ticks)


def observe_supply(supply: Supply, view: CapacityView) -> Supply:
    """Take in what this tick offers."""
    offered = min(int(view.rows[-1].sum()), view.terms.max_workers)
    return Supply(supply.devices + offered, supply.ticks + 1)


def reference_workers(terms: Terms) -> float:
    """The pace the job was meant to have: steady work from start to deadline, at no less than the minimum."""
    return max(terms.work_s / terms.deadline_s, terms.min_workers)


@dataclass(frozen=True, slots=True)
class Pace:
    """What the deadline asks now.

    `workers`: needed from now on, disruptions included. `usd_per_worker_hour`: what progress is worth. `floor`:
    workers to reach, with on-demand where spot falls short. `must_run`: waiting for cheaper capacity is over.
    """

    workers: float
    usd_per_worker_hour: float
    floor: int
    must_run: bool


def anchor_usd(terms: Terms, spot_usd: Sequence[float], on_demand_usd: float | None) -> float:
    """The price progress is measured against: on-demand's, or a multiple of spot where there is none to be had."""
    if terms.on_demand_limit > 0 and on_demand_usd is not None:
        return on_demand_usd
    return FREE_PRICE_FACTOR * max(spot_usd, default=1.0)


def pace(view: CapacityView, efficiency: Efficiency, supply: Supply, usual: Usual) -> Pace:
    """Value progress by how many workers the rest of the time needs.

    Against the reference pace this says whether on-demand must run: then the floor rises so that it fills what spot
    lacks, no sooner and no faster. A job that can grow may fall further behind first, for it can catch up; one gang
    of fixed size cannot. Against the mean supply it says whether on-demand will be needed some day: then
    an hour of spot saves one of on-demand already now, though on-demand itself can wait.
    """
    terms = view.terms
    reserve_s = RESERVE_STALLS * terms.stall_s + terms.loss_s + RESERVE_TICKS * terms.tick_s
    left_s = max(view.time_left_s - reserve_s, terms.tick_s)
    workers = view.work_left_s / left_s / efficiency.share(terms)
    reference = reference_workers(terms)
    urgency = PROGRESS_SHARE * (workers / reference) ** PROGRESS_POWER
    scarcity = min(1.0, PROGRESS_SHARE * (workers / max(supply.mean(terms), 1.0)) ** PROGRESS_POWER)
    must_run = workers >= reference * max(terms.max_workers / reference, 1.0) ** CATCH_UP
    floor = min(terms.max_workers, max(terms.min_workers, math.ceil(workers) if must_run else 0))
    most = 1.0 if terms.on_demand_limit > 0 else PANIC_SHARE
    share = min(most, max(LEAST_SHARE, urgency, scarcity))
    anchor = anchor_usd(terms, usual.spot, usual.on_demand)
    cheapest = min(anchor, *usual.spot)
    return Pace(workers, cheapest + (anchor - cheapest) * share, floor, must_run)


def is_rescuable(view: CapacityView, allocation: Allocation) -> bool:
    """Whether the deadline is safe for one more tick of this allocation, whatever capacity does."""
    terms, workers = view.terms, allocation.total
    stall_s = _stall_after(view, allocation)
    running = workers >= terms.min_workers
    work_s = workers * max(0.0, terms.tick_s - stall_s) if running else 0.0
    if running and work_s >= view.work_left_s:
        return stall_s + view.work_left_s / workers <= view.time_left_s
    left_s = view.work_left_s - work_s
    time_s = view.time_left_s - terms.tick_s - SLACK_S
    if not any(allocation.spot) and running:
        stays_s = max(0.0, stall_s - terms.tick_s) + left_s / workers
        if stays_s <= time_s:
            return True
    if terms.on_demand_limit < terms.min_workers:
        return False
    if any(allocation.spot) and running:
        left_s += min(view.done_s + work_s, workers * terms.loss_s)
    return terms.stall_s + left_s / terms.on_demand_limit <= time_s


def rescue(view: CapacityView) -> Allocation:
    """Only on-demand, and no more of it than finishes in time; all there is when nothing does."""
    terms = view.terms
    none = (0,) * len(terms.pools)
    kept = Allocation(spot=none, on_demand=view.held.on_demand)
    undisturbed = kept.on_demand >= terms.min_workers and not any(view.held.spot) and not any(view.lost)
    if undisturbed and view.stall_left_s + view.work_left_s / kept.on_demand <= view.time_left_s:
        return kept
    running_s = view.time_left_s - terms.stall_s
    needed = math.ceil(view.work_left_s / running_s) if running_s > 0 else terms.max_workers
    return Allocation(spot=none, on_demand=min(terms.on_demand_limit, max(terms.min_workers, needed)))


def _stall_after(view: CapacityView, allocation: Allocation) -> float:
    """Seconds of stall at the start of this tick if the allocation is chosen."""
    before = tuple(h + gone for h, gone in zip(view.held.spot, view.lost, strict=True))
    same = allocation.spot == before and allocation.on_demand == view.held.on_demand
    return view.stall_left_s if same else view.terms.stall_s
