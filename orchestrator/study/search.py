"""Whether a search goes on, and what comes after it: decided from the record alone."""

from __future__ import annotations

from orchestrator.policy.study.budget import Limits, may_draw
from orchestrator.policy.study.values import Rates, TrialState
from orchestrator.policy.study.worth import worth_of_next
from orchestrator.spec.study import StudySpec
from orchestrator.study.events import Close, Drawn
from orchestrator.study.record import StudyRecord
from orchestrator.study.standing import ranked

# So many trials fail without one report, and the study is wrong, not its trials.
HOPELESS_AFTER = 3


def why_no_more(record: StudyRecord, spec: StudySpec, limits: Limits, rates: Rates) -> tuple[Close, str] | None:
    """Why no further trial is drawn; None while the search goes on."""
    searched = record.searched
    if not may_draw(limits, len(searched)):
        return Close.TRIALS, f"all {len(searched)} trials were drawn"
    is_population = spec.scheduler.name == "pbt" and limits.trials is None
    if is_population and len(searched) >= spec.concurrency.max:
        return Close.TRIALS, f"the population of {len(searched)} is complete"
    return _not_worth(record, spec, rates)


def hopeless(record: StudyRecord) -> str:
    """What is wrong with a study whose first trials all failed without a report; empty when nothing is."""
    over = [trial for trial in record.searched if trial.state.is_over]
    failed = [trial for trial in over if trial.state is TrialState.FAILED and not trial.measures]
    if len(failed) < HOPELESS_AFTER or len(failed) < len(over):
        return ""
    return f"the first {len(failed)} trials all failed, the last with: {failed[-1].detail}"


def _not_worth(record: StudyRecord, spec: StudySpec, rates: Rates) -> tuple[Close, str] | None:
    if spec.stop is None:
        return None
    over = [
        (trial, value)
        for trial in record.searched
        if trial.state.is_over and (value := trial.value(spec.metric)) is not None
    ]
    usd_per_s = (rates.usd_per_device_hour or 0.0) / 3600.0
    worth = worth_of_next(
        [value for _, value in over],
        [trial.device_s * usd_per_s for trial, _ in over],
        mode=spec.mode,
        worth_usd=float(spec.stop.worth_usd),
        after_trials=spec.stop.after_trials,
    )
    if worth.pays:
        return None
    detail = (
        f"another trial is expected to gain {worth.gain:.3g}, worth {worth.gain_usd:.3g} USD, "
        f"and to cost {worth.cost_usd:.3g} USD"
    )
    return Close.WORTH, detail


def repeats(record: StudyRecord, spec: StudySpec, at_s: float) -> list[Drawn]:
    """The best configurations that ran to their end, once for each further seed; nothing where that was done."""
    if spec.repeat is None or any(trial.repeat_of for trial in record.trials.values()):
        return []
    best = ranked(record, spec.metric, spec.mode)[: spec.repeat.top]
    finished = [trial for trial in best if trial.state is TrialState.FINISHED]
    first = spec.template.data.seed
    return [
        Drawn(
            at_s=at_s,
            trial=f"{trial.trial}-s{number}",
            config=trial.config,
            seed=first + number,
            repeat_of=trial.trial,
        )
        for trial in finished
        for number in range(1, spec.repeat.seeds)
    ]
