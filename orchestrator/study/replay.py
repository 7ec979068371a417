"""Bring a fresh searcher and scheduler to where the journal says they were: the same calls in the same order."""

from __future__ import annotations

import math
from collections.abc import Iterable

import structlog

from orchestrator.policy.study.values import TrialState
from orchestrator.study.events import Drawn, Event, Reported, Ruling, TrialOver
from orchestrator.study.ports import Strategy

log = structlog.get_logger(__name__)


def replay(events: Iterable[Event], strategy: Strategy, last_step: int, metric: str) -> None:
    """Feed `strategy` everything that it was asked and told; the journal's answers stand where they differ."""
    number = 0
    step: dict[str, int] = {}
    repeats: set[str] = set()
    for event in events:
        if isinstance(event, Drawn):
            if event.repeat_of:
                repeats.add(event.trial)
                continue
            drawn = strategy.draw(event.trial, number)
            number += 1
            if drawn is None or dict(drawn) != event.config:
                log.warning("the searcher draws otherwise than before", trial=event.trial, now=drawn, then=event.config)
        elif isinstance(event, Reported) and event.trial not in repeats:
            step[event.trial] = event.step
            _reported(event, strategy, last_step, metric)
        elif isinstance(event, TrialOver) and event.trial not in repeats:
            strategy.ended(event.trial, event.state, step.get(event.trial, 0), None)


def _reported(event: Reported, strategy: Strategy, last_step: int, metric: str) -> None:
    value = event.metrics.get(metric)
    if value is None or not math.isfinite(value):
        strategy.ended(event.trial, TrialState.FAILED, event.step, None)
    elif event.step >= last_step:
        strategy.ended(event.trial, TrialState.FINISHED, event.step, value)
    else:
        verdict = strategy.reported(event.trial, event.step, value)
        if Ruling(verdict.choice.value) is not event.ruling:
            log.warning("the scheduler judges otherwise than before", trial=event.trial, step=event.step)
