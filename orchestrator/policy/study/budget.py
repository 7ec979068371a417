"""A study's budget: trials, device-hours, money and energy, whichever ends first.

The promise: what is spent never exceeds a limit by more than one rung of one trial. It is kept in two ways. A rung is
only begun while everything spent, everything that running rungs are still expected to cost, and this rung together fit
(or nothing runs and the limit is not reached: the last rung may go over). And `is_over` is asked again and again while
rungs run: when the meter reaches a limit, all of them stop at their next step.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.policy.study.values import Rates, Spent
from orchestrator.spec.search import StudyBudget


class Limit(enum.StrEnum):
    """Which part of the budget ended a study."""

    TRIALS = "trials"
    DEVICE_HOURS = "device_hours"
    USD = "usd"
    KWH = "kwh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The budget as numbers; None is no limit."""

    trials: int | None = None
    device_hours: float | None = None
    usd: float | None = None
    kwh: float | None = None

    @classmethod
    def of(cls, budget: StudyBudget) -> Limits:
        return cls(
            trials=budget.trials,
            device_hours=budget.device_hours,
            usd=None if budget.usd is None else float(budget.usd),
            kwh=budget.kwh,
        )

    def parts(self, spent: Spent) -> list[tuple[Limit, float, float]]:
        """Each limit on what is spent, as (which, spent, limit)."""
        pairs = [
            (Limit.DEVICE_HOURS, spent.device_hours, self.device_hours),
            (Limit.USD, spent.usd, self.usd),
            (Limit.KWH, spent.kwh, self.kwh),
        ]
        return [(which, so_far, limit) for which, so_far, limit in pairs if limit is not None]


def unknown_units(limits: Limits, rates: Rates) -> list[Limit]:
    """Limits in units that nobody can measure here."""
    unknown = [Limit.USD] if limits.usd is not None and rates.usd_per_device_hour is None else []
    return unknown + ([Limit.KWH] if limits.kwh is not None and rates.watts_per_device is None else [])


def reached(limits: Limits, spent: Spent) -> Limit | None:
    """The first limit that what was spent has reached."""
    return next((which for which, so_far, limit in limits.parts(spent) if so_far >= limit), None)


def may_draw(limits: Limits, num_trials: int) -> bool:
    """Whether one more trial may be drawn by the limit on trials."""
    return limits.trials is None or num_trials < limits.trials


def may_run(limits: Limits, spent: Spent, expected: Spent, rung: Spent) -> bool:
    """Whether a rung that is expected to cost `rung` may begin, while running ones will still cost `expected`.

    With nothing running it may begin as long as the limit is not reached, and then goes over by its own cost at most.
    """
    if reached(limits, spent) is not None:
        return False
    if expected == Spent():
        return True
    return all(so_far <= limit for _, so_far, limit in limits.parts(spent + expected + rung))
