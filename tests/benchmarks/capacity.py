"""P1: what a deadline costs on recorded spot capacity, under our policy, published ones, and with the future known.

    python -m tests.benchmarks.capacity [--data DIR] [--quick] [--stall S --loss S] [--measured-only]
        [--choosing] [--no-foresight]

A job of 100 to 200 workers has 96 h; every 12 h of the series begins a window. Twelve settings as published with the
reference policies, then our measured stall and loss. A deadline missed is charged the on-demand cost of finishing.
`foresight` is a plan made with the whole series and played in the same engine; `foresight-bound` is the bill no
policy can go below (both: orchestrator/sim/reference/foresight.py). `--choosing` runs the series that parameters may
be chosen on instead of those that are reported.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from orchestrator.policy.capacity.view import Counts
from orchestrator.sim.engine import Run
from orchestrator.sim.policies import play
from orchestrator.sim.reference.foresight import foresee
from orchestrator.sim.world import COST_UNITS_PER_USD, US_PER_HOUR, World, on_demand_run
from tests.benchmarks.capacity_published import published_gaps
from tests.benchmarks.capacity_series import Recorded, Setting, choosing, load, reporting, world_of
from tests.benchmarks.harness import print_result, read_options

WORKS_H = (8640, 10560)
OVERHEADS_S = ((30, 150), (180, 150), (10, 10))
READINGS = ("drop", "debounced")
REFERENCES = (
    "on-demand",
    "gang-100",
    "gang-128",
    "greedy",
    "uniform-progress",
    "trailing-min-1h",
    "trailing-min-2h",
)
OURS, FREE, FORESIGHT, LEAST = "tideline", "bound", "foresight", "foresight-bound"


@dataclass(frozen=True, slots=True)
class Case:
    """One window under one setting."""

    setting: Setting
    window: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Score:
    """One policy in one window. Savings and goodput are fractions of the on-demand bill and of the paid hours."""

    policy: str
    savings: float
    missed: bool = False
    training_goodput: float | None = None
    resizes: int | None = None
    on_demand_hours: float | None = None


def settings(stall_s: float, loss_s: float) -> list[Setting]:
    """The published twelve, then the same work at the stall and loss measured."""
    overheads = [*OVERHEADS_S, (stall_s, loss_s)]
    return [
        Setting(work_h=work, stall_s=stall, loss_s=loss, loss=reading)
        for (stall, loss), work, reading in itertools.product(overheads, WORKS_H, READINGS)
    ]


def score(run: Run) -> Score:
    """A run's figures; the rest of a missed deadline's work is bought on-demand, after one more stall."""
    world, books = run.world, run.books
    assert world.on_demand_nano is not None
    missed = run.finished_us is None or run.finished_us > world.deadline_us
    left_us = world.work_us - books.useful_us
    extra = (left_us + world.stall_us * world.max_workers) * world.on_demand_nano if left_us else 0
    paid_us = books.spot_us + books.on_demand_us
    return Score(
        policy=run.policy,
        savings=1 - (books.cost + extra) / _on_demand_cost(world),
        missed=missed,
        training_goodput=books.useful_us / paid_us if paid_us else 0.0,
        resizes=books.resizes,
        on_demand_hours=books.on_demand_us / US_PER_HOUR,
    )


def _on_demand_cost(world: World) -> int:
    assert world.on_demand_nano is not None
    return on_demand_run(world).device_us * world.on_demand_nano


def known_future(world: World) -> list[Score]:
    """What knowing the series would give: the plan played, and the bound."""
    known = foresee(world)
    least = Score(LEAST, 1 - known.bound_usd * COST_UNITS_PER_USD / _on_demand_cost(world))
    return [least] if known.run is None else [score(known.run), least]


_recorded: Recorded
_policies: tuple[str, ...]
_foresight: bool


def _prepare(recorded: Recorded, policies: tuple[str, ...], foresight: bool) -> None:
    global _recorded, _policies, _foresight
    _recorded, _policies, _foresight = recorded, policies, foresight


def measure(case: Case) -> tuple[Setting, int, list[Score]]:
    """Every policy in one window."""
    world = world_of(_recorded, case.counts, case.setting)
    scores = [score(play(world, policy)) for policy in _policies]
    return case.setting, case.window, scores + (known_future(world) if _foresight else [])


def as_row(setting: Setting, policy: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Means over the windows of one setting and policy."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    return {
        "work_h": setting.work_h,
        "stall_s": setting.stall_s,
        "unannounced_loss_s": setting.loss_s,
        "loss": setting.loss,
        "policy": policy,
        "savings": mean([s.savings for s in scores]),
        "deadlines_missed": sum(s.missed for s in scores),
        "windows": len(scores),
        "training_goodput": mean([s.training_goodput for s in scores]),
        "resizes": mean([s.resizes for s in scores]),
        "on_demand_hours": mean([s.on_demand_hours for s in scores]),
        "savings_by_window": [s.savings for s in scores],
    }


def verdict(rows: Sequence[dict[str, Any]], chosen: Sequence[Setting]) -> list[dict[str, Any]]:
    """Per setting: ours, the best reference, the lead over it, and our cost above foresight's."""
    found = []
    for setting in chosen:
        mine = {r["policy"]: r["savings"] for r in rows if _is_of(r, setting)}
        best = max(REFERENCES, key=lambda policy: mine.get(policy, -1.0))
        entry = asdict(setting) | {"ours": mine[OURS], "best": best, "lead": mine[OURS] - mine[best]}
        for name in (FORESIGHT, LEAST):
            if name in mine:
                entry[f"cost_above_{name}"] = (1 - mine[OURS]) / (1 - mine[name]) - 1
        found.append(entry)
    return found


def _is_of(row: dict[str, Any], setting: Setting) -> bool:
    key = (row["work_h"], row["stall_s"], row["unannounced_loss_s"], row["loss"])
    return key == (setting.work_h, setting.stall_s, setting.loss_s, setting.loss)


def show(rows: Sequence[dict[str, Any]], chosen: Sequence[Setting], verdicts: Sequence[dict[str, Any]]) -> None:
    """A table for people, on stderr: mean savings in %, and how ours stands."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    columns = ("work", "stall", "loss", "reading", *policies, "lead", "goodput", "resizes", "od h", "missed")
    table = Table(*columns, title="mean savings against on-demand, %")
    for setting, found in zip(chosen, verdicts, strict=True):
        mine = {row["policy"]: row for row in rows if _is_of(row, setting)}
        savings = [f"{100 * mine[policy]['savings']:.1f}" if policy in mine else "-" for policy in policies]
        ours = mine[OURS]
        table.add_row(
            *(f"{setting.work_h} h", f"{setting.stall_s:g} s", f"{setting.loss_s:g} s", setting.loss),
            *savings,
            f"{100 * found['lead']:+.1f}",
            f"{ours['training_goodput']:.2f}",
            f"{ours['resizes']:.0f}",
            f"{ours['on_demand_hours']:.0f}",
            str(ours["deadlines_missed"]),
        )
    Console(stderr=True, width=230).print(table)


def main() -> None:
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--stall", type=float, default=6.0, help="our stall of a resize, seconds")
    extra.add_argument("--loss", type=float, default=30.0, help="our loss at a hard kill, seconds of work")
    extra.add_argument("--measured-only", action="store_true", help="only the rows of our stall and loss")
    extra.add_argument("--choosing", action="store_true", help="the series for choosing parameters instead")
    extra.add_argument("--no-foresight", action="store_true", help="leave out what takes most of the time")
    extra.add_argument("--processes", type=int, default=2)
    options = read_options(__doc__ or "", extra=extra)
    recorded, rest = load(options.data), options.rest
    series = recorded.series
    stretches = choosing(series) if rest.choosing else reporting(series)
    if not stretches:
        raise SystemExit(f"{series.source}: {series.num_ticks} ticks of {series.tick_s} s; at least 96 h are needed.")
    chosen = settings(rest.stall, rest.loss)
    if rest.measured_only:
        chosen = chosen[-4:]
    if options.quick:
        stretches, chosen = stretches[:2], chosen[-2:]
    cases = [Case(setting, i, counts) for setting in chosen for i, counts in enumerate(stretches)]
    policies = (*REFERENCES, OURS, FREE)
    with multiprocessing.Pool(rest.processes, _prepare, (recorded, policies, not rest.no_foresight)) as pool:
        done = list(track(pool.imap(measure, cases), "windows", len(cases), console=Console(stderr=True)))
    rows = [
        as_row(setting, policy, [s for at, _, scores in done if at == setting for s in scores if s.policy == policy])
        for setting in chosen
        for policy in dict.fromkeys(s.policy for at, _, scores in done if at == setting for s in scores)
    ]
    verdicts = verdict(rows, chosen)
    show(rows, chosen, verdicts)
    published = [found for found in verdicts if (found["stall_s"], found["loss_s"]) in OVERHEADS_S]
    leads = [found["lead"] for found in published] or [found["lead"] for found in verdicts]
    result = {
        "benchmark": "capacity",
        "series": str(series.source.name),
        "chosen_on": "choosing" if rest.choosing else "reporting",
        "least_lead": min(leads),
        "mean_lead": statistics.fmean(leads),
        "deadlines_missed": sum(row["deadlines_missed"] for row in rows if row["policy"] == OURS),
        "published_gap_points": {} if rest.choosing else published_gaps(rows),
        "verdicts": verdicts,
        "rows": rows,
    }
    print_result(result, quick=options.quick)


if __name__ == "__main__":
    main()
