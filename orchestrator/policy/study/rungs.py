"""At which steps a trial reports and is judged, and what a study can cost before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.spec.search import AshaScheduler, HyperbandScheduler, MedianScheduler, NoScheduler, PbtScheduler
from orchestrator.spec.study import StudySpec

# A trial that nobody judges on the way still reports so often: for its curve, and so that little is lost with a node.
PLAIN_REPORTS = 10


def report_steps(spec: StudySpec) -> tuple[int, ...]:
    """Steps after which a trial saves, is measured and waits for a verdict, ascending; the last one is its end."""
    steps = spec.template.steps
    match spec.scheduler:
        case AshaScheduler(grace_steps=first, reduction_factor=factor):
            found = _geometric(first, factor, steps)
        case HyperbandScheduler(grace_steps=first, reduction_factor=factor):
            found = _geometric_down(steps, first, factor)
        case PbtScheduler(interval_steps=every) | MedianScheduler(grace_steps=every):
            found = list(range(every, steps, every))
        case NoScheduler():
            every = max(1, math.ceil(steps / PLAIN_REPORTS))
            found = list(range(every, steps, every))
    return (*found, steps)


def next_report(reports: tuple[int, ...], step: int) -> int | None:
    """The first report after `step`; None at the end."""
    return next((report for report in reports if report > step), None)


def largest_rung(reports: tuple[int, ...]) -> int:
    """Steps of the longest way from one report to the next."""
    return max(after - before for before, after in zip((0, *reports), reports, strict=False))


def _geometric(first: int, factor: int, steps: int) -> list[int]:
    found = []
    while first < steps:
        found.append(first)
        first *= factor
    return found


def _geometric_down(steps: int, least: int, factor: int) -> list[int]:
    """As Hyperband counts: the whole budget, divided again and again."""
    found: list[int] = []
    power = 1
    while steps // factor**power >= least:
        found.append(steps // factor**power)
        power += 1
    return sorted(set(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Steps of a whole study: at most (no trial is stopped) and as expected (schedulers stop the share they aim at)."""

    trials: int | None
    most_steps: int | None
    expected_steps: int | None
    repeats: int


def forecast(spec: StudySpec, num_configs: float) -> Forecast:
    """What the study's budget in trials, or its finite grid, makes it run; None where only other units end it."""
    limits = [float(spec.budget.trials)] if spec.budget.trials is not None else []
    limits += [num_configs] if spec.searcher.name == "grid" else []
    repeats = spec.repeat.top * (spec.repeat.seeds - 1) if spec.repeat else 0
    if not limits:
        return Forecast(trials=None, most_steps=None, expected_steps=None, repeats=repeats)
    trials, steps = int(min(limits)), spec.template.steps
    return Forecast(
        trials=trials,
        most_steps=(trials + repeats) * steps,
        expected_steps=_expected(spec, trials) + repeats * steps,
        repeats=repeats,
    )


def _expected(spec: StudySpec, trials: int) -> int:
    """One in `reduction_factor` goes on from each rung (ASHA, Hyperband); half are below a median."""
    reports, steps = report_steps(spec), spec.template.steps
    match spec.scheduler:
        case AshaScheduler(reduction_factor=factor) | HyperbandScheduler(reduction_factor=factor):
            share = 1.0 / factor
        case MedianScheduler():
            share = 0.5
            return round(trials * (reports[0] + (steps - reports[0]) * share))
        case PbtScheduler() | NoScheduler():
            return trials * steps
    total, alive, before = 0.0, float(trials), 0
    for report in reports:
        total += math.ceil(alive) * (report - before)
        alive, before = alive * share, report
    return round(total)
