"""Policies that steer by the line from start to deadline: uniform progress, and trailing minimum.

Source of uniform progress: Can't Be Late (NSDI 2024), here for an elastic job; the trailing minimum is the obvious way
to hold only what has been there for a while.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, Terms
from orchestrator.sim.reference.common import Rule, fill, nothing, progress_line, steady_rate
from orchestrator.sim.reference.simple import follow

MIN_GROWTH = 8
MIN_BETWEEN_TAKINGS_S = 1800
ON_DEMAND_BLOCK = 10
LINE_BAND = 0.02


@dataclass(frozen=True, slots=True)
class UniformProgress:
    """Greedy above the line; below it, on-demand fills what spot lacks of the steady rate."""

    name: str = "uniform-progress"

    def start(self, terms: Terms) -> None:
        return None

    def decide(self, view: CapacityView, state: None) -> tuple[Decision, None]:
        terms, rate, line = view.terms, steady_rate(view.terms), progress_line(view)
        band = 2 * terms.stall_s * rate
        if not (view.done_s < line or (view.held.on_demand and view.done_s < line + band)):
            return follow(view), None
        spot = fill(view, terms.max_workers)
        on_demand = min(max(0, rate - sum(spot)), terms.max_on_demand)
        allocation = Allocation(spot=spot, on_demand=on_demand)
        if allocation.total < terms.min_workers:
            return Decision(allocation=nothing(view), reason=Rule.BELOW_MIN), None
        return Decision(allocation=allocation, reason=Rule.BEHIND), None


@dataclass(frozen=True, slots=True)
class TrailingMin:
    """Holds of each pool only what it offered throughout the last `window_s`; state: when targets were taken last."""

    name: str
    window_s: int

    def start(self, terms: Terms) -> float:
        return -float("inf")

    def decide(self, view: CapacityView, taken_s: float) -> tuple[Decision, float]:
        terms, held = view.terms, sum(view.held.spot)
        rows = max(1, round(self.window_s / terms.tick_s))
        least = view.rows[-rows:].min(axis=0).tolist()
        targets = [max(h, low) for h, low in zip(view.held.spot, least, strict=True)]
        k = min(terms.max_workers, sum(targets))
        rested = view.elapsed_s - taken_s >= MIN_BETWEEN_TAKINGS_S
        take = any(view.lost) or (k - held >= MIN_GROWTH and rested)
        spot = fill(view, k, targets) if take else view.held.spot
        allocation = Allocation(spot=spot, on_demand=_on_demand(view, sum(spot)))
        if allocation.total > terms.max_workers:  # taken spot displaces on-demand that was kept
            allocation = Allocation(spot=spot, on_demand=terms.max_workers - sum(spot))
        taken_s = view.elapsed_s if take else taken_s
        if allocation.total < terms.min_workers:
            return Decision(allocation=nothing(view), reason=Rule.BELOW_MIN), taken_s
        return Decision(allocation=allocation, reason=Rule.FOLLOW if take else Rule.KEEP), taken_s


def _on_demand(view: CapacityView, k: int) -> int:
    """On-demand devices beside `k` spot devices, in blocks, kept rather than changed."""
    terms, held, line = view.terms, view.held.on_demand, progress_line(view)
    if view.done_s < line or (held and view.done_s < line + LINE_BAND * terms.work_s):
        need = max(0, steady_rate(terms) - k)
    else:
        need = terms.min_workers - k if terms.min_workers / 2 <= k < terms.min_workers else 0
    if held and need > 0:
        need = held if need <= held and not any(view.lost) else max(need, held)
    blocks = -(-need // ON_DEMAND_BLOCK) * ON_DEMAND_BLOCK
    return max(0, min(blocks, terms.max_workers - k, terms.max_on_demand))
