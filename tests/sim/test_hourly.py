"""Prices and carbon by the hour: exact bills, choices without foresight, bad rows named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.capacity.tideline import Tideline
from orchestrator.sim.course import Course
from orchestrator.sim.engine import Run, simulate
from orchestrator.sim.hourly import G_PER_KWH, USD_PER_DEVICE_HOUR, Hourly, load_hourly
from orchestrator.sim.policies import find_policy, play
from orchestrator.sim.prices import NANO
from orchestrator.sim.world import US_PER_S, Carbon
from orchestrator.spec.errors import ExitCode, UserError
from tests.sim.worlds import Script, make_world

T0 = datetime(2025, 10, 3, 17, 10, tzinfo=UTC)
TICK_S = 60

rates = st.tuples(*[st.integers(0, 5 * NANO)] * 3)
steps = st.lists(st.tuples(st.integers(1, 10 * TICK_S - 1), rates), max_size=6, unique_by=lambda step: step[0])


def course_of(first: tuple[int, ...], later: list[tuple[int, tuple[int, ...]]]) -> Course:
    at = [(0, first), *sorted(later)]
    return Course(tuple(s * US_PER_S for s, _ in at), tuple(rate for _, rate in at))


def by_the_second(first: tuple[int, ...], later: list[tuple[int, tuple[int, ...]]], second: int) -> tuple[int, ...]:
    """The oracle: the last step that is not after this second, found by looking at all of them."""
    found = first
    for since_s, rate in sorted(later):
        if since_s <= second:
            found = rate
    return found


@given(
    first=rates,
    later=steps,
    asks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=10, max_size=10),
)
def test_a_bill_and_its_carbon_are_the_sum_over_every_second(
    first: tuple[int, ...], later: list[tuple[int, tuple[int, ...]]], asks: list[tuple[int, int, int]]
) -> None:
    course = course_of(first, later)
    world = make_world([(3, 3)] * 10, tick_s=TICK_S, price_course=course, carbon=Carbon(course), stall_s=7)
    run = simulate(world, Script(asks))
    paid = sum(
        held * rate * US_PER_S
        for second in range(10 * TICK_S)
        for held, rate in zip(asks[second // TICK_S], by_the_second(first, later, second), strict=True)
    )
    assert run.books.cost == run.books.carbon == paid


@given(first=rates, later=steps, seconds=st.integers(1, 10 * TICK_S))
def test_billing_stops_at_the_second_in_which_work_completes(
    first: tuple[int, ...], later: list[tuple[int, tuple[int, ...]]], seconds: int
) -> None:
    world = make_world([(4, 4)] * 10, tick_s=TICK_S, price_course=course_of(first, later), work_s=4 * seconds)
    run = simulate(world, Script([(4, 0, 0)] * 10))
    assert run.finished_us == seconds * US_PER_S
    assert run.books.cost == sum(4 * by_the_second(first, later, s)[0] * US_PER_S for s in range(seconds))


@given(first=rates, later=steps, cut=st.integers(0, 10 * TICK_S))
def test_a_course_cut_anywhere_sums_to_the_whole(
    first: tuple[int, ...], later: list[tuple[int, tuple[int, ...]]], cut: int
) -> None:
    course, devices, end_us = course_of(first, later), (1, 2, 3), 10 * TICK_S * US_PER_S
    cut_us = cut * US_PER_S
    halves = course.amount(devices, 0, cut_us) + course.amount(devices, cut_us, end_us)
    assert halves == course.amount(devices, 0, end_us)


@pytest.mark.parametrize("broken", [((), ()), ((1,), ((1,),)), ((0, 0), ((1,), (2,))), ((0, 5), ((1,),))])
def test_a_course_without_a_beginning_or_an_order_is_refused(broken: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="a course needs"):
        Course(*broken)  # type: ignore[arg-type]


def alternating(cheap: int, dear: int, *, hours: int, every_h: int = 6) -> Course:
    """Both pools cheap and dear by turns; on-demand stays at $10."""
    since = tuple(h * 3600 * US_PER_S for h in range(0, hours, every_h))
    levels = [cheap if i % 2 else dear for i in range(len(since))]
    return Course(since, tuple((level * NANO, level * NANO, 10 * NANO) for level in levels))


def test_a_job_with_slack_waits_through_dear_hours() -> None:
    hours = 96
    course = alternating(1, 5, hours=hours)
    world = make_world([(4, 4)] * (6 * hours), price_course=course, work_s=8 * 3600 * hours * 0.4, stall_s=30)
    run = simulate(world, Tideline())
    assert run.finished_us is not None
    known = list(enumerate(run.ticks))[72:]  # the first half day has to show what is dear
    assert sum(tick.spot for at, tick in known if at // 36 % 2) > 0.9 * sum(tick.spot for _, tick in known)
    assert run.books.cost < simulate(world, find_policy("greedy", world)).books.cost


def test_a_price_for_carbon_moves_the_choice_and_not_the_bill() -> None:
    rows = [(8, 8)] * 60
    clean_second = Carbon(Course.steady((500 * NANO, 0, 500 * NANO)), usd_per_tonne=4000.0)
    world = make_world(rows, work_s=8 * 3600 * 5, carbon=clean_second)
    run = simulate(world, Tideline())
    assert run.books.carbon == 0  # p1 costs a dollar more than p0; with carbon, p0 costs two more
    assert run.books.cost == 2 * NANO * world.work_us
    assert simulate(make_world(rows, work_s=8 * 3600 * 5), Tideline()).books.cost == NANO * world.work_us


def decisions(run: Run, ticks: int) -> list[tuple[int, int, str]]:
    return [(tick.spot, tick.on_demand, tick.reason) for tick in run.ticks[:ticks]]


@pytest.mark.parametrize("name", ["tideline", "greedy", "uniform-progress", "trailing-min-1h"])
@settings(max_examples=15, deadline=None)
@given(past=st.lists(rates, min_size=6, max_size=6), one=rates, other=rates, within=st.integers(1, 599))
def test_no_policy_sees_a_price_before_its_time(
    name: str, past: list[tuple[int, ...]], one: tuple[int, ...], other: tuple[int, ...], within: int
) -> None:
    """Prices differ from some second of tick 5 on; up to tick 5 every decision is the same."""
    runs = []
    for future in (one, other):
        at = [(600 * i, rate) for i, rate in enumerate(past)] + [(5 * 600 + within, future)]
        world = make_world([(4, 4)] * 12, price_course=course_of(at[0][1], at[1:]), work_s=40_000, stall_s=60)
        runs.append(simulate(world, find_policy(name, world)))
    assert decisions(runs[0], 6) == decisions(runs[1], 6)


def test_the_bound_uses_the_cheap_half_of_a_tick() -> None:
    course = Course((0, 300 * US_PER_S), ((4 * NANO, 9 * NANO), (NANO, 9 * NANO)))
    world = make_world([[4]], price_course=course, work_s=4 * 300, max_on_demand=0, on_demand_nano=None)
    assert play(world, "bound").books.cost == 4 * 300 * US_PER_S * NANO


# -- files ----------------------------------------------------------------------------------------------------------


def row(minutes: float, *cells: object) -> str:
    return ",".join([(T0 + timedelta(minutes=minutes)).isoformat(), *map(str, cells)])


def read(folder: Path, *lines: str, complete: bool = False) -> Hourly:
    path = folder / "hourly.csv"
    path.write_text("\n".join(lines) + "\n")
    quantity = G_PER_KWH if complete else USD_PER_DEVICE_HOUR
    otherwise = None if complete else (1, 2, 3)
    end = T0 + timedelta(hours=5)
    return load_hourly(path, ["a", "b"], quantity, start=T0, end=end, otherwise=otherwise, on_demand_needed=complete)


def test_a_row_holds_to_the_next_and_a_pool_without_a_column_stays_as_listed(tmp_path: Path) -> None:
    found = read(tmp_path, "time,b", row(-90, "0.5"), row(-30, "1.5"), row(30, "2.000000001"), row(90, 4), row(900, 5))
    assert found.course.since_us == (0, 1800 * US_PER_S, 5400 * US_PER_S)
    assert found.course.rates == ((1, 1_500_000_000, 3), (1, 2_000_000_001, 3), (1, 4 * NANO, 3))


def test_rows_that_are_missing_are_carried_forward_and_counted(tmp_path: Path) -> None:
    assert read(tmp_path, "time,a", *(row(60 * h, 1) for h in range(5))).holes == 0
    assert read(tmp_path, "time,a", *(row(60 * h, 1) for h in (0, 1, 2, 4))).holes == 1
    assert read(tmp_path, "time,a", row(-60, 1), row(0, 1), row(60, 1)).holes == 3


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (["time,a", row(0, 1), row(-5, 2)], 3, ("column 'time'", "earlier than")),
        (["time,a", row(0, 1), row(0, 2)], 3, ("column 'time'", "the same time as")),
        (["time,a", row(0, -1)], 2, ("column 'a'", "'-1'")),
        (["time,a", row(0, "nan")], 2, ("column 'a'", "'nan'")),
        (["time,a", row(0, "0.0000000001")], 2, ("column 'a'", "at most 9 decimals")),
        (["time,a", row(0, "")], 2, ("column 'a'", "''")),
        (["time,a", row(0, 1, 2)], 2, ("3 cells",)),
        (["time,a", "2025-10-03T17:10:00,2"], 2, ("column 'time'", "no offset")),
        (["time,a", row(5, 1)], 2, ("column 'time'", "after the start of the run")),
        (["time,c", row(0, 1)], 1, ("column 'c'", "no pool of the series")),
        (["time,a,a", row(0, 1, 1)], 1, ("column 'a'", "two columns")),
        (["when,a", row(0, 1)], 1, ("'when'",)),
        (["time", row(0)], 1, ("no columns",)),
        (["time,a"], None, ("no rows",)),
    ],
)
def test_bad_rows_are_named_by_file_line_and_column(
    tmp_path: Path, lines: list[str], line: int | None, words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, *lines)
    path = tmp_path / "hourly.csv"
    assert caught.value.code is ExitCode.INVALID
    assert caught.value.problem.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert all(word in caught.value.problem for word in words)


def test_carbon_needs_every_pool_and_on_demand(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, "time,a", row(0, 1), complete=True)
    assert "no column for 'b'" in caught.value.problem
    assert "no column for 'on_demand'" in caught.value.problem
    found = read(tmp_path, "time,on_demand,b,a", row(0, 3, 2, "1.5"), complete=True)
    assert found.course.rates == ((1_500_000, 2_000_000, 3_000_000),)
