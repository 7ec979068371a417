"""Windows against a brute-force oracle that walks real time and reads the wall clock minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.windows import Occurrence, Window, current, slice_fits, time_left_s, upcoming

ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca"]


def instant(zone: str, *wall: int) -> float:
    return datetime(*wall, tzinfo=ZoneInfo(zone)).timestamp()


def oracle(window: Window, day: date) -> Occurrence | None:
    """First minutes at which the wall clock has reached the opening and the closing time, by walking real time."""
    if day.weekday() not in window.days:
        return None
    zone = ZoneInfo(window.timezone)
    last = day if window.closes > window.opens else day + timedelta(days=1)
    targets = [datetime.combine(day, window.opens), datetime.combine(last, window.closes)]
    reached: list[float] = []
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=15)
    while len(reached) < 2:
        wall = at.astimezone(zone).replace(tzinfo=None)
        while len(reached) < 2 and wall >= targets[len(reached)]:
            reached.append(at.timestamp())
        at += timedelta(minutes=1)
    return Occurrence(*reached) if reached[1] > reached[0] else None


# Days around every kind of change: forward, back, by half an hour (Lord Howe), none (Kolkata), Ramadan (Casablanca).
CHANGES = [date(2026, 3, 8), date(2026, 11, 1), date(2026, 3, 29), date(2026, 10, 25), date(2026, 4, 5)]
CHANGES += [date(2026, 10, 4), date(2026, 2, 15), date(2026, 3, 22), date(2026, 7, 1)]
# Times near the changes, where a mistake would show, and any others.
TIMES = st.one_of(
    st.sampled_from([time(2, 0), time(2, 30), time(3, 0), time(1, 30), time(0, 0)]),
    st.builds(time, st.integers(0, 23), st.integers(0, 59)),
)


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    day=st.sampled_from(CHANGES),
    shift=st.integers(-1, 1),
    opens=TIMES,
    closes=TIMES,
    days=st.sets(st.integers(0, 6), min_size=1),
)
def test_occurrence_equals_the_walked_clock(
    zone: str, day: date, shift: int, opens: time, closes: time, days: set[int]
) -> None:
    window = Window(name="w", opens=opens, closes=closes, timezone=zone, days=frozenset(days))
    expected = oracle(window, day + timedelta(days=shift))
    if expected is None:
        return
    before = next(iter(upcoming(window, now_s=expected.opens_at_s - 1)))
    assert before == expected
    middle_s = (expected.opens_at_s + expected.closes_at_s) / 2
    held = current(window, now_s=middle_s)
    assert held is not None
    assert held.closes_at_s >= expected.closes_at_s


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("an ordinary night", (2026, 7, 1), 8.0),
        ("spring forward takes an hour", (2026, 3, 28), 7.0),
        ("fall back gives one", (2026, 10, 24), 9.0),
    ],
)
def test_a_night_in_berlin(name: str, day: tuple[int, int, int], hours: float) -> None:
    night = Window(name=name, opens=time(22), closes=time(6), timezone="Europe/Berlin")
    opening_s = instant("Europe/Berlin", *day, 22)
    assert current(night, now_s=opening_s) == Occurrence(opening_s, opening_s + hours * 3600)


def test_lord_howe_moves_by_half_an_hour() -> None:
    night = Window(name="n", opens=time(22), closes=time(6), timezone="Australia/Lord_Howe")
    held = current(night, now_s=instant("Australia/Lord_Howe", 2026, 4, 4, 23))
    assert held is not None
    assert held.length_s == 8.5 * 3600


def test_window_inside_the_skipped_hour_does_not_occur() -> None:
    gone = Window(name="gone", opens=time(2, 15), closes=time(2, 45), timezone="Europe/Berlin", days=frozenset({6}))
    now_s = instant("Europe/Berlin", 2026, 3, 28, 12)
    assert next(iter(upcoming(gone, now_s=now_s))).opens_at_s == instant("Europe/Berlin", 2026, 4, 5, 2, 15)


def test_days_are_the_days_of_opening() -> None:
    friday = Window(name="f", opens=time(22), closes=time(6), timezone="UTC", days=frozenset({4}))
    assert current(friday, now_s=instant("UTC", 2026, 7, 4, 5, 59)) is not None  # Saturday morning
    assert current(friday, now_s=instant("UTC", 2026, 7, 4, 22)) is None
    assert current(friday, now_s=instant("UTC", 2026, 7, 4, 6)) is None


def test_equal_ends_are_the_whole_day_and_chain() -> None:
    always = Window(name="a", opens=time(7), closes=time(7), timezone="Europe/Berlin")
    assert time_left_s([always], now_s=instant("Europe/Berlin", 2026, 7, 1, 6, 59)) > 300 * 86_400
    monday = Window(name="m", opens=time(0), closes=time(0), timezone="UTC", days=frozenset({0}))
    assert time_left_s([monday], now_s=instant("UTC", 2026, 7, 6, 1)) == 23 * 3600


def test_windows_that_touch_count_as_one() -> None:
    evening = Window(name="e", opens=time(20), closes=time(0), timezone="UTC")
    night = Window(name="n", opens=time(0), closes=time(6), timezone="UTC")
    now_s = instant("UTC", 2026, 7, 1, 21)
    assert time_left_s([evening, night], now_s=now_s) == 9 * 3600
    assert time_left_s([night, evening], now_s=now_s) == 9 * 3600


def test_slice_that_does_not_fit_is_not_started() -> None:
    night = Window(name="n", opens=time(22), closes=time(6), timezone="UTC")
    now_s = instant("UTC", 2026, 7, 2, 5)
    assert slice_fits([night], now_s=now_s, min_slice_s=3600)
    assert not slice_fits([night], now_s=now_s, min_slice_s=3601)
    assert not slice_fits([night], now_s=instant("UTC", 2026, 7, 2, 12), min_slice_s=1)


@pytest.mark.parametrize("bad", [{"days": frozenset()}, {"days": frozenset({7})}, {"opens": time(1, 0, 30)}])
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"name": "n", "opens": time(1), "closes": time(2), "timezone": "UTC"}
    with pytest.raises(ValueError, match="window n"):
        Window(**{**good, **bad})  # type: ignore[arg-type]
