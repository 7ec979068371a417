"""The night's benchmark on a made-up week: its books, its peers and its oracle do what they are said to do."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.adapters.endpoints.demand import DemandSeries
from tests.benchmarks.night_jumps import jump_rows
from tests.benchmarks.night_peers import (
    fixed_window,
    half_reserve,
    hindsight_margin,
    hourly_reserve,
    jump_safe_oracle,
    oracle,
    reactive,
    spot_by_slot,
    static_split,
)
from tests.benchmarks.night_world import (
    DAY,
    LEAD,
    MIN_SLICE,
    SLOT_S,
    Setup,
    by_plan,
    by_policy,
    over_clock_change,
    set_up,
)

HOURS = [30.0, 28, 25, 24, 25, 28, 40, 60, 90, 95, 92, 90, 88, 90, 94, 96, 98, 97, 92, 85, 70, 55, 45, 35]


@pytest.fixture(scope="module")
def week() -> Setup:
    wobble = [1.0, 1.02, 0.97, 1.0, 0.95, 0.7, 0.75]
    rps = [rate * part for part in wobble for rate in HOURS]
    return set_up(DemandSeries(name="m", tick_s=3600.0, rps=tuple(rps)), devices=20)


@pytest.mark.parametrize(
    "peer",
    [
        static_split,
        fixed_window,
        reactive,
        hourly_reserve,
        half_reserve,
        hindsight_margin,
        oracle,
        jump_safe_oracle,
        by_policy,
    ],
)
def test_no_device_is_made_or_lost(week: Setup, peer) -> None:
    played = peer(week)
    away = week.devices - played.serving
    assert (away >= played.lent).all()
    assert (played.serving >= 0).all()
    falls = np.maximum(-np.diff(played.lent, prepend=0), 0)
    assert away[-1] >= played.lent[-1]
    assert int((away - played.lent).sum()) <= int(falls.sum()) * LEAD


def test_the_oracle_is_never_short_and_nobody_safe_lends_more(week: Setup) -> None:
    best = oracle(week)
    assert not best.breaches.any()
    most = best.in_slices().sum()
    for peer in (static_split, by_policy, hindsight_margin, jump_safe_oracle):
        played = peer(week)
        assert not played.breaches.any(), peer
        assert played.in_slices().sum() <= most


def test_the_oracle_gives_back_exactly_when_needed() -> None:
    demand = np.concatenate([np.full(200, 10.0), np.full(100, 190.0), np.full(200, 10.0)])
    setup = Setup(name="m", demand=demand, devices=20, capacity_rps=10.0, begins_s=0.0)
    played = oracle(setup)
    assert played.lent[199 - LEAD] == 19
    assert played.lent[200 - LEAD] == 1
    assert (played.serving[200:300] == 19).all()
    assert not played.breaches.any()


def test_loans_below_the_slice_do_not_count() -> None:
    lent = np.zeros(400, dtype=np.int64)
    lent[10 : 10 + MIN_SLICE - 1] = 2
    lent[200 : 200 + MIN_SLICE] = 3
    setup = Setup(name="m", demand=np.full(400, 10.0), devices=20, capacity_rps=10.0, begins_s=0.0)
    assert by_plan(setup, lent).in_slices().sum() == 3 * MIN_SLICE


def test_a_slot_that_is_short_with_all_devices_is_nobodys_breach() -> None:
    setup = Setup(name="m", demand=np.array([50.0, 250.0]), devices=20, capacity_rps=10.0, begins_s=0.0)
    assert by_plan(setup, np.array([16, 16])).breaches.tolist() == [True, False]


def test_a_clock_change_takes_or_gives_an_hour(week: Setup) -> None:
    spring = over_clock_change(week, dt.date(2026, 3, 29), zone="Europe/Berlin", day=5)
    autumn = over_clock_change(week, dt.date(2026, 10, 25), zone="Europe/Berlin", day=5)
    an_hour = 3600 // SLOT_S
    assert len(week.demand) - len(spring.demand) == an_hour
    assert len(autumn.demand) - len(week.demand) == an_hour
    # Noon is noon by the wall clock after the change.
    noon_s = dt.datetime(2026, 3, 29, 10, tzinfo=dt.UTC).timestamp()
    at = int((noon_s - spring.begins_s) / SLOT_S)
    assert spring.demand[at] == week.demand[5 * DAY + DAY // 2]


def test_spot_of_another_zone_keeps_its_hours() -> None:
    counts = np.arange(3 * 24, dtype=np.int64).reshape(-1, 1)
    start = dt.datetime(2026, 6, 1, 0, 0, tzinfo=dt.UTC)
    at_utc = spot_by_slot(counts, start, 3600, offset_h=0.0, slots=10)
    east = spot_by_slot(counts, start, 3600, offset_h=8.0, slots=10)
    west = spot_by_slot(counts, start, 3600, offset_h=-7.0, slots=10)
    assert (at_utc[0], east[0], west[0]) == (0, 16, 7)


def test_survivable_jumps_break_nothing_and_larger_ones_end_with_a_cold_start(week: Setup) -> None:
    rows = jump_rows(replace(week, demand=week.demand[: 3 * DAY]), every=DAY // 3)
    ours = [row for row in rows if row["policy"] == "tideline"]
    survivable = [row for row in ours if row["kind"] == "within_lead" and row["size_of_largest_rise"] <= 1.25]
    assert survivable
    assert all(row["breaches"] == 0 for row in survivable)
    assert 0 < max(row["longest_breach_s"] for row in ours) <= 180
    assert [row["jumps"] for row in rows if row["policy"] == "reactive"] == [ours[0]["jumps"]] * 2
