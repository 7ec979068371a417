"""What a plan is worth per tick, and the best plan for a given price of progress.

A plan holds one option of every pool and a number of on-demand devices. Its worth per tick is the value of the work
the devices do, less their price, less the disruptions they risk: a disruption stalls every worker, so its cost grows
with the whole plan, and two in the same tick cost no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.policy.capacity.options import Option, PoolOptions

SWEEPS = 2
PRICE_STEPS = 3
LEAST_FALL = 1e-3  # no plan is believed to stand for more than a thousand ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """The prices a plan is judged by. Dollars per device-hour; `usd_per_worker_hour` is the price of progress.

    `floor`: workers to reach with on-demand. `on_demand_room`: most on-demand devices. `horizon`: ticks a change has
    at least to pay for itself.
    """

    usd_per_worker_hour: float
    on_demand_usd: float
    spot_usd: Sequence[float]
    tick_h: float
    stall_h: float
    lost_s: float
    floor: int
    min_workers: int
    max_workers: int
    on_demand_room: int
    horizon: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One option per pool and on-demand devices beside them."""

    options: tuple[Option, ...]
    on_demand: int = 0

    @property
    def workers(self) -> int:
        """All devices of the plan."""
        return sum(option.level for option in self.options) + self.on_demand


def worth_usd(plan: Plan, stakes: Stakes) -> float:
    """Dollars per tick that a plan earns at the stakes' price of progress; negative when it loses."""
    progress = stakes.usd_per_worker_hour
    margin = sum(
        option.level * option.stay * (progress - price)
        for option, price in zip(plan.options, stakes.spot_usd, strict=True)
    )
    margin -= plan.on_demand * (stakes.on_demand_usd - progress)
    return stakes.tick_h * margin - progress * plan.workers * disruption_s(plan.options, stakes) / 3600.0


def stall_usd(plan: Plan, stay: Plan, stakes: Stakes) -> float:
    """The cost per tick of the stall with which a plan begins, spread over the ticks until one is due anyway.

    That is when a pool of either plan falls: the other plan would then have been free to change as well.
    """
    pairs = zip(plan.options, stay.options, strict=True)
    calm = math.prod((1.0 - max(new.fall, old.fall)) * (1.0 - old.gamble) for new, old in pairs)
    ticks = max(stakes.horizon, 1.0 / max(1.0 - calm, LEAST_FALL))
    return stakes.usd_per_worker_hour * plan.workers * stakes.stall_h / ticks


def disruption_s(options: Sequence[Option], stakes: Stakes) -> float:
    """Expected seconds per tick that the whole job loses to falling capacity."""
    calm = math.prod(1.0 - option.fall for option in options)
    falls = sum(option.fall for option in options)
    together = (1.0 - calm) / falls if falls > 0 else 1.0
    surely_kept = math.prod(1.0 - option.gamble for option in options)
    gambled = (1.0 - surely_kept) * stakes.lost_s / stakes.horizon
    return together * sum(option.cost_s for option in options) + gambled


def best_plans(pools: Sequence[PoolOptions], stakes: Stakes) -> list[Plan]:
    """The best plans found from two sides: starting with everything that is offered, and with what is held.

    Falls that coincide cost once, so holding much and holding little can each be right in itself; the caller
    compares. Each plan is topped up to the floor with on-demand and cut to the maximum.
    """
    offered, held = tuple([p.choices[p.most] for p in pools]), tuple([p.choices[p.held] for p in pools])
    found = _search(pools, stakes, offered)
    if held == offered:
        return [found]
    other = _search(pools, stakes, held)
    return [found] if other == found else [found, other]


def topped_up(options: tuple[Option, ...], stakes: Stakes) -> Plan:
    """The options with as many on-demand devices as the floor asks and the limits allow."""
    spot = sum(option.level for option in options)
    return Plan(options, max(0, min(stakes.floor - spot, stakes.max_workers - spot, stakes.on_demand_room)))


def _search(pools: Sequence[PoolOptions], stakes: Stakes, start: tuple[Option, ...]) -> Plan:
    """Raise the value of a spot device from the price of progress to that of on-demand until the floor is reached.

    Below the floor a spot device replaces an on-demand one and is worth as much.
    """
    low, high = stakes.usd_per_worker_hour, max(stakes.usd_per_worker_hour, stakes.on_demand_usd)
    chosen = start
    for step in range(PRICE_STEPS):
        device_usd = low + (high - low) * step / (PRICE_STEPS - 1)
        chosen = _settle(pools, stakes, start, device_usd)
        if high == low or sum(option.level for option in chosen) >= stakes.floor:
            break
    return topped_up(_cut(chosen, stakes), stakes)


def _settle(
    pools: Sequence[PoolOptions], stakes: Stakes, chosen: tuple[Option, ...], device_usd: float
) -> tuple[Option, ...]:
    """Let every pool answer the others' choices, a few times over."""
    for _ in range(SWEEPS):
        spot = sum([option.level for option in chosen])
        workers = min(stakes.max_workers, max(spot, stakes.floor))
        second_usd = stakes.usd_per_worker_hour * workers / 3600.0
        calm = math.prod([1.0 - option.fall for option in chosen])
        kept = math.prod([1.0 - option.gamble for option in chosen])
        gamble_s = stakes.lost_s / stakes.horizon
        answers = []
        for pool, own, price in zip(pools, chosen, stakes.spot_usd, strict=True):
            others_calm = calm / max(1.0 - own.fall, 1e-3)
            others_kept = kept / max(1.0 - own.gamble, 1e-3)
            device_tick = stakes.tick_h * (device_usd - price)
            fall_usd, gamble_usd = second_usd * others_calm, second_usd * others_kept * gamble_s
            best, best_usd = pool.choices[0], 0.0
            for option in pool.choices[1:]:
                level, _, cost_s, gamble, stay = option
                usd = level * stay * device_tick - cost_s * fall_usd - gamble * gamble_usd
                if usd > best_usd:
                    best, best_usd = option, usd
            answers.append(best)
        settled = chosen == tuple(answers)
        chosen = tuple(answers)
        if settled:
            break
    return chosen


def _cut(options: tuple[Option, ...], stakes: Stakes) -> tuple[Option, ...]:
    """Give up what earns least per device until the maximum is kept; later pools first among equals."""
    excess = sum(option.level for option in options) - stakes.max_workers
    if excess <= 0:
        return options
    second_usd = stakes.usd_per_worker_hour * stakes.max_workers / 3600.0
    kept = list(options)

    def earns(pool: int) -> float:
        option = options[pool]
        margin = stakes.tick_h * (stakes.usd_per_worker_hour - stakes.spot_usd[pool])
        return margin - option.cost_s * second_usd / max(option.level, 1)

    for pool in sorted(range(len(kept)), key=lambda p: (earns(p), -p)):
        level = kept[pool].level
        dropped = min(excess, level)
        kept[pool] = kept[pool]._replace(level=level - dropped)
        excess -= dropped
        if excess == 0:
            break
    return tuple(kept)
