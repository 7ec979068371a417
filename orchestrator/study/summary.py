"""A study's record as plain values for tables, JSON and pages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.policy.study.budget import Limits
from orchestrator.policy.study.compare import difference
from orchestrator.policy.study.rungs import report_steps
from orchestrator.policy.study.values import Rates, TrialState, spent
from orchestrator.spec import Study
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.standing import ranked


def summary(study: Study, record: StudyRecord, rates: Rates, *, running: bool) -> dict[str, Any]:
    """The whole study; trials in the order in which they were drawn."""
    spec = study.spec
    used = spent(record.device_s, rates)
    best = best_trial(study, record)
    closed = record.closed
    return {
        "study": study.metadata.name,
        "state": state_of(record, running=running),
        "why": str(closed.why) if closed and not running else None,
        "detail": closed.detail if closed and not running else None,
        "metric": spec.metric,
        "mode": spec.mode,
        "rungs": list(report_steps(spec)),
        "spent": {
            "trials": len(record.searched),
            "device_hours": used.device_hours,
            "usd": None if rates.usd_per_device_hour is None else used.usd,
            "kwh": None if rates.watts_per_device is None else used.kwh,
        },
        "budget": _limits(study),
        "steps_run": sum(trial.steps_run for trial in record.trials.values()),
        "steps_lost": sum(trial.lost_steps for trial in record.trials.values()),
        "dataset_hash": record.dataset_hash,
        "versions": record.versions,
        "best": best_values(best, study, record, rates) if best else None,
        "trials": [
            trial_values(trial, study, rates) | {"state": trial_state(trial, running=running)}
            for trial in record.trials.values()
        ],
    }


def state_of(record: StudyRecord, *, running: bool) -> str:
    """running | done | stopped | failed | interrupted (its driver died)."""
    if running:
        return "running"
    if record.closed is None:
        return "interrupted"
    if record.closed.why.is_done:
        return "done"
    return "failed" if record.closed.why.value == "failed" else "stopped"


def trial_state(trial: TrialRecord, *, running: bool) -> str:
    """As in the record; but what a driver that died left running is interrupted, and goes on when the study does."""
    cut_off = trial.state is TrialState.RUNNING and not running
    return "interrupted" if cut_off else str(trial.state)


def best_trial(study: Study, record: StudyRecord) -> TrialRecord | None:
    """The best of those that came furthest; where some ran again with other seeds, of these the one with the best mean:
    a single best run is best partly by luck, and the luck of its other seeds is not chosen."""
    found = ranked(record, study.spec.metric, study.spec.mode)
    means = [
        (sum(results) / len(results), trial)
        for trial in found
        if len(results := repeats_of(record, trial, study.spec.metric)) > 1
    ]
    if means:
        choose = min if study.spec.mode == "min" else max
        return choose(means, key=lambda pair: pair[0])[1]
    return found[0] if found else None


def best_values(best: TrialRecord, study: Study, record: StudyRecord, rates: Rates) -> dict[str, Any]:
    """The best trial's values, and its results over seeds."""
    results = repeats_of(record, best, study.spec.metric)
    mean = sum(results) / len(results) if results else None
    return {**trial_values(best, study, rates), "results": results, "mean": mean}


def trial_values(trial: TrialRecord, study: Study, rates: Rates) -> dict[str, Any]:
    """One trial without its curve."""
    used = spent(trial.device_s, rates)
    return {
        "trial": trial.trial,
        "state": str(trial.state),
        "detail": trial.detail,
        "config": trial.config,
        "seed": trial.seed,
        "repeat_of": trial.repeat_of or None,
        "step": trial.step,
        "value": _finite(trial.value(study.spec.metric)),
        "metrics": _all_finite(trial.last.metrics) if trial.last else {},
        "reports": [{"step": one.step, "device_s": one.device_s, **_all_finite(one.metrics)} for one in trial.measures],
        "copied_from": [{"source": one.source, "step": one.source_step} for one in trial.changes],
        "attempts": trial.attempts,
        "steps_run": trial.steps_run,
        "steps_lost": trial.lost_steps,
        "device_hours": used.device_hours,
        "usd": None if rates.usd_per_device_hour is None else used.usd,
        "kwh": None if rates.watts_per_device is None else used.kwh,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no word for what a diverged trial measured; `detail` says it."""
    return value if value is not None and math.isfinite(value) else None


def _all_finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in metrics.items()}


def repeats_of(record: StudyRecord, trial: TrialRecord, metric: str) -> list[float]:
    """Final results of a configuration over its seeds, the searched run first."""
    runs = [trial, *(one for one in record.trials.values() if one.repeat_of == trial.trial)]
    values = [one.value(metric) for one in runs if one.state is TrialState.FINISHED]
    return [value for value in values if value is not None and math.isfinite(value)]


def comparison(study: Study, record: StudyRecord, names: list[str]) -> list[dict[str, Any]]:
    """Each named trial against the first, and whether the difference is more than luck."""
    metric = study.spec.metric
    sides = [(record.trials[name], repeats_of(record, record.trials[name], metric)) for name in names]
    first = sides[0][1]
    rows = []
    for trial, results in sides:
        row: dict[str, Any] = {
            "trial": trial.trial,
            "config": trial.config,
            "step": trial.measured_at,
            "value": _finite(trial.value(metric)),
            "runs": len(results),
            "mean": sum(results) / len(results) if results else None,
        }
        if trial is not sides[0][0] and results and first:
            found = difference(first, results)
            row |= {
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "significant": found.significant,
            }
        rows.append(row)
    return rows


def _limits(study: Study) -> dict[str, float | None]:
    limits = Limits.of(study.spec.budget)
    return {
        "trials": limits.trials,
        "device_hours": limits.device_hours,
        "usd": limits.usd,
        "kwh": limits.kwh,
    }
