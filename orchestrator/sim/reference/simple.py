"""Fixed on-demand, all-or-nothing gangs and greedy following, for an elastic job."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, Terms
from orchestrator.sim.reference.common import Rule, fill, nothing


@dataclass(frozen=True, slots=True)
class OnDemand:
    """The smallest fixed number of on-demand workers that meets the deadline."""

    name: str = "on-demand"

    def start(self, terms: Terms) -> None:
        return None

    def decide(self, view: CapacityView, state: None) -> tuple[Decision, None]:
        terms = view.terms
        running_s = terms.deadline_s - terms.stall_s
        # Floor division is exact on floats where ceil(a / b) would round first.
        needed = int(-(-terms.work_s // running_s)) if running_s > 0 else terms.max_workers
        workers = min(terms.on_demand_limit, max(terms.min_workers, needed))
        return Decision(allocation=Allocation(spot=nothing(view).spot, on_demand=workers), reason=Rule.FIXED), None


@dataclass(frozen=True, slots=True)
class Gang:
    """Exactly `workers` spot devices or none."""

    workers: int

    @property
    def name(self) -> str:
        return f"gang-{self.workers}"

    def start(self, terms: Terms) -> None:
        return None

    def decide(self, view: CapacityView, state: None) -> tuple[Decision, None]:
        if view.held.total == self.workers:
            return Decision(allocation=view.held, reason=Rule.KEEP), None
        spot = fill(view, self.workers)
        if sum(spot) == self.workers:
            return Decision(allocation=Allocation(spot=spot), reason=Rule.FOLLOW), None
        return Decision(allocation=nothing(view), reason=Rule.BELOW_MIN), None


@dataclass(frozen=True, slots=True)
class Greedy:
    """All the spot capacity that is offered, up to the maximum, when it reaches the minimum."""

    name: str = "greedy"

    def start(self, terms: Terms) -> None:
        return None

    def decide(self, view: CapacityView, state: None) -> tuple[Decision, None]:
        return follow(view), None


def follow(view: CapacityView) -> Decision:
    """Greedy's rule, which others fall back to."""
    spot = fill(view, view.terms.max_workers)
    if sum(spot) < view.terms.min_workers:
        return Decision(allocation=nothing(view), reason=Rule.BELOW_MIN)
    return Decision(allocation=Allocation(spot=spot), reason=Rule.FOLLOW)
