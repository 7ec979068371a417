"""What the reference policies share: words for their reasons, filling by price, and the elastic safety net."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.policy.capacity.view import Allocation, CapacityPolicy, CapacityView, Decision, Terms


class Rule(enum.StrEnum):
    """Why a reference policy holds what it holds."""

    FIXED = "fixed"
    KEEP = "keep"
    FOLLOW = "follow"
    BEHIND = "behind-the-line"
    BELOW_MIN = "below-min"
    SAFETY_NET = "safety-net"


def cheapest_first(prices: Sequence[float]) -> list[int]:
    """Pool indices by price; equal prices in column order. Reversed, it is the order to give up in."""
    return sorted(range(len(prices)), key=lambda pool: (prices[pool], pool))


def fill(view: CapacityView, target: int, offered: Sequence[int] | None = None) -> tuple[int, ...]:
    """Reach `target` spot devices from what is held: add the cheapest, give up the dearest; fewer if not offered."""
    spot = list(view.held.spot)
    most = view.offered if offered is None else offered
    order = cheapest_first(view.prices)
    missing = target - sum(spot)
    for pool in order if missing > 0 else ():
        added = min(missing, most[pool] - spot[pool])
        spot[pool] += added
        missing -= added
    for pool in reversed(order) if missing < 0 else ():
        dropped = min(-missing, spot[pool])
        spot[pool] -= dropped
        missing += dropped
    return tuple(spot)


def nothing(view: CapacityView) -> Allocation:
    """Hold nothing at all."""
    return Allocation(spot=(0,) * len(view.terms.pools))


def steady_rate(terms: Terms) -> int:
    """Workers that finish exactly at the deadline when nothing goes wrong, at least the minimum."""
    return max(terms.min_workers, math.ceil(terms.work_s / terms.deadline_s))


def progress_line(view: CapacityView) -> float:
    """Work a job in step with its deadline would have done by now, in worker-seconds."""
    return view.terms.work_s * view.elapsed_s / view.terms.deadline_s


@dataclass(frozen=True, slots=True)
class NetState:
    """On-demand workers the safety net holds to the end (None: not caught yet), and the inner policy's state."""

    caught: int | None
    inner: Any


@dataclass(frozen=True, slots=True)
class WithSafetyNet:
    """Runs a policy until the deadline only just allows the switch to on-demand, then stays on on-demand."""

    inner: CapacityPolicy

    @property
    def name(self) -> str:
        return self.inner.name

    def start(self, terms: Terms) -> NetState:
        return NetState(None, self.inner.start(terms))

    def decide(self, view: CapacityView, state: NetState) -> tuple[Decision, NetState]:
        caught = state.caught if state.caught is not None else net_workers(view)
        if caught is not None:
            allocation = Allocation(spot=(0,) * len(view.terms.pools), on_demand=caught)
            return Decision(allocation=allocation, reason=Rule.SAFETY_NET), NetState(caught, state.inner)
        decision, inner = self.inner.decide(view, state.inner)
        return decision, NetState(None, inner)


def net_workers(view: CapacityView) -> int | None:
    """On-demand workers to hold to the end if the last safe moment has come, else None."""
    terms, most = view.terms, view.terms.on_demand_limit
    if most < 1:
        return None
    reserve_s = 2 * terms.stall_s + terms.loss_s * terms.max_workers / most + terms.tick_s
    if view.work_left_s / most + reserve_s < view.time_left_s:
        return None
    running_s = view.time_left_s - 2 * terms.stall_s
    if running_s <= 0:
        return most
    return min(most, max(terms.min_workers, math.ceil(view.work_left_s / running_s)))
