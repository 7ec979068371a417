"""Windows of wall time: when a job may hold devices, and for how long from now.

A window is wall time in an IANA zone on named days. Its meaning, also on the two odd days of the year: an occurrence
opens at the first instant at which the zone's clock has reached the opening time on its day, and closes at the first
instant at which the clock has reached the closing time. So a window that spans the spring change is an hour shorter
in real time and one that spans the autumn change an hour longer; a time that the clock skips is reached at the skip.

Instants are UTC seconds since the epoch. Equal opening and closing times mean the whole day (the next day's opening
closes it); a closing time before the opening time wraps midnight. `days` are the days on which a window opens.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

ALL_DAYS = frozenset(range(7))
# No zone changes its clock by more than this, so one day of margin finds every occurrence that touches an instant.
_MARGIN = timedelta(days=2)
_SEARCH_DAYS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Wall time from `opens` to `closes` in `timezone`, opening on `days` (0 = Monday).

    Raises: ValueError if no day is named or a time has seconds.
    """

    name: str
    opens: time
    closes: time
    timezone: str
    days: frozenset[int] = ALL_DAYS

    def __post_init__(self) -> None:
        if not self.days or not self.days <= ALL_DAYS:
            raise ValueError(f"window {self.name}: days is {sorted(self.days)}; name at least one of 0..6 (0 = Monday)")
        if any(at.second or at.microsecond or at.tzinfo for at in (self.opens, self.closes)):
            raise ValueError(f"window {self.name}: opening and closing times are whole minutes without a zone")


@dataclass(frozen=True, slots=True, order=True)
class Occurrence:
    """One real stretch of a window, [opens_at_s, closes_at_s) in UTC seconds."""

    opens_at_s: float
    closes_at_s: float

    @property
    def length_s(self) -> float:
        """Real seconds, which on the day of a clock change differ from the wall's."""
        return self.closes_at_s - self.opens_at_s

    def holds(self, now_s: float) -> bool:
        """Whether the instant lies inside."""
        return self.opens_at_s <= now_s < self.closes_at_s


def current(window: Window, *, now_s: float) -> Occurrence | None:
    """The occurrence that holds `now_s`; of two that overlap, the one that closes later."""
    holding = [each for each in _around(window, now_s) if each.holds(now_s)]
    return max(holding, key=lambda each: each.closes_at_s, default=None)


def upcoming(window: Window, *, now_s: float) -> Iterator[Occurrence]:
    """Occurrences that open after `now_s`, soonest first, over a little more than a year."""
    zone = ZoneInfo(window.timezone)
    day = datetime.fromtimestamp(now_s, zone).date() - _MARGIN
    for offset in range(_SEARCH_DAYS):
        found = _on(window, zone, day + timedelta(days=offset))
        if found and found.opens_at_s > now_s:
            yield found


def contains(window: Window, *, now_s: float) -> bool:
    """Whether the window is open at `now_s`; it is at its opening, and no more at its close."""
    return current(window, now_s=now_s) is not None


def next_opening_s(window: Window, *, now_s: float) -> float | None:
    """When it opens next, later than now; None for a window that never opens again within a year."""
    return next((found.opens_at_s for found in upcoming(window, now_s=now_s)), None)


def next_fit_s(windows: Sequence[Window], *, now_s: float, min_slice_s: float) -> float | None:
    """The first instant, now included, at which a session of `min_slice_s` fits; None if none does within a year.

    A stretch begins where a window opens, so later instants of the same stretch never fit where its begin does not.
    """
    if slice_fits(windows, now_s=now_s, min_slice_s=min_slice_s):
        return now_s
    openings = heapq.merge(*([found.opens_at_s for found in upcoming(each, now_s=now_s)] for each in windows))
    return next((at_s for at_s in openings if slice_fits(windows, now_s=at_s, min_slice_s=min_slice_s)), None)


def time_left_s(windows: Sequence[Window], *, now_s: float) -> float:
    """Seconds from now for which some window stays open without a break; 0 when all are closed.

    Windows that touch or overlap count as one: closing and opening at the same instant takes nothing away.
    """
    end_s = now_s
    while True:
        held = [occurrence for window in windows if (occurrence := current(window, now_s=end_s))]
        furthest_s = max((occurrence.closes_at_s for occurrence in held), default=end_s)
        # A chain that never ends (every day, whole day) need not be followed for ever.
        if furthest_s <= end_s or furthest_s - now_s > _SEARCH_DAYS * 86_400:
            return end_s - now_s
        end_s = furthest_s


def slice_fits(windows: Sequence[Window], *, now_s: float, min_slice_s: float) -> bool:
    """Whether a session of `min_slice_s` that starts now ends before the window closes."""
    return time_left_s(windows, now_s=now_s) >= min_slice_s


def _around(window: Window, now_s: float) -> Iterator[Occurrence]:
    zone = ZoneInfo(window.timezone)
    today = datetime.fromtimestamp(now_s, zone).date()
    for offset in range(-_MARGIN.days, _MARGIN.days + 1):
        if found := _on(window, zone, today + timedelta(days=offset)):
            yield found


def _on(window: Window, zone: ZoneInfo, day: date) -> Occurrence | None:
    """The occurrence that opens on `day`; None on other days and where the clock skips the whole window."""
    if day.weekday() not in window.days:
        return None
    last = day if window.closes > window.opens else day + timedelta(days=1)
    opens_at_s = first_reached(datetime.combine(day, window.opens), zone)
    closes_at_s = first_reached(datetime.combine(last, window.closes), zone)
    return Occurrence(opens_at_s, closes_at_s) if closes_at_s > opens_at_s else None


def first_reached(wall: datetime, zone: ZoneInfo) -> float:
    """The first instant at which the zone's clock shows `wall` or later, UTC seconds.

    A time shown twice is first reached before the clock goes back (fold 0). A time the clock skips is reached at the
    skip: reading it with both offsets gives instants on either side of the change, and the change lies where the
    offset moves, found by bisection to the second.
    """
    early, late = (wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    if early <= late:
        return early
    # Skipped: fold 0 uses the offset before the change and lands after it, fold 1 the reverse.
    low, high = late, early
    before = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
