"""Deadline policies for one gang of fixed size (min = max): greedy, uniform progress and time slices.

C is the gang's running time, R the deadline, d the restart overhead, p the progress; all in seconds of the whole gang.
Definitions: Can't Be Late (NSDI 2024), with N1 and N2 rounded up and the time left rounded down to whole ticks.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, Terms
from orchestrator.sim.reference.common import Rule, fill, nothing

NUM_SLICES = 10


class Place(enum.Enum):
    """Where the gang runs."""

    IDLE = "idle"
    SPOT = "spot"
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True)
class GangView:
    """A capacity view read as one gang's: where it is, whether spot can be had, and its clock."""

    place: Place
    spot: bool
    settled: bool
    tick_s: float
    overhead_s: float
    work_s: float
    done_s: float
    deadline_s: float
    elapsed_s: float

    @classmethod
    def of(cls, view: CapacityView) -> GangView:
        size = view.terms.min_workers
        on_spot = sum(view.held.spot) == size
        place = Place.SPOT if on_spot else Place.ON_DEMAND if view.held.on_demand == size else Place.IDLE
        return cls(
            place=place,
            spot=sum(view.offered) >= size,
            settled=view.stall_left_s == 0,
            tick_s=view.terms.tick_s,
            overhead_s=view.terms.stall_s,
            work_s=view.terms.work_s / size,
            done_s=view.done_s / size,
            deadline_s=view.terms.deadline_s,
            elapsed_s=view.elapsed_s,
        )

    def ticks_needed(self, overheads: int, work_left_s: float | None = None) -> int:
        """Whole ticks to finish the work after a number of restarts (N1 and N2 of the definitions)."""
        left = self.work_s - self.done_s if work_left_s is None else work_left_s
        return math.ceil((left + overheads * self.overhead_s) / self.tick_s)

    def ticks_left(self, deadline_s: float | None = None) -> int:
        """Whole ticks to a deadline (rem)."""
        deadline = self.deadline_s if deadline_s is None else deadline_s
        return math.floor((deadline - self.elapsed_s) / self.tick_s)


def place_greedy(gang: GangView) -> Place:
    """Spot when it can be had, else wait."""
    return Place.SPOT if gang.spot else Place.IDLE


def place_uniform(gang: GangView) -> Place:
    """On the line from start to deadline: spot, bridged by on-demand while behind."""
    if gang.place is Place.ON_DEMAND:
        ahead_s = (gang.elapsed_s + 2 * gang.overhead_s) * gang.work_s / gang.deadline_s - gang.done_s
        if not gang.spot or ahead_s >= 0:
            return Place.ON_DEMAND
    behind = gang.done_s < gang.work_s * gang.elapsed_s / gang.deadline_s
    return Place.SPOT if gang.spot else Place.ON_DEMAND if behind else Place.IDLE


def place_sliced(gang: GangView) -> Place:
    """Greedy with a deadline per slice: each of ten equal slices must see its share of the work done."""
    slice_s = gang.deadline_s / NUM_SLICES
    current = min(int(gang.elapsed_s // slice_s) + 1, NUM_SLICES)
    due_s = gang.work_s * current / NUM_SLICES - gang.done_s
    must_run = due_s > 0 and gang.ticks_needed(2, due_s) >= gang.ticks_left(slice_s * current)
    if must_run and gang.place is not Place.SPOT:
        return Place.ON_DEMAND
    return Place.SPOT if gang.spot else Place.ON_DEMAND if must_run else Place.IDLE


_RULES = {"greedy": place_greedy, "uniform-progress": place_uniform, "sliced": place_sliced}


@dataclass(frozen=True, slots=True)
class SingleGang:
    """One of the rules above inside the common net and guard; state: whether the net holds on-demand to the end."""

    name: str

    def start(self, terms: Terms) -> bool:
        return False

    def decide(self, view: CapacityView, caught: bool) -> tuple[Decision, bool]:
        gang = GangView.of(view)
        if caught or gang.ticks_needed(1) >= gang.ticks_left():
            riding = not caught and gang.place is Place.SPOT and gang.settled
            if riding:
                return Decision(allocation=view.held, reason=Rule.SAFETY_NET), False
            return Decision(allocation=_allocate(view, Place.ON_DEMAND), reason=Rule.SAFETY_NET), True
        guarded = gang.place is not Place.SPOT and gang.ticks_needed(2) >= gang.ticks_left()
        place = Place.ON_DEMAND if guarded else _RULES[self.name](gang)
        return Decision(allocation=_allocate(view, place), reason=Rule.BEHIND if guarded else Rule.FOLLOW), False


def _allocate(view: CapacityView, place: Place) -> Allocation:
    size = view.terms.min_workers
    if place is Place.SPOT:
        return Allocation(spot=fill(view, size))
    on_demand = min(size, view.terms.on_demand_limit) if place is Place.ON_DEMAND else 0
    return Allocation(spot=nothing(view).spot, on_demand=on_demand)
