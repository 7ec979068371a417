"""One gang with a deadline on one spot instance: ours against published rules and the exact optimum.

    python -m tests.benchmarks.deadline [--data DIR] [--quick]

48 h of work on the single-instance series, a deadline of 52, 60, 70 or 92 h, 0.2 h for every restart, $0.9731 on spot
and $3.06 on-demand, nine starts a file spread evenly over it. `optimal` knows the future (an exact dynamic programme).
`gap` is what a policy leaves of the optimum's savings, in points; the smaller the better.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.policies import play
from orchestrator.sim.prices import NANO
from orchestrator.sim.reference.optimal import GangProblem, optimal_cost_usd
from orchestrator.sim.series import CapacitySeries, load_series
from orchestrator.sim.world import COST_UNITS_PER_USD, US_PER_HOUR, US_PER_S, World
from tests.benchmarks.harness import print_result, read_options

WORK_H, OVERHEAD_S = 48, 720
DEADLINES_H = (52, 60, 70, 92)
STARTS = 9
SPOT_NANO, ON_DEMAND_NANO = 973_100_000, 3_060_000_000
POLICIES = ("greedy", "uniform-progress", "sliced", "tideline")
OPTIMAL = "optimal"
PUBLISHED = {  # set -> policy -> savings in % at each deadline
    "2023": {
        "greedy": (26.2, 33.8, 43.3, 48.5),
        "uniform-progress": (32.8, 41.7, 45.3, 48.3),
        OPTIMAL: (42.9, 46.6, 49.5, 54.0),
    },
    "2022": {
        "greedy": (14.0, 26.6, 31.9, 40.5),
        "uniform-progress": (18.2, 29.2, 34.9, 39.8),
        OPTIMAL: (29.8, 36.2, 39.8, 45.6),
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """One file, deadline and start."""

    name: str
    set: str
    deadline_h: int
    path: Path
    start: int  # of STARTS


def measure(case: Case) -> dict[str, tuple[float, bool]]:
    """Savings of every policy, and whether it missed; `optimal` misses only where nobody could finish."""
    series = load_series(case.path)
    world = world_of(series, case)
    found = {}
    for policy in POLICIES:
        run = play(world, policy)
        missed = run.finished_us is None or run.finished_us > world.deadline_us
        left_h = (world.work_us - run.books.useful_us + (world.stall_us if missed else 0)) / US_PER_HOUR
        usd = run.books.cost / COST_UNITS_PER_USD + (left_h * ON_DEMAND_NANO / NANO if missed else 0)
        found[policy] = (1 - usd / on_demand_usd(), missed)
    problem = GangProblem(
        available=world.counts[: case.deadline_h * 3600 // series.tick_s, 0] > 0,
        tick_s=series.tick_s,
        work_s=WORK_H * 3600,
        stall_s=OVERHEAD_S,
        spot_usd_per_h=SPOT_NANO / NANO,
        on_demand_usd_per_h=ON_DEMAND_NANO / NANO,
    )
    least = optimal_cost_usd(problem)
    return found | {OPTIMAL: (1 - least / on_demand_usd(), not math.isfinite(least))}


def on_demand_usd() -> float:
    """The bill of a gang that never sees spot."""
    return (WORK_H + OVERHEAD_S / 3600) * ON_DEMAND_NANO / NANO


def world_of(series: CapacitySeries, case: Case) -> World:
    """One gang of one worker; the run lasts to the tick in which the deadline falls."""
    ticks = math.ceil(case.deadline_h * 3600 / series.tick_s)
    room = series.num_ticks - ticks
    if room < 0:
        raise SystemExit(f"{case.path}: {series.num_ticks} ticks of {series.tick_s} s; {ticks} are needed.")
    first = room * case.start // (STARTS - 1)
    return World(
        name=case.name,
        pools=series.pools,
        counts=series.counts[first : first + ticks].clip(0, 1),
        start=series.time_of(first),
        holes=0,
        loss=LossReading.DROP,
        spot_nano=(SPOT_NANO,),
        on_demand_nano=ON_DEMAND_NANO,
        max_on_demand=1,
        tick_us=series.tick_s * US_PER_S,
        work_us=WORK_H * US_PER_HOUR,
        min_workers=1,
        max_workers=1,
        deadline_us=case.deadline_h * US_PER_HOUR,
        stall_us=OVERHEAD_S * US_PER_S,
        loss_us=0,
    )


def cases_of(data: Path, *, quick: bool) -> list[Case]:
    """Every file, deadline and start; the file's name says which set it belongs to."""
    files = sorted((data / "single-instance-spot").glob("*.json"))
    if not files:
        raise SystemExit(f"{data / 'single-instance-spot'}: no series; see the README beside the data.")
    deadlines, starts = (DEADLINES_H[:1], (0, 4)) if quick else (DEADLINES_H, tuple(range(STARTS)))
    return [
        Case(path.stem, "2022" if path.name.startswith("2022") else "2023", deadline_h, path, start)
        for deadline_h in deadlines
        for path in files
        for start in starts
    ]


def rows_of(cases: Sequence[Case], results: Sequence[dict[str, tuple[float, bool]]]) -> list[dict[str, Any]]:
    """Mean savings and misses per set, deadline and policy."""
    rows = []
    for group in dict.fromkeys((case.set, case.deadline_h) for case in cases):
        mine = [r for c, r in zip(cases, results, strict=True) if (c.set, c.deadline_h) == group]
        best = statistics.fmean(r[OPTIMAL][0] for r in mine)
        for policy in (*POLICIES, OPTIMAL):
            savings = statistics.fmean(r[policy][0] for r in mine)
            rows.append(
                {
                    "set": group[0],
                    "deadline_h": group[1],
                    "policy": policy,
                    "savings": savings,
                    "missed": sum(r[policy][1] for r in mine),
                    "gap_points": 100 * (best - savings),
                    "runs": len(mine),
                }
            )
    return rows


def published_gaps(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Per policy the largest distance from its published savings, in points."""
    gaps: dict[str, float] = {}
    for row in rows:
        if row["policy"] in PUBLISHED[row["set"]]:
            at = PUBLISHED[row["set"]][row["policy"]][DEADLINES_H.index(row["deadline_h"])]
            gap = abs(100 * row["savings"] - at)
            gaps[row["policy"]] = round(max(gap, gaps.get(row["policy"], 0.0)), 2)
    return gaps


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table for people, on stderr."""
    names = (*POLICIES, OPTIMAL)
    table = Table("set", "deadline", *names, "gap of uniform", "gap of ours", "missed", title="mean savings, %")
    for group in dict.fromkeys((row["set"], row["deadline_h"]) for row in rows):
        mine = {r["policy"]: r for r in rows if (r["set"], r["deadline_h"]) == group}
        table.add_row(
            *(group[0], f"{group[1]} h"),
            *(f"{100 * mine[name]['savings']:.1f}" for name in names),
            f"{mine['uniform-progress']['gap_points']:.1f}",
            f"{mine['tideline']['gap_points']:.1f}",
            str(mine["tideline"]["missed"]),
        )
    Console(stderr=True, width=140).print(table)


def main() -> None:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--processes", type=int, default=2)
    options = read_options(__doc__ or "", extra=extra)
    cases = cases_of(options.data, quick=options.quick)
    with multiprocessing.Pool(options.rest.processes) as pool:
        results = list(track(pool.imap(measure, cases), "runs", len(cases), console=Console(stderr=True)))
    rows = rows_of(cases, results)
    show(rows)
    result = {"benchmark": "deadline", "published_gap_points": published_gaps(rows), "rows": rows}
    print_result(result, quick=options.quick)


if __name__ == "__main__":
    main()
