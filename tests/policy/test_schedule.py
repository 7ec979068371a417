"""Schedules: what comes when on the days on which clocks change, and what an outage or a long run does to it."""

from __future__ import annotations

import itertools
import re
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import cronsim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.schedule import Due, Instance, ScheduleReason, due_between, due_instances, next_due_s
from orchestrator.spec.job_parts import Schedule
from orchestrator.spec.names import NAME_PATTERN

BERLIN = "Europe/Berlin"


def schedule(cron: str, zone: str = BERLIN, **rules: str) -> Schedule:
    return Schedule.model_validate({"cron": cron, "timezone": zone, **rules})


def at(zone: str, *wall: int, fold: int = 0) -> float:
    return datetime(*wall, tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def of_day(line: Schedule, day: date) -> list[str]:
    """What comes on a local day, as wall times with offset."""
    zone = ZoneInfo(line.timezone)
    start_s = datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
    after = day + timedelta(days=1)
    end_s = datetime(after.year, after.month, after.day, tzinfo=zone).timestamp()
    found = due_between(line, start_s - 1, end_s - 1)
    return [datetime.fromtimestamp(at_s, zone).strftime("%H:%M%z") for at_s in found]


DAYS = {
    "New York, forward: a skipped time comes at the skip": (
        ("30 2 * * *", "America/New_York", date(2026, 3, 8)),
        ["03:00-0400"],
    ),
    "New York, back: a repeated time comes once": (
        ("30 1 * * *", "America/New_York", date(2026, 11, 1)),
        ["01:30-0400"],
    ),
    "Berlin, forward": (("30 2 * * *", BERLIN, date(2026, 3, 29)), ["03:00+0200"]),
    "Berlin, forward: two skipped times come together, once": (
        ("0,30 2 * * *", BERLIN, date(2026, 3, 29)),
        ["03:00+0200"],
    ),
    "Berlin, forward: the skip meets another time of the line": (
        ("0 2,3 * * *", BERLIN, date(2026, 3, 29)),
        ["03:00+0200"],
    ),
    "Berlin, back": (("30 2 * * *", BERLIN, date(2026, 10, 25)), ["02:30+0200"]),
    "Berlin, forward: a rhythm keeps its beat": (
        ("30 */1 * * 0", BERLIN, date(2026, 3, 29)),
        [f"{hour:02d}:30+0{1 if hour < 2 else 2}00" for hour in range(24) if hour != 2],
    ),
    "Berlin, back: a rhythm beats in both hours": (
        ("*/30 2 * * *", BERLIN, date(2026, 10, 25)),
        ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"],
    ),
    "Lord Howe, forward by half an hour": (
        ("15 2 * * *", "Australia/Lord_Howe", date(2026, 10, 4)),
        ["02:30+1100"],
    ),
    "Lord Howe, back by half an hour": (
        ("45 1 * * *", "Australia/Lord_Howe", date(2026, 4, 5)),
        ["01:45+1100"],
    ),
    "Lord Howe, back: the rhythm of the next hour is whole": (
        ("*/15 1,3 * * *", "Australia/Lord_Howe", date(2026, 4, 5)),
        ["01:00+1100", "01:15+1100", "01:30+1100", "01:45+1100", "01:30+1030", "01:45+1030"]
        + [f"03:{minute}+1030" for minute in ("00", "15", "30", "45")],
    ),
    "Kolkata never changes": (("30 2 * * *", "Asia/Kolkata", date(2026, 3, 29)), ["02:30+0530"]),
    "Casablanca, back for Ramadan": (("30 2 * * *", "Africa/Casablanca", date(2026, 2, 15)), ["02:30+0100"]),
    "Casablanca, forward after Ramadan": (("30 2 * * *", "Africa/Casablanca", date(2026, 3, 22)), ["03:00+0100"]),
}


@pytest.mark.parametrize(("line", "expected"), DAYS.values(), ids=DAYS)
def test_what_comes_on_the_day_of_a_change(line: tuple[str, str, date], expected: list[str]) -> None:
    cron, zone, day = line
    assert of_day(schedule(cron, zone), day) == expected


CHANGES = [
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    (BERLIN, date(2026, 3, 29)),
    (BERLIN, date(2026, 10, 25)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Asia/Kolkata", date(2026, 3, 29)),
    ("Africa/Casablanca", date(2026, 2, 15)),
    ("Africa/Casablanca", date(2026, 3, 22)),
]
MINUTES = ["0", "30", "15,45", "*/15", "*", "59"]
HOURS = ["2", "1-3", "*", "*/2", "0,23", "3"]


def walk(line: Schedule, start_s: float, minutes: int) -> list[float]:
    """The oracle: reads the wall clock in every real minute, and remembers which fixed times it has seen pass."""
    zone = ZoneInfo(line.timezone)
    first_wall = datetime.fromtimestamp(start_s, zone).replace(tzinfo=None)
    walls = cronsim.CronSim(line.cron, first_wall - timedelta(hours=26))
    wanted = set(itertools.takewhile(lambda wall: wall < first_wall + timedelta(minutes=minutes + 200), walls))
    rhythm = line.cron.split()[0].startswith("*") or line.cron.split()[1].startswith("*")
    seen = {wall for wall in wanted if wall <= first_wall}
    came = []
    for i in range(1, minutes):
        wall = datetime.fromtimestamp(start_s + 60 * i, zone).replace(tzinfo=None)
        passed = {wall} & wanted if rhythm else {one for one in wanted - seen if one <= wall}
        seen |= passed
        if passed:
            came.append(start_s + 60 * i)
    return came


@settings(max_examples=60, deadline=None)
@given(
    change=st.sampled_from(CHANGES),
    minute=st.sampled_from(MINUTES),
    hour=st.sampled_from(HOURS),
    weekday=st.sampled_from(["*", "0", "1-5"]),
)
def test_instants_are_those_of_a_walked_clock(change: tuple[str, date], minute: str, hour: str, weekday: str) -> None:
    zone, day = change
    line = schedule(f"{minute} {hour} * * {weekday}", zone)
    start_s = at(zone, day.year, day.month, day.day) - 3 * 3600
    assert list(due_between(line, start_s, start_s + 60 * 599)) == walk(line, start_s, 600)


def nightly(**rules: str) -> Schedule:
    return schedule("0 22 * * 1-5", **rules)


TUESDAY = (2026, 11, 24)
TEN_S = at(BERLIN, *TUESDAY, 22)


def decide(line: Schedule, looked_s: float, now_s: float, *running: str) -> Due:
    return due_instances("j", line, looked_s=looked_s, now_s=now_s, running=running)


def test_an_instant_starts_the_instance_that_is_named_after_it() -> None:
    due = decide(nightly(), TEN_S - 30, TEN_S)
    assert [(start.instance.id, start.reason) for start in due.starts] == [("j-20261124t2100z", ScheduleReason.DUE)]
    assert due.next_s == TEN_S + 86_400
    assert decide(nightly(), TEN_S, TEN_S + 30).starts == ()


def test_ids_are_names_and_a_repeated_hour_makes_two() -> None:
    first, second = (Instance(at(BERLIN, 2026, 10, 25, 2, 30, fold=fold), "j").id for fold in (0, 1))
    assert first != second
    longest = [Instance(0.0, "j" * 62 + last).id for last in "ab"]
    assert longest[0] != longest[1]
    assert all(re.match(NAME_PATTERN, name) for name in [first, *longest])


def test_after_an_outage_one_start_stands_for_all_that_were_missed() -> None:
    due = decide(nightly(), TEN_S - 5 * 86_400, TEN_S + 3600)
    assert [(start.instance.due_s, start.reason) for start in due.starts] == [(TEN_S, ScheduleReason.CAUGHT_UP)]


def test_after_an_outage_none_starts_nothing_until_the_next_instant() -> None:
    due = decide(nightly(catch_up="none"), TEN_S - 5 * 86_400, TEN_S + 3600)
    assert due.starts == ()
    assert [(skip.instance.due_s, skip.reason) for skip in due.skipped] == [(TEN_S, ScheduleReason.MISSED)]
    assert due.next_s == TEN_S + 86_400


def test_who_comes_just_after_an_instant_is_on_time_in_both_ways() -> None:
    for catch_up in ("one", "none"):
        due = decide(nightly(catch_up=catch_up), TEN_S - 5 * 86_400, TEN_S + 60)
        assert [start.reason for start in due.starts] == [ScheduleReason.DUE]
        assert [skip.reason for skip in due.skipped] == [ScheduleReason.MISSED]


def test_forbid_skips_while_the_last_start_runs() -> None:
    due = decide(nightly(), TEN_S - 30, TEN_S, "j-20261123t2100z")
    assert due.starts == due.replaced == ()
    assert [skip.reason for skip in due.skipped] == [ScheduleReason.STILL_RUNNING]


def test_replace_ends_what_runs_and_starts_the_newest() -> None:
    line = schedule("* * * * *", concurrency="replace")
    due = decide(line, TEN_S - 60, TEN_S + 60, "j-old")
    assert due.replaced == ("j-old",)
    assert [start.instance.due_s for start in due.starts] == [TEN_S + 60]
    assert {skip.reason for skip in due.skipped} == {ScheduleReason.OVERTAKEN}


def test_allow_starts_beside_what_runs() -> None:
    due = decide(nightly(concurrency="allow"), TEN_S - 30, TEN_S, "j-20261123t2100z")
    assert len(due.starts) == 1
    assert due.replaced == ()


@pytest.mark.parametrize("concurrency", ["forbid", "replace", "allow"])
def test_what_was_submitted_already_is_not_started_again(concurrency: str) -> None:
    # The process died after the submission and before it could remember that it had looked.
    due = decide(nightly(concurrency=concurrency), TEN_S - 30, TEN_S, "j-20261124t2100z")
    assert due.starts == due.replaced == ()


def test_a_clock_that_goes_back_decides_nothing() -> None:
    assert decide(nightly(), TEN_S + 3600, TEN_S).starts == ()
    assert decide(nightly(), TEN_S + 3600, TEN_S).next_s == TEN_S + 86_400


def test_a_year_of_missed_minutes_is_looked_up_at_once() -> None:
    due = decide(schedule("* * * * *"), TEN_S - 365 * 86_400, TEN_S + 30)
    assert [start.instance.due_s for start in due.starts] == [TEN_S]
    assert [skip.instance.due_s for skip in due.skipped] == [TEN_S - 60]


def test_a_rare_line_is_found_far_back_and_far_ahead() -> None:
    leap = schedule("0 0 29 2 *", "UTC")
    assert next_due_s(leap, after_s=at("UTC", 2026, 1, 1)) == at("UTC", 2028, 2, 29)
    due = decide(leap, at("UTC", 2024, 1, 1), at("UTC", 2026, 1, 1))
    assert [start.instance.due_s for start in due.starts] == [at("UTC", 2024, 2, 29)]


@settings(max_examples=30, deadline=None)
@given(
    cron=st.sampled_from(["*/20 * * * *", "30 2 * * *", "0,30 1-3 * * *"]),
    change=st.sampled_from(CHANGES),
    looks=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    concurrency=st.sampled_from(["forbid", "replace", "allow"]),
    catch_up=st.sampled_from(["one", "none"]),
    length_s=st.integers(60, 20_000),
)
def test_over_any_history_no_instant_starts_twice_and_rules_hold(
    cron: str,
    change: tuple[str, date],
    looks: list[int],
    concurrency: str,
    catch_up: str,
    length_s: int,
) -> None:
    zone, day = change
    line = schedule(cron, zone, concurrency=concurrency, catch_up=catch_up)
    looked_s = at(zone, day.year, day.month, day.day)
    ends: dict[str, float] = {}
    for step in looks:
        now_s = looked_s + step
        running = tuple(name for name, end_s in ends.items() if end_s > now_s)
        due = decide(line, looked_s, now_s, *running)
        came = list(due_between(line, looked_s, now_s))
        for start in due.starts:
            assert start.instance.id not in ends
            assert start.instance.due_s in came
            late = now_s - start.instance.due_s > 90
            assert late == (start.reason is ScheduleReason.CAUGHT_UP)
            assert not (late and catch_up == "none")
        if concurrency != "allow":
            assert len(due.starts) <= 1
        if concurrency == "forbid":
            assert not (due.starts and running)
        if catch_up == "one" and came and not (running and concurrency == "forbid"):
            assert due.starts
        for name in due.replaced:
            ends[name] = now_s
        for start in due.starts:
            ends[start.instance.id] = now_s + length_s
        looked_s = now_s
