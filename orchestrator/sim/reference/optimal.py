"""The cheapest way through a known future for one gang on one spot pool: an exact dynamic programme.

State: where the gang is, restart overhead left, progress; all times in units of the greatest common divisor of tick,
overhead and work, so nothing is rounded. Physics as in the engine: a change of place starts the overhead anew, losing
spot costs no work (the series has no unannounced loss), billing stops when the work is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
MAX_UNITS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GangProblem:
    """One gang, one pool. `available`: whether spot can be had at each tick up to the deadline. Seconds, dollars."""

    available: NDArray[np.bool_]
    tick_s: int
    work_s: int
    stall_s: int
    spot_usd_per_h: float
    on_demand_usd_per_h: float


def optimal_cost_usd(problem: GangProblem) -> float:
    """Least cost of finishing within the ticks given; infinite when that cannot be done.

    Raises: ValueError when the common unit is so small that the programme would not fit in memory.
    """
    unit = math.gcd(problem.tick_s, problem.work_s, problem.stall_s)
    tick, work, stall = problem.tick_s // unit, problem.work_s // unit, problem.stall_s // unit
    if work > MAX_UNITS:
        raise ValueError(f"{work} progress units of {unit} s; at most {MAX_UNITS}")
    overheads = range(stall, 0, -tick)  # what can be left of an overhead at the start of a tick
    levels = [*overheads, 0]
    per_unit = {
        s: usd * unit / 3600 for s, usd in (("spot", problem.spot_usd_per_h), ("od", problem.on_demand_usd_per_h))
    }
    # value[place][overhead level] -> cost to go for every progress 0..work; idle has one level only.
    done = np.full(work + 1, np.inf)
    done[work] = 0.0
    value = {"idle": [done], "spot": [done] * len(levels), "od": [done] * len(levels)}
    for spot_here in problem.available[::-1]:
        stay = {p: [_tick_cost(value[p], levels, i, tick, per_unit[p]) for i in range(len(levels))] for p in per_unit}
        idle = value["idle"][0]
        to_od, to_spot = stay["od"][0], stay["spot"][0] if spot_here else np.full(work + 1, np.inf)
        from_idle = np.minimum(np.minimum(idle, to_od), to_spot)
        leave_spot, leave_od = np.minimum(idle, to_od), np.minimum(idle, to_spot)
        value = {
            "idle": [from_idle],
            "spot": [np.minimum(leave_spot, c) if spot_here else leave_spot for c in stay["spot"]],
            "od": [np.minimum(leave_od, c) for c in stay["od"]],
        }
    return float(value["idle"][0][0])


def _tick_cost(after: list[Costs], levels: list[int], level: int, tick: int, usd_per_unit: float) -> Costs:
    """Cost to go of running one tick with `levels[level]` units of overhead left, for every progress."""
    overhead = levels[level]
    useful = max(0, tick - overhead)
    next_level = min(level + 1, len(levels) - 1)
    last = after[next_level]
    work = len(last) - 1
    cost = np.empty_like(last)
    # A job may be shorter than a tick.
    cost[: max(0, work + 1 - useful)] = last[useful:] + tick * usd_per_unit
    # Close to the end the work completes inside this tick, and billing stops with it.
    remaining = np.arange(min(useful, work + 1))[::-1]
    cost[work + 1 - len(remaining) :] = (overhead + remaining) * usd_per_unit
    cost[work] = 0.0
    return cost
