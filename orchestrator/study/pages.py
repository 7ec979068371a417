"""A study's record as the values of its report page, with what may be luck called so."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.policy.study.compare import MIN_TRIALS, difference, importance
from orchestrator.policy.study.values import Rates, TrialState
from orchestrator.report import KeyShare, StudyReport, TrialLine, write_study_report
from orchestrator.spec import Study
from orchestrator.spec.space import Int, LogUniform
from orchestrator.study.record import StudyRecord, TrialRecord
from orchestrator.study.standing import ranked
from orchestrator.study.summary import best_trial, repeats_of, summary, trial_state


def write_page(study: Study, record: StudyRecord, rates: Rates, path: Path, *, running: bool) -> Path:
    """Write the study's page; returns its path."""
    return write_study_report(study_report(study, record, rates, running=running), path)


def study_report(study: Study, record: StudyRecord, rates: Rates, *, running: bool) -> StudyReport:
    """The page's values."""
    spec, values = study.spec, summary(study, record, rates, running=running)
    best = best_trial(study, record)
    shares, basis = _shares(study, record)
    log_keys = {k for k, one in spec.space.items() if isinstance(one, LogUniform) or (isinstance(one, Int) and one.log)}
    return StudyReport(
        title=f"Study {study.metadata.name}",
        metric=spec.metric,
        mode=spec.mode,
        summary=_facts(study, record, rates, values["state"], best),
        log_keys=frozenset(log_keys),
        trials=tuple(_line(trial, spec.metric, best) for trial in record.searched),
        shares=shares,
        shares_basis=basis,
        spending=_spending(study, record),
        header=("trial", "state", "step", spec.metric, "device-hours", *spec.space),
        rows=tuple(_row(trial, study, running=running) for trial in record.trials.values()),
        notes=_notes(study, record, best, shares),
    )


def _facts(
    study: Study, record: StudyRecord, rates: Rates, state: str, best: TrialRecord | None
) -> tuple[tuple[str, str], ...]:
    hours = record.device_s / 3600.0
    facts = [
        ("state", f"{state}" + (f" ({record.closed.detail})" if record.closed else "")),
        ("trials", f"{len(record.searched)}"),
        ("device-hours", f"{hours:.4g}"),
    ]
    if rates.usd_per_device_hour is not None:
        facts.append(("USD", f"{hours * rates.usd_per_device_hour:.4g}"))
    if rates.watts_per_device is not None:
        facts.append(("kWh", f"{hours * rates.watts_per_device / 1000:.4g}"))
    if best is not None:
        facts.append((f"best {study.spec.metric}", f"{best.value(study.spec.metric):.5g} ({best.trial})"))
        facts += [(f"its {key}", f"{v:.4g}" if isinstance(v, float) else f"{v}") for key, v in best.config.items()]
    return tuple(facts)


def _line(trial: TrialRecord, metric: str, best: TrialRecord | None) -> TrialLine:
    curve = [(one.step, one.metrics[metric]) for one in trial.measures if metric in one.metrics]
    return TrialLine(
        trial=trial.trial,
        config=trial.config,
        curve=tuple((step, value) for step, value in curve if math.isfinite(value)),
        is_finished=trial.state is TrialState.FINISHED,
        is_best=best is not None and trial.trial == best.trial,
    )


def _shares(study: Study, record: StudyRecord) -> tuple[tuple[KeyShare, ...], str]:
    """Over the last step that half of the trials reached: results after different numbers of steps do not compare, and
    the few that early stopping left over are too much alike to show what mattered."""
    metric = study.spec.metric
    enough = max(MIN_TRIALS, math.ceil(sum(bool(trial.measures) for trial in record.searched) / 2))
    steps = sorted({one.step for trial in record.searched for one in trial.measures}, reverse=True)
    for step in steps:
        at = [
            (trial.config, one.metrics[metric])
            for trial in record.searched
            for one in trial.measures
            if one.step == step and math.isfinite(one.metrics.get(metric, math.nan)) and not trial.changes
        ]
        if len(at) >= enough:
            sign = 1.0 if study.spec.mode == "min" else -1.0
            found = importance([config for config, _ in at], [sign * value for _, value in at], study.spec.seed)
            shares = tuple(
                KeyShare(
                    key=one.key,
                    share=one.share,
                    note=f"{one.share:.0%}, "
                    + (f"p = {one.p_value:.3f}" if one.significant else f"not significant (p = {one.p_value:.2f})"),
                    is_significant=one.significant,
                )
                for one in found
            )
            return shares, f"{len(at)} trials after step {step}"
    return (), ""


def _spending(study: Study, record: StudyRecord) -> tuple[tuple[float, float], ...]:
    """Every trial's use counts when it reports, in the order of reports."""
    sign = 1.0 if study.spec.mode == "min" else -1.0
    reports = [(one.at_s, trial, one) for trial in record.searched for one in trial.measures]
    used: dict[str, float] = {}
    best, points = math.inf, []
    for _, trial, one in sorted(reports, key=lambda report: (report[0], report[1].trial)):
        used[trial.trial] = one.device_s
        value = one.metrics.get(study.spec.metric, math.nan)
        if math.isfinite(value):
            best = min(best, sign * value)
            points.append((sum(used.values()) / 3600.0, sign * best))
    if points and record.device_s / 3600.0 > points[-1][0]:  # what came after the last report: repeats, above all
        points.append((record.device_s / 3600.0, points[-1][1]))
    return tuple(points)


def _row(trial: TrialRecord, study: Study, *, running: bool) -> tuple[str, ...]:
    value = trial.value(study.spec.metric)
    drawn = [trial.config.get(key) for key in study.spec.space]
    return (
        trial.trial + (f" (repeats {trial.repeat_of})" if trial.repeat_of else ""),
        trial_state(trial, running=running),
        str(trial.step),
        "" if value is None else f"{value:.5g}",
        f"{trial.device_s / 3600.0:.4f}",
        *("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in drawn),
    )


def _notes(
    study: Study, record: StudyRecord, best: TrialRecord | None, shares: tuple[KeyShare, ...]
) -> tuple[str, ...]:
    metric, notes = study.spec.metric, []
    if best is None:
        return ("No trial has a result yet.",)
    top = [trial for trial in ranked(record, metric, study.spec.mode) if len(repeats_of(record, trial, metric)) > 1]
    results = repeats_of(record, best, metric)
    if len(results) < 2:
        notes.append(f"{best.trial} ran with one seed: how much of its lead is luck is not known (spec.repeat tells).")
    else:
        mean = sum(results) / len(results)
        notes.append(
            f"{best.trial} over {len(results)} seeds: mean {mean:.5g}, {min(results):.5g} to {max(results):.5g}."
        )
        others = [other for other in top if other is not best]
        notes += [_against(best, results, other, repeats_of(record, other, metric)) for other in others]
    if not shares:
        notes.append(f"With fewer than {MIN_TRIALS} trials at one step, no parameter's part can be told from chance.")
    notes += [f"The part of {one.key} may be chance." for one in shares if not one.is_significant]
    changed = sum(bool(trial.changes) for trial in record.trials.values())
    if changed:
        notes.append(f"{changed} trials took over another one's state on the way; their values are the last ones.")
    return tuple(notes)


def _against(best: TrialRecord, first: list[float], other: TrialRecord, second: list[float]) -> str:
    found = difference(first, second)
    if found.low is None or found.high is None:
        return f"{other.trial} against {best.trial}: too few seeds to tell from luck."
    word = "significant" if found.significant else "not significant: it may be luck"
    return f"{other.trial} against {best.trial}: {found.mean:+.4g} ({found.low:+.4g} to {found.high:+.4g}), {word}."
