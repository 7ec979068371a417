"""Windows on the days on which clocks change, zone by zone, and against a walk through every minute of those days."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.windows import (
    Window,
    contains,
    current,
    next_fit_s,
    next_opening_s,
    slice_fits,
    time_left_s,
)

# Days of 2026 on which something happens, and one on which nothing does. Casablanca goes back for Ramadan.
NIGHTS = {
    "New York, forward": ("America/New_York", date(2026, 3, 7), 7.0),
    "New York, back": ("America/New_York", date(2026, 10, 31), 9.0),
    "Berlin, forward": ("Europe/Berlin", date(2026, 3, 28), 7.0),
    "Berlin, back": ("Europe/Berlin", date(2026, 10, 24), 9.0),
    "Lord Howe, back by half an hour": ("Australia/Lord_Howe", date(2026, 4, 4), 8.5),
    "Lord Howe, forward by half an hour": ("Australia/Lord_Howe", date(2026, 10, 3), 7.5),
    "Kolkata never changes": ("Asia/Kolkata", date(2026, 3, 28), 8.0),
    "Casablanca, back for Ramadan": ("Africa/Casablanca", date(2026, 2, 14), 9.0),
    "Casablanca, forward after Ramadan": ("Africa/Casablanca", date(2026, 3, 21), 7.0),
}


@pytest.mark.parametrize(("zone", "day", "hours"), NIGHTS.values(), ids=NIGHTS)
def test_a_night_is_as_long_as_its_clock_makes_it(zone: str, day: date, hours: float) -> None:
    night = Window(name="n", opens=time(22), closes=time(6), timezone=zone)
    opens_s = datetime.combine(day, time(22), ZoneInfo(zone)).timestamp()
    assert contains(night, now_s=opens_s)
    assert not contains(night, now_s=opens_s - 1)
    assert time_left_s([night], now_s=opens_s) == hours * 3600
    assert not contains(night, now_s=opens_s + hours * 3600)
    assert next_opening_s(night, now_s=opens_s - 60) == opens_s


# Window, the day it opens on, and what it is worth in real minutes: the hour that is skipped or comes twice.
SMALL_HOURS = {
    "New York 02:00-03:00 is skipped": ("America/New_York", date(2026, 3, 8), time(2), time(3), None),
    "New York 01:00-02:00 comes twice and stays open": ("America/New_York", date(2026, 11, 1), time(1), time(2), 120),
    "Berlin 02:30-03:30 opens at the skip": ("Europe/Berlin", date(2026, 3, 29), time(2, 30), time(3, 30), 30),
    "Berlin 02:00-03:00 comes twice": ("Europe/Berlin", date(2026, 10, 25), time(2), time(3), 120),
    "Lord Howe 02:00-02:30 is skipped": ("Australia/Lord_Howe", date(2026, 10, 4), time(2), time(2, 30), None),
    "Lord Howe 01:30-02:00 comes twice": ("Australia/Lord_Howe", date(2026, 4, 5), time(1, 30), time(2), 60),
    "Kolkata 02:00-03:00": ("Asia/Kolkata", date(2026, 3, 29), time(2), time(3), 60),
    "Casablanca 02:00-03:00 comes twice": ("Africa/Casablanca", date(2026, 2, 15), time(2), time(3), 120),
    "Casablanca 02:00-03:00 is skipped": ("Africa/Casablanca", date(2026, 3, 22), time(2), time(3), None),
}


@pytest.mark.parametrize(("zone", "day", "opens", "closes", "minutes"), SMALL_HOURS.values(), ids=SMALL_HOURS)
def test_windows_in_the_small_hours(zone: str, day: date, opens: time, closes: time, minutes: int | None) -> None:
    window = Window(name="w", opens=opens, closes=closes, timezone=zone, days=frozenset({day.weekday()}))
    noon_before_s = datetime.combine(day - timedelta(days=1), time(12), ZoneInfo(zone)).timestamp()
    opens_s = next_opening_s(window, now_s=noon_before_s)
    assert opens_s is not None
    held = current(window, now_s=opens_s)
    assert held is not None
    if minutes is None:
        assert opens_s > noon_before_s + 6 * 86_400  # a week later
    else:
        assert opens_s < noon_before_s + 86_400
        assert held.length_s == minutes * 60


@cache
def _minutes(zone: str, day: date) -> tuple[tuple[float, datetime], ...]:
    """Every minute of three days around a day: the instant, and what the wall clock shows."""
    start_s = datetime.combine(day - timedelta(days=1), time(0), ZoneInfo(zone)).timestamp()
    return tuple(
        (start_s + 60 * i, datetime.fromtimestamp(start_s + 60 * i, ZoneInfo(zone)).replace(tzinfo=None))
        for i in range(3 * 1440)
    )


def _walk(window: Window, day: date) -> list[bool]:
    """Open or closed in every minute, kept like a doorman does: he opens and closes when the clock first gets there."""
    open_until: list[datetime] = []
    opened: set[date] = set()
    doors: list[bool] = []
    for _, wall in _minutes(window.timezone, day):
        today = wall.date()
        due = today.weekday() in window.days and today not in opened and wall.time() >= window.opens
        if due:
            opened.add(today)
            last = today if window.closes > window.opens else today + timedelta(days=1)
            open_until.append(datetime.combine(last, window.closes))
        # Once the clock has shown the closing time, going back does not open the door again.
        open_until = [until for until in open_until if wall < until]
        doors.append(bool(open_until))
    return doors


@settings(max_examples=40, deadline=None)
@given(
    night=st.sampled_from(sorted(NIGHTS.values())),
    opens=st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45, 59])),
    closes=st.builds(time, st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 45])),
    days=st.sets(st.integers(0, 6), min_size=1),
)
def test_every_minute_of_a_change_is_as_the_doorman_has_it(
    night: tuple[str, date, float], opens: time, closes: time, days: set[int]
) -> None:
    zone, day, _ = night
    window = Window(name="w", opens=opens, closes=closes, timezone=zone, days=frozenset(days))
    doors = _walk(window, day)
    # The doorman does not know what was open when he came: his first day only warms him up.
    minutes = _minutes(zone, day)
    for at in range(1500, len(doors), 7):
        instant_s, _ = minutes[at]
        assert contains(window, now_s=instant_s) == doors[at], minutes[at]
        left = next((i for i in range(at, len(doors)) if not doors[i]), None)
        if left is not None:
            assert time_left_s([window], now_s=instant_s) == (left - at) * 60


@settings(max_examples=60, deadline=None)
@given(
    night=st.sampled_from(sorted(NIGHTS.values())),
    minute=st.integers(0, 4319),
    slice_min=st.integers(1, 900),
    opens=st.integers(0, 23),
    closes=st.integers(0, 23),
)
def test_the_next_fit_fits_and_nothing_sooner_does(
    night: tuple[str, date, float], minute: int, slice_min: int, opens: int, closes: int
) -> None:
    zone, day, _ = night
    windows = [Window(name="w", opens=time(opens), closes=time(closes), timezone=zone)]
    now_s, _ = _minutes(zone, day)[minute]
    found = next_fit_s(windows, now_s=now_s, min_slice_s=slice_min * 60)
    if found is None:
        assert opens != closes
        return
    assert slice_fits(windows, now_s=found, min_slice_s=slice_min * 60)
    for sooner_s in range(int(now_s), int(min(found, now_s + 86_400)), 900):
        assert not slice_fits(windows, now_s=sooner_s, min_slice_s=slice_min * 60)
