"""What is remembered of demand: means by wall time of each day, and the largest rise within one recall.

Days are kept by their local date, so that "the same time last week" is the same wall time on both sides of a clock
change. Demand before `history_s` is forgotten.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from functools import cache
from zoneinfo import ZoneInfo

SLOT_S = 600
SLOTS = 86_400 // SLOT_S
_NOTHING = (0.0,) * SLOTS
_NEVER = (0,) * SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One local day: sums and numbers of samples by slot of wall time, and the largest rise within one lead, which was
    `lead_s` long (0: nobody wrote it down)."""

    date: dt.date
    sums: tuple[float, ...] = _NOTHING
    counts: tuple[int, ...] = _NEVER
    max_rise: float = 0.0
    lead_s: float = 0.0

    def rise_within(self, lead_s: float) -> float:
        """The largest rise to be reckoned with over a lead: one that has become longer sees as much more of a ramp."""
        return self.max_rise * max(1.0, lead_s / self.lead_s) if self.lead_s else self.max_rise

    def mean(self, slot: int) -> float | None:
        """Mean demand in a slot; None if it was never looked at."""
        return self.sums[slot] / self.counts[slot] if self.counts[slot] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Days, oldest first; `recent` are (time, demand) within the last lead; `seen_s` is how much was seen in all."""

    days: tuple[Day, ...] = ()
    recent: tuple[tuple[float, float], ...] = ()
    seen_s: float = 0.0
    last_s: float | None = None

    @property
    def max_rise(self) -> float:
        """The largest rise of demand that was seen within one lead, rps."""
        return max((day.max_rise for day in self.days), default=0.0)

    def rise_within(self, lead_s: float) -> float:
        """The largest rise to be reckoned with over a lead, also where leads were shorter when rises were seen."""
        return max((day.rise_within(lead_s) for day in self.days), default=0.0)


def observe(history: History, *, at_s: float, rps: float, lead_s: float, timezone: str, keep_s: float) -> History:
    """Take one measurement; one that is not newer than the last is not taken twice.

    Raises: ValueError for a demand that is negative or no number.
    """
    if not 0.0 <= rps < float("inf"):
        raise ValueError(f"demand is {rps} rps; it must be a number from 0")
    if history.last_s is not None and at_s <= history.last_s:
        return history
    recent = tuple(one for one in history.recent if one[0] >= at_s - lead_s)
    rise = rps - min((demand for _, demand in recent), default=rps)
    date, slot = wall_slot(at_s, timezone)
    days = history.days
    if not days or days[-1].date < date:
        oldest = date - dt.timedelta(seconds=keep_s)
        days = (*(day for day in days if day.date >= oldest), Day(date=date))
    # A clock that goes back to yesterday evening must not open a day twice: what is seen then joins the newest day.
    days = (*days[:-1], _with(days[-1], slot, rps, max(rise, 0.0), lead_s))
    gap_s = 0.0 if history.last_s is None else min(at_s - history.last_s, float(SLOT_S))
    return replace(history, days=days, recent=(*recent, (at_s, rps)), seen_s=history.seen_s + gap_s, last_s=at_s)


def _with(day: Day, slot: int, rps: float, rise: float, lead_s: float) -> Day:
    sums, counts = list(day.sums), list(day.counts)
    sums[slot] += rps
    counts[slot] += 1
    return Day(
        date=day.date,
        sums=tuple(sums),
        counts=tuple(counts),
        max_rise=max(day.rise_within(lead_s), rise),
        lead_s=max(day.lead_s, lead_s),
    )


def wall_slot(at_s: float, timezone: str) -> tuple[dt.date, int]:
    """Local date and slot of the day of an instant."""
    wall = dt.datetime.fromtimestamp(at_s, _zone(timezone))
    return wall.date(), (wall.hour * 3600 + wall.minute * 60 + wall.second) // SLOT_S


@cache
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)
