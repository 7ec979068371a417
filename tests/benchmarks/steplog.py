"""Figures from a run's step lines, the same for every system: stalls, steps done again, goodput.

A line is {"step", "world_size", "at_s", ...}: step number `step` (from 1) of the whole group ended at `at_s`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import StatisticsError, median
from typing import Any

Line = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The run went from one group to the next. `stall_s` is from the last step's end to the first new step's end;
    `steps_lost` counts steps that had to be made again."""

    from_size: int
    to_size: int
    last_at_s: float
    first_at_s: float
    steps_lost: int

    @property
    def stall_s(self) -> float:
        return self.first_at_s - self.last_at_s


def changes(steps: Sequence[Line]) -> list[Change]:
    """Every change of group, told by a changed size or a step number that does not follow."""
    found = []
    for before, after in itertools.pairwise(steps):
        if after["world_size"] != before["world_size"] or after["step"] != before["step"] + 1:
            found.append(
                Change(
                    from_size=before["world_size"],
                    to_size=after["world_size"],
                    last_at_s=before["at_s"],
                    first_at_s=after["at_s"],
                    steps_lost=before["step"] + 1 - after["step"],
                )
            )
    return found


def step_time_s(steps: Sequence[Line], world_size: int) -> float:
    """Median time between steps that follow one another at this size. Raises: StatisticsError if none do."""
    gaps = [
        after["at_s"] - before["at_s"]
        for before, after in itertools.pairwise(steps)
        if before["world_size"] == after["world_size"] == world_size and after["step"] == before["step"] + 1
    ]
    return median(gaps)


def steps_missing(steps: Sequence[Line], *, announced_s: float, change: Change, margin_s: float = 60.0) -> float:
    """Steps that an undisturbed run would have made more, from `margin_s` before the announcement to `margin_s` after
    the first step of the new group; undisturbed = the median rate at the old size until that step, then at the new."""
    began_s, ended_s = announced_s - margin_s, change.first_at_s + margin_s
    done = {line["step"] for line in steps if line["at_s"] <= began_s}
    made = {line["step"] for line in steps if line["at_s"] <= ended_s}
    old, new = step_time_s(steps, change.from_size), step_time_s(steps, change.to_size)
    return (change.first_at_s - began_s) / old + margin_s / new - (max(made) - max(done, default=0))


def goodput(steps: Sequence[Line], *, began_s: float, ended_s: float) -> float:
    """Share of the time spent in steps that survived; a step counts with the median time of its world size, or of the
    nearest one at which two steps followed one another."""
    last = {line["step"]: line["world_size"] for line in steps if began_s <= line["at_s"] <= ended_s}
    times = {}
    for size in {line["world_size"] for line in steps}:
        with contextlib.suppress(StatisticsError):
            times[size] = step_time_s(steps, size)
    if not times:
        return 0.0
    return sum(times[min(times, key=lambda known: abs(known - size))] for size in last.values()) / (ended_s - began_s)
