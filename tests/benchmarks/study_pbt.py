"""A population whose learning rate may change against the best rate that stays.

The problem (`study_noisy.py`) is made so that the rate must change: the optimum is far and seen through noise. Both
sides run nine trials of the same steps, on the same samples, and keep their best; the constant side may choose from a
grid that has its best value inside. A third side runs the same grid with a linear fall to nothing, which nobody would
know to choose beforehand, to show what a schedule is worth here.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from orchestrator.spec import Study
from orchestrator.study.record import StudyRecord
from orchestrator.study.summary import best_trial
from tests.benchmarks.harness import Options
from tests.benchmarks.study_bench import Bench, best_of, cores, make_study, seeds_of

METRIC = "squared_error"
LOW, HIGH = 0.003, 0.2
RATES = (0.003, 0.006, 0.009, 0.013, 0.02, 0.03, 0.05, 0.1, 0.2)
PERIODS = 12


def pbt(bench: Bench, options: Options) -> dict[str, Any]:
    """Nine trials each, over seeds."""
    steps = 120 if options.quick else 400
    with cores():
        rows = [_row(bench, seed, steps) for seed in seeds_of(options)]
    ratios = [row["population"] / row["best_constant"] for row in rows]
    return {"pbt": {"rows": rows, "ratio_median": median(ratios), "ratio_range": [min(ratios), max(ratios)]}}


def _row(bench: Bench, seed: int, steps: int) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task": "tests.benchmarks.study_noisy:task",
        "args": "{}",
        "metric": METRIC,
        "steps": steps,
        "seed": seed,
        "budget": f"{{trials: {len(RATES)}}}",
    }
    values = f"{{optimizer.lr: {{type: choice, values: {list(RATES)}}}}}"
    constant = make_study(
        f"constant-{seed}",
        space=values,
        optimizer="{schedule: constant, weight_decay: 0.0}",
        **common,
    )
    falling = make_study(
        f"falling-{seed}",
        space=values,
        optimizer="{schedule: linear, min_lr_ratio: 0.0, weight_decay: 0.0}",
        **common,
    )
    population = make_study(
        f"population-{seed}",
        space=f"{{optimizer.lr: {{type: loguniform, min: {LOW}, max: {HIGH}}}}}",
        optimizer="{schedule: constant, weight_decay: 0.0}",
        searcher="{name: random}",
        scheduler=f"{{name: pbt, interval_steps: {-(-steps // PERIODS)}, quantile: 0.25, resample: 0.25}}",
        **common,
    )
    records = {study.metadata.name: (study, bench.run(study)) for study in (constant, falling, population)}
    best = {name.partition("-")[0]: best_of(*found) for name, found in records.items()}
    return {
        "seed": seed,
        "best_constant": best["constant"],
        "best_constant_rate": _rate_of_best(*records[f"constant-{seed}"]),
        "best_falling": best["falling"],
        "population": best["population"],
        "copies": sum(len(trial.changes) for trial in records[f"population-{seed}"][1].trials.values()),
        "population_rates": _rates(*records[f"population-{seed}"]),
    }


def _rate_of_best(study: Study, record: StudyRecord) -> float:
    found = best_trial(study, record)
    assert found is not None
    return float(found.config["optimizer.lr"])


def _rates(study: Study, record: StudyRecord) -> list[float]:
    """The rates under which the best trial's own attempts ran, in the order of steps, without repetitions."""
    found = best_trial(study, record)
    assert found is not None
    rates = [lr for _, _, lr in sorted(found.curve)]
    return [lr for index, lr in enumerate(rates) if index == 0 or lr != rates[index - 1]]
