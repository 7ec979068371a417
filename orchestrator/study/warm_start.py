"""What a study may learn from earlier ones: their trials with a result, those that were stopped early included, as far
as this space could have drawn them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from orchestrator.policy.study.space import in_order, is_drawn
from orchestrator.policy.study.values import TrialState
from orchestrator.spec import Study
from orchestrator.spec.errors import UserError
from orchestrator.spec.space import AnyParameter, Choice, Int, LogUniform, Space, Uniform
from orchestrator.study.events import Earlier
from orchestrator.study.journal import read_journal
from orchestrator.study.record import StudyRecord


def begins_with(study: Study, before: StudyRecord, studies: Path) -> tuple[Earlier, ...]:
    """What the searcher knows before the first draw: for a study that has begun, what it knew then. Earlier studies may
    have grown or gone since, and other draws would no longer be those whose results the journal holds."""
    return before.earlier if before.study else earlier_trials(study, studies)


def earlier_trials(study: Study, studies: Path) -> tuple[Earlier, ...]:
    """Of every study that `study` starts warm from; `studies` is the folder they lie in.

    Raises: UserError for a study that is not there, that optimised something else, or has nothing that fits.
    """
    return tuple(one for name in study.spec.warm_start for one in _of(name, study, studies))


def _of(name: str, study: Study, studies: Path) -> list[Earlier]:
    record = StudyRecord(read_journal(studies / name))
    spec, where = study.spec, f"{study.metadata.name}: spec.warm_start"
    before = record.study.get("spec", {})
    theirs = (before.get("metric"), before.get("mode"))
    if theirs != (spec.metric, spec.mode):
        raise UserError(
            f"{name!r} looked for the {theirs[1]} of {theirs[0]}, this one for the {spec.mode} of {spec.metric}",
            where=where,
            next_step="Start warm from a study of the same metric and mode",
        )
    judged = [
        (trial, value)
        for trial in record.searched
        if trial.state in (TrialState.FINISHED, TrialState.STOPPED)
        and not trial.changes  # its values changed on the way, so the last ones did not make its result
        and (value := trial.value(spec.metric)) is not None
        and math.isfinite(value)
    ]
    found = [
        Earlier(
            study=name,
            trial=trial.trial,
            config=dict(trial.config),
            value=value,
            cut_at=trial.measured_at if trial.state is TrialState.STOPPED else None,
        )
        for trial, value in judged
        if fits(spec.space, trial.config)
    ]
    if not found:
        raise UserError(
            f"{name!r} has nothing to learn from: of its {len(record.searched)} trials {len(judged)} have a result, "
            f"and none of these lies in this space ({', '.join(spec.space)})",
            where=where,
            next_step="Widen the space, let that study finish, or drop warm_start",
        )
    return found


def fits(space: Space, config: Mapping[str, object]) -> bool:
    """Whether a configuration of another study could have been drawn here."""
    drawn: dict[str, object] = {}
    for key in in_order(space):
        if is_drawn(space[key], drawn) != (key in config):
            return False
        if key in config:
            if not is_within(space[key], config[key]):
                return False
            drawn[key] = config[key]
    return len(drawn) == len(config)


def is_within(parameter: AnyParameter, value: object) -> bool:
    """Whether the parameter could have drawn the value."""
    match parameter:
        case Choice(values=values):
            return value in values
        case Int(min=low, max=high, step=step):
            return isinstance(value, int) and low <= value <= high and (value - low) % step == 0
        case Uniform(min=least, max=most) | LogUniform(min=least, max=most):
            return isinstance(value, int | float) and least <= value <= most
