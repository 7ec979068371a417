"""Demand up to a day ahead: what the same wall time showed before, brought to today's level.

The weighted median over past days (the same weekday counts most, then days of the same part of the week) is not moved
by one holiday or one jump. The level, today against that median over the last hour, is: it follows a holiday soon, and
fades with the distance. What the forecast has missed lately is learnt as quantiles of actual over forecast, so that one
that is always too low by half is put right by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.policy.lending.history import SLOT_S, History, wall_slot

Forecaster = Callable[[History, float, float, str], float]
"""(history, now_s, at_s, timezone) -> expected demand at `at_s`, rps."""

_SAME_WEEKDAY, _SAME_PART, _OTHER = 12, 6, 1
_SATURDAY = 5
_LEVEL_SLOTS = 6
_LEVEL_FADES_S = 4 * 3600.0
_LEVEL_BOUNDS = (0.2, 5.0)
_MAX_ERRORS = 288
_ERROR_BOUNDS = (0.1, 10.0)


def expected_rps(history: History, now_s: float, at_s: float, timezone: str) -> float:
    """The forecast: demand expected at `at_s`, at most a day after `now_s`; without past days, what it is now."""
    current = history.recent[-1][1] if history.recent else 0.0
    usual = usual_rps(history, at_s, timezone)
    if usual is None:
        return current
    level = _level(history, now_s, timezone)
    return usual * (1.0 + (level - 1.0) * math.exp(-max(at_s - now_s, 0.0) / _LEVEL_FADES_S))


def usual_rps(history: History, at_s: float, timezone: str) -> float | None:
    """Weighted median of what earlier days showed at this wall time; None if none of them did."""
    date, slot = wall_slot(at_s, timezone)
    shown = [
        (mean, _weight(day.date.weekday(), date.weekday()))
        for day in history.days
        if day.date < date and (mean := day.mean(slot)) is not None
    ]
    if not shown:
        return None
    shown.sort()
    half, passed = sum(weight for _, weight in shown) / 2, 0
    for value, weight in shown:
        passed += weight
        if passed >= half:
            return value
    raise AssertionError("half of the weight lies within all of it")


def _weight(weekday: int, asked: int) -> int:
    if weekday == asked:
        return _SAME_WEEKDAY
    return _SAME_PART if (weekday >= _SATURDAY) == (asked >= _SATURDAY) else _OTHER


def _level(history: History, now_s: float, timezone: str) -> float:
    """Today against the usual, median over the last hour's slots."""
    today = history.days[-1]
    ratios: list[float] = []
    for back in range(_LEVEL_SLOTS):
        date, slot = wall_slot(now_s - back * SLOT_S, timezone)
        shown = today.mean(slot) if date == today.date else None
        usual = usual_rps(history, now_s - back * SLOT_S, timezone)
        if shown is not None and usual:
            ratios.append(shown / usual)
    if not ratios:
        return 1.0
    low, high = _LEVEL_BOUNDS
    return min(high, max(low, sorted(ratios)[len(ratios) // 2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Forecasts that wait for their hour, as (due, forecast), and actual over forecast of those that have had it."""

    waiting: tuple[tuple[float, float], ...] = ()
    ratios: tuple[float, ...] = ()

    def quantile(self, share: float) -> float:
        """The ratio that `share` of the last forecasts stayed below; 1 while there are none."""
        if not self.ratios:
            return 1.0
        ordered = sorted(self.ratios)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def judge(errors: Errors, *, now_s: float, rps: float) -> Errors:
    """Hold the forecasts that are due against what came."""
    if not errors.waiting or errors.waiting[0][0] > now_s:
        return errors
    low, high = _ERROR_BOUNDS
    due = (value for at_s, value in errors.waiting if at_s <= now_s)
    ratios = errors.ratios + tuple(min(high, max(low, rps / value)) if value > 0 else high for value in due)
    waiting = tuple(one for one in errors.waiting if one[0] > now_s)
    return replace(errors, waiting=waiting, ratios=ratios[-_MAX_ERRORS:])


def is_due(errors: Errors, *, for_s: float) -> bool:
    """Whether a forecast for `for_s` is to be noted: one a slot is enough to learn from."""
    return not errors.waiting or errors.waiting[-1][0] + SLOT_S <= for_s
