"""Our capacity policy: hold what pays for the disruptions it brings, and let the deadline set what progress is worth.

Each tick, in order: learn from the new row, let the deadline price progress, list what could be held and what it
risks, find the best plans, and change only when a plan beats staying by more than its stall. Last, the net: a plan
that on-demand could not rescue is never chosen. Parameters and how they were chosen: docs/policies.md.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.policy.capacity.deadline import (
    Efficiency,
    Pace,
    Supply,
    anchor_usd,
    is_rescuable,
    observe_efficiency,
    observe_supply,
    pace,
    rescue,
)
from orchestrator.policy.capacity.gang import GangPlan, allocation_at, is_open, is_planned, make_plan, ranked
from orchestrator.policy.capacity.market import Market, observe_market
from orchestrator.policy.capacity.options import NOTHING, PoolOptions, pool_options
from orchestrator.policy.capacity.survival import PoolMemory, observe, paces
from orchestrator.policy.capacity.usual import Usual, observe_usual
from orchestrator.policy.capacity.value import Plan, Stakes, best_plans, stall_usd, topped_up, worth_usd
from orchestrator.policy.capacity.view import Allocation, CapacityView, Decision, Terms

PAYBACK_S = 1500.0  # a change must pay for its stall in this time, or until another is due, whichever is later


class CapacityReason(enum.StrEnum):
    """Why the policy holds what it holds; the closed set of ledger, metrics and tests."""

    HOLD = "hold"  # nothing else is worth a stall
    WAIT = "wait"  # nothing held, and nothing offered that pays
    START = "start"
    GROW = "grow"
    SHRINK = "shrink"
    SWAP = "swap"
    REGROUP = "regroup"  # devices vanished: the stall is due anyway, so the whole plan is made anew
    PAUSE = "pause"  # what is held no longer pays
    RESCUE = "rescue"  # only on-demand still keeps the deadline


@dataclass(frozen=True, slots=True)
class TidelineState:
    """What the policy remembers between ticks."""

    pools: tuple[PoolMemory, ...]
    efficiency: Efficiency
    supply: Supply
    usual: Usual
    market: Market | None = None
    plan: GangPlan | None = None


@dataclass(frozen=True, slots=True)
class Tideline:
    """The policy `tideline`; a pure function of its view and state."""

    name: str = "tideline"

    def start(self, terms: Terms) -> TidelineState:
        """The state before the first tick: no pool is known."""
        pools = (PoolMemory(),) * len(terms.pools)
        return TidelineState(pools=pools, efficiency=Efficiency(), supply=Supply(), usual=Usual())

    def decide(self, view: CapacityView, state: TidelineState) -> tuple[Decision, TidelineState]:
        """Choose what to hold at this tick."""
        if is_planned(view.terms):
            return decide_for_gang(view, state)
        # 1. Learn from the new row and from what the last tick achieved.
        state = learn(view, state)
        # 2. Price progress by what the deadline asks.
        needed = pace(view, state.efficiency, state.supply, state.usual)
        stakes = make_stakes(view, needed)
        # 3. List what could be held, and what it risks.
        speeds = paces(state.pools)
        pools = [
            pool_options(view.terms, memory, speed, held, view.tick)
            for memory, speed, held in zip(state.pools, speeds, view.held.spot, strict=True)
        ]
        # 4. Compare staying, waiting and the best plans; a change must pay for its stall.
        ranked = sorted(candidates(view, pools, stakes, must_run=needed.must_run), key=lambda found: -found[0])
        # 5. The net: only what on-demand can still rescue.
        for _, plan in ranked:
            allocation = Allocation(spot=tuple(o.level for o in plan.options), on_demand=plan.on_demand)
            if is_rescuable(view, allocation):
                return explain(view, allocation, needed), state
        return explain(view, best_effort(view, ranked[0][1]), needed, rescued=True), state


def decide_for_gang(view: CapacityView, state: TidelineState) -> tuple[Decision, TidelineState]:
    """One gang on one pool: the first way of its plan that on-demand can still rescue."""
    terms, opened = view.terms, is_open(view)
    market = observe_market(state.market, is_open=opened, tick_s=terms.tick_s)
    usual, plan = observe_usual(state.usual, view), state.plan
    if plan is None or not plan.covers(view.time_left_s - terms.tick_s):
        plan = make_plan(view, market, usual)
    state = replace(state, market=market, usual=usual, plan=plan)
    for usd, place in ranked(view, market, plan):
        allocation = allocation_at(place, terms.min_workers)
        if is_rescuable(view, allocation):
            detail = f"{place.name.lower()}; the rest is expected to cost ${usd:.2f}"
            return Decision(allocation=allocation, reason=reason_for(view, allocation), detail=detail), state
    detail = "only on-demand still keeps the deadline"
    return Decision(allocation=rescue(view), reason=CapacityReason.RESCUE, detail=detail), state


def learn(view: CapacityView, state: TidelineState) -> TidelineState:
    """Take in the row of now."""
    counts = view.rows[-1].tolist()
    tick_s = view.terms.tick_s
    pools = tuple(observe(m, count, view.tick, tick_s) for m, count in zip(state.pools, counts, strict=True))
    return TidelineState(
        pools,
        observe_efficiency(state.efficiency, view),
        observe_supply(state.supply, view),
        observe_usual(state.usual, view),
    )


def make_stakes(view: CapacityView, needed: Pace) -> Stakes:
    """The prices of this tick."""
    terms = view.terms
    return Stakes(
        usd_per_worker_hour=needed.usd_per_worker_hour,
        on_demand_usd=anchor_usd(terms, view.prices, view.on_demand_price),
        spot_usd=view.prices,
        tick_h=terms.tick_s / 3600.0,
        stall_h=terms.stall_s / 3600.0,
        lost_s=terms.stall_s + terms.loss_s,
        floor=needed.floor,
        min_workers=terms.min_workers,
        max_workers=terms.max_workers,
        on_demand_room=terms.on_demand_limit,
        horizon=max(1.0, PAYBACK_S / terms.tick_s),
    )


def candidates(
    view: CapacityView, pools: list[PoolOptions], stakes: Stakes, *, must_run: bool
) -> Iterable[tuple[float, Plan]]:
    """Plans with their worth per tick, a due stall taken off: the best found, staying, staying topped up, waiting."""
    options = tuple(pool.choices[pool.held] for pool in pools)
    stay = Plan(options, view.held.on_demand)
    running, changed = stay.workers >= stakes.min_workers, any(view.lost)
    plans = best_plans(pools, stakes)
    if any(view.held.spot) and (changed or stay.workers < stakes.floor):
        plans.append(topped_up(options, stakes))
    for plan in plans:
        if plan.workers >= stakes.min_workers and plan != stay:
            yield worth_usd(plan, stakes) - stall_usd(plan, stay, stakes), plan
    if running:
        yield worth_usd(stay, stakes) - (stall_usd(stay, stay, stakes) if changed else 0.0), stay
    waiting = Plan((NOTHING,) * len(pools))
    yield (-math.inf if must_run else -return_usd(stay, stakes) if running else 0.0), waiting


def return_usd(stay: Plan, stakes: Stakes) -> float:
    """What a pause costs per tick: the stall of coming back, to be saved within the payback time."""
    return stakes.usd_per_worker_hour * stay.workers * stakes.stall_h / stakes.horizon


def best_effort(view: CapacityView, plan: Plan) -> Allocation:
    """The rescue; where no on-demand is to be had, the best plan, for the deadline is then out of our hands."""
    if view.terms.on_demand_limit >= view.terms.min_workers:
        return rescue(view)
    return Allocation(spot=tuple(option.level for option in plan.options), on_demand=plan.on_demand)


def explain(view: CapacityView, chosen: Allocation, needed: Pace, *, rescued: bool = False) -> Decision:
    """The decision with its reason, and the sentence `tide why` shows."""
    reason = CapacityReason.RESCUE if rescued else reason_for(view, chosen)
    detail = (
        f"{sum(chosen.spot)} spot + {chosen.on_demand} on-demand; the deadline needs {needed.workers:.0f} workers, "
        f"a worker-hour is worth ${needed.usd_per_worker_hour:.2f}"
    )
    return Decision(allocation=chosen, reason=reason, detail=detail)


def reason_for(view: CapacityView, chosen: Allocation) -> CapacityReason:
    """What a choice does to what is held, in one word."""
    held = view.held.total
    if chosen.total == 0:
        return CapacityReason.PAUSE if held else CapacityReason.WAIT
    if any(view.lost):
        return CapacityReason.REGROUP
    if chosen == view.held:
        return CapacityReason.HOLD
    if held == 0:
        return CapacityReason.START
    if chosen.total == held:
        return CapacityReason.SWAP
    return CapacityReason.GROW if chosen.total > held else CapacityReason.SHRINK
