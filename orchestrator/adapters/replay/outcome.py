"""What a replayed run shows, read from its events: how fast it recovered, what it lost, whether its loss is the same.

A pure fold; refuses to know clusters and clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.adapters.ray_train.events import AttemptOpened, Cause, Event, StepDone


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The run went from one group of workers to the next.

    `recovery_s`: from the end of the last step before to the end of the first one after. `steps_lost` had to be made
    again.
    """

    attempt: int
    cause: Cause
    from_size: int
    to_size: int
    at_s: float
    recovery_s: float
    steps_lost: int


def recoveries(events: Iterable[Event]) -> tuple[Recovery, ...]:
    """Every change of group that made a step again, oldest first; an attempt without a step is part of the next."""
    found: list[Recovery] = []
    causes: dict[int, Cause] = {}
    last: StepDone | None = None
    for event in events:
        if isinstance(event, AttemptOpened):
            causes[event.attempt] = event.cause
        if not isinstance(event, StepDone):
            continue
        if last is not None and event.attempt != last.attempt:
            # Attempts in between made no step: what began it all is the first of them.
            cause = causes[min(number for number in causes if number > last.attempt)]
            found.append(
                Recovery(
                    attempt=event.attempt,
                    cause=cause,
                    from_size=last.world_size,
                    to_size=event.world_size,
                    at_s=last.at_s,
                    recovery_s=event.at_s - last.at_s,
                    steps_lost=last.step + 1 - event.step,
                )
            )
        last = event
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Two runs' losses compared step by step. `samples_differ`: steps whose samples were not the very same."""

    steps: int
    max_rel_diff: float
    samples_differ: int


def compare(played: Iterable[Event], fixed: Iterable[Event]) -> Curve:
    """The steps that both runs have; of a step that was made again, the last time counts.

    A loss that is no number in one run only is an infinite difference.
    """
    ours, theirs = _last_of_each(played), _last_of_each(fixed)
    both = sorted(ours.keys() & theirs.keys())
    return Curve(
        steps=len(both),
        max_rel_diff=max((_apart(ours[step].loss, theirs[step].loss) for step in both), default=0.0),
        samples_differ=sum(ours[step].ledger != theirs[step].ledger for step in both),
    )


def _last_of_each(events: Iterable[Event]) -> Mapping[int, StepDone]:
    return {event.step: event for event in events if isinstance(event, StepDone)}


def _apart(one: float, other: float) -> float:
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other) / max(abs(other), 1e-12)
    return 0.0 if one == other or (math.isnan(one) and math.isnan(other)) else math.inf
