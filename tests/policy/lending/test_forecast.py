"""The forecast: same weekday and wall time, not moved by a holiday or a jump, and put right when it is always wrong."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from orchestrator.policy.lending.forecast import Errors, expected_rps, judge, usual_rps
from orchestrator.policy.lending.history import History, observe

ZONE = "Europe/Berlin"
KEEP_S = 14 * 86_400.0


def at(*wall: int) -> float:
    return dt.datetime(*wall, tzinfo=ZoneInfo(ZONE)).timestamp()


def watch(history: History, first: dt.date, days: int, rps, *, every_s: int = 600, zone: str = ZONE) -> History:
    """Days of demand, by a function of wall date and hour."""
    start_s = dt.datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone)).timestamp()
    last = first + dt.timedelta(days=days)
    end_s = dt.datetime(last.year, last.month, last.day, tzinfo=ZoneInfo(zone)).timestamp()
    at_s = start_s
    while at_s < end_s:
        wall = dt.datetime.fromtimestamp(at_s, ZoneInfo(zone))
        history = observe(history, at_s=at_s, rps=rps(wall), lead_s=240.0, timezone=zone, keep_s=KEEP_S)
        at_s += every_s
    return history


def weekly(wall: dt.datetime) -> float:
    """Busy by day, twice as busy at weekends."""
    base = 100.0 if 8 <= wall.hour < 20 else 20.0
    return base * (2 if wall.weekday() >= 5 else 1)


def test_the_same_weekday_counts_most() -> None:
    history = watch(History(), dt.date(2026, 7, 6), 13, weekly)
    saturday_noon = at(2026, 7, 18, 12)
    assert usual_rps(history, saturday_noon, ZONE) == 200.0
    assert usual_rps(history, at(2026, 7, 20, 12), ZONE) == 100.0


def test_one_holiday_does_not_move_what_is_usual() -> None:
    def with_holiday(wall: dt.datetime) -> float:
        return 15.0 if wall.date() == dt.date(2026, 7, 14) else weekly(wall)

    history = watch(History(), dt.date(2026, 7, 6), 14, with_holiday)
    assert usual_rps(history, at(2026, 7, 21, 12), ZONE) == pytest.approx(100.0)


def test_on_a_holiday_the_level_follows_within_the_hour() -> None:
    history = watch(History(), dt.date(2026, 7, 6), 7, weekly)
    now_s = at(2026, 7, 13, 10)
    today = dt.datetime(2026, 7, 13, tzinfo=ZoneInfo(ZONE)).timestamp()
    while today <= now_s:
        wall = dt.datetime.fromtimestamp(today, ZoneInfo(ZONE))
        rps = 0.3 * weekly(wall)
        history = observe(history, at_s=today, rps=rps, lead_s=240.0, timezone=ZONE, keep_s=KEEP_S)
        today += 600
    assert expected_rps(history, now_s, now_s + 1800, ZONE) == pytest.approx(0.3 * 100.0, rel=0.4)
    # ... and fades: nobody knows of tomorrow that it is a holiday, too.
    assert expected_rps(history, now_s, now_s + 86_400, ZONE) == pytest.approx(100.0, rel=0.05)


def test_the_same_time_is_the_same_wall_time_over_a_clock_change() -> None:
    history = watch(History(), dt.date(2026, 3, 23), 6, weekly)
    # Sunday 29 March: the clock goes forward at two, and the ramp still comes at eight by the clock.
    assert usual_rps(history, at(2026, 3, 30, 7, 50), ZONE) == 20.0
    assert usual_rps(history, at(2026, 3, 30, 8, 0), ZONE) == 100.0


def test_without_past_days_it_is_what_it_is_now() -> None:
    history = observe(History(), at_s=at(2026, 7, 6, 9), rps=7.0, lead_s=240.0, timezone=ZONE, keep_s=KEEP_S)
    assert expected_rps(history, at(2026, 7, 6, 9), at(2026, 7, 6, 20), ZONE) == 7.0


def test_old_days_are_forgotten() -> None:
    history = watch(History(), dt.date(2026, 7, 1), 30, weekly, every_s=3600)
    assert len(history.days) == 15
    assert history.days[-1].date == dt.date(2026, 7, 30)


def test_the_largest_rise_is_within_one_lead_and_by_day() -> None:
    history = History()
    for index, rps in enumerate([10, 10, 14, 18, 30, 12, 20, 20, 20, 20, 20, 20, 20, 20, 21]):
        history = observe(history, at_s=index * 60.0, rps=rps, lead_s=240.0, timezone="UTC", keep_s=KEEP_S)
    assert history.max_rise == 20.0
    assert [history.rise_within(lead_s) for lead_s in (60.0, 240.0, 360.0)] == [20.0, 20.0, 30.0]


def test_a_measurement_is_not_taken_twice_and_time_does_not_go_back() -> None:
    history = observe(History(), at_s=100.0, rps=1.0, lead_s=240.0, timezone="UTC", keep_s=KEEP_S)
    for at_s in (100.0, 99.0):
        assert observe(history, at_s=at_s, rps=9.0, lead_s=240.0, timezone="UTC", keep_s=KEEP_S) is history


def test_a_forecast_that_is_always_half_is_learnt() -> None:
    errors = Errors(waiting=tuple((float(i), 50.0) for i in range(1, 21)))
    errors = judge(errors, now_s=20.0, rps=100.0)
    assert errors.quantile(0.5) == 2.0
    assert errors.waiting == ()
    assert Errors().quantile(0.9) == 1.0


def test_quantiles_grow_with_their_share() -> None:
    errors = Errors(ratios=tuple(0.5 + i / 100 for i in range(100)))
    found = [errors.quantile(share) for share in (0.01, 0.1, 0.5, 0.9, 1.0)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.5, 1.49)


def test_a_lead_that_becomes_longer_reckons_with_as_much_more_of_a_ramp() -> None:
    """Half a request more every ten seconds: 12 within four minutes, and 24 within eight."""

    def ramp(history: History, from_s: float, lead_s: float) -> History:
        for at_s in range(int(from_s), int(from_s) + 1200, 10):
            rps = 100.0 + (at_s % 86_400) / 20.0
            history = observe(history, at_s=at_s, rps=rps, lead_s=lead_s, timezone="UTC", keep_s=KEEP_S)
        return history

    first = ramp(History(), 0.0, 240.0)
    assert first.rise_within(240.0) == pytest.approx(12.0)
    assert first.rise_within(480.0) == pytest.approx(24.0)
    # On the day on which it changes, and on later ones, in which rises are seen over all of it.
    same_day, next_day = ramp(first, 3600.0, 480.0), ramp(first, 86_400.0, 480.0)
    assert same_day.rise_within(480.0) == next_day.rise_within(480.0) == pytest.approx(24.0)
    assert ramp(same_day, 7200.0, 240.0).rise_within(480.0) == pytest.approx(24.0)
