"""Lending: what is safe rests on the reserve, what is worth it on the forecast, and every decision says why."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.lending.decide import Memory, Sample, decide_lending, explain, reserve_rps, spare_ahead
from orchestrator.policy.lending.forecast import expected_rps
from orchestrator.policy.lending.standing import apply
from orchestrator.policy.lending.values import (
    Emergency,
    Keep,
    Lend,
    LendingReason,
    Loan,
    Recall,
    RecallTimes,
    Return,
    Standing,
    Terms,
    p95,
)
from orchestrator.policy.windows import Window
from tests.policy.lending.worlds import MONDAY_S, STEP_S, TIMES, learnt, play, terms

DAY_STEPS = int(86_400 / STEP_S)
LEAD_STEPS = int(TIMES.lead_s / STEP_S)
# Two quiet days: 40 of 200 rps at night, 120 by day, rising over two hours.
HOURS = [40.0] * 7 + [80.0, 120.0] + [120.0] * 10 + [80.0, 40.0, 40.0, 40.0, 40.0]


def day_of(hours: list[float]) -> list[float]:
    ring = [*hours, hours[0]]
    steps = int(3600 / STEP_S)
    return [
        ring[at // steps] + (ring[at // steps + 1] - ring[at // steps]) * (at % steps) / steps
        for at in range(DAY_STEPS)
    ]


@pytest.fixture(scope="module")
def knows() -> Memory:
    return learnt(terms(), day_of(HOURS) * 2)


TWO_DAYS_S = MONDAY_S + 2 * 86_400


def ask(memory: Memory, standing: Standing, rps: float | None, *, hour: float = 1.0, wanted: int | None = None, **more):
    now_s = TWO_DAYS_S + hour * 3600
    sample = None if rps is None else Sample(at_s=now_s, rps=rps)
    decision, _ = decide_lending(terms(**more), standing, memory, sample, now_s=now_s, wanted=wanted)
    return decision


def test_the_night_is_lent_and_the_morning_called_back_in_time() -> None:
    of = terms()
    moments = play(of, day_of(HOURS) * 3)
    assert not any(moment.short(of) for moment in moments)
    third = moments[2 * DAY_STEPS :]
    at_three, at_noon = third[3 * 120].standing, third[12 * 120].standing
    assert at_three.lent >= 13
    assert at_noon.lent <= 7
    recalls = [moment for moment in third if isinstance(moment.decision, Recall)]
    assert {moment.decision.reason for moment in recalls} == {LendingReason.DEMAND_RISES}


def test_spare_devices_are_lent_for_as_long_as_the_forecast_gives_them(knows: Memory) -> None:
    lent = ask(knows, Standing(serving=20), 40.0)
    assert isinstance(lent, Lend)
    assert lent.reason is LendingReason.SPARE_FOR_A_SLICE
    assert lent.until_s == TWO_DAYS_S + 6 * 3600  # when the morning's rise begins
    # All but demand and its reserve: the rise of two hours over one lead, and a quarter more.
    reserve = reserve_rps(terms(), knows.history)
    assert reserve == pytest.approx(1.25 * 40.0 * TIMES.lead_s / 3600)
    assert lent.replicas == 20 - math.ceil((40.0 + reserve) / 10.0)


def test_nothing_is_lent_for_less_than_a_slice(knows: Memory) -> None:
    standing = Standing(serving=10, loans=(Loan(TWO_DAYS_S, 10),))
    kept = ask(knows, standing, 72.0, hour=6.8)  # two are spare, and the morning is coming
    assert (type(kept), kept.reason) == (Keep, LendingReason.SPARE_TOO_SHORT)
    lent = ask(knows, standing, 72.0, hour=6.8, min_slice_s=60.0)
    assert (type(lent), lent.replicas) == (Lend, 1)


def test_a_rise_calls_the_oldest_loans_back(knows: Memory) -> None:
    standing = Standing(serving=5, loans=(Loan(TWO_DAYS_S - 60, 5), Loan(TWO_DAYS_S - 7200, 10)))
    recall = ask(knows, standing, 48.0)
    assert (type(recall), recall.reason) == (Recall, LendingReason.DEMAND_RISES)
    after = apply(standing, recall, terms(), now_s=TWO_DAYS_S)
    assert after.loans[0].since_s == TWO_DAYS_S - 7200 if recall.replicas < 10 else True
    assert after.lent == 15 - recall.replicas


def test_what_is_coming_is_not_called_twice(knows: Memory) -> None:
    back = Return(serves_at_s=TWO_DAYS_S + 3700, replicas=3, called_s=TWO_DAYS_S + 3460)
    decision = ask(knows, Standing(serving=5, loans=(Loan(TWO_DAYS_S, 12),), returns=(back,)), 48.0)
    assert not isinstance(decision, Recall | Emergency)


def test_demand_above_what_serves_kills_training(knows: Memory) -> None:
    back = Return(serves_at_s=TWO_DAYS_S + 3600 + 230, replicas=2, called_s=TWO_DAYS_S + 3590)
    standing = Standing(serving=5, loans=(Loan(TWO_DAYS_S, 13),), returns=(back,))
    decision = ask(knows, standing, 90.0)
    assert (type(decision), decision.reason) == (Emergency, LendingReason.DEMAND_ABOVE_CAPACITY)
    after = apply(standing, decision, terms(), now_s=TWO_DAYS_S + 3600)
    # Everything serves one cold start later, also what was on its way in good order.
    assert {one.serves_at_s for one in after.returns} == {TWO_DAYS_S + 3600 + TIMES.cold_start_s}
    assert after.serving + after.returning >= math.ceil((90.0 + reserve_rps(terms(), knows.history)) / 10)


def test_an_emergency_that_can_hurry_nothing_is_not_said_again(knows: Memory) -> None:
    back = Return(serves_at_s=TWO_DAYS_S + 3600 + 100, replicas=15, called_s=TWO_DAYS_S + 3500, left=True)
    decision = ask(knows, Standing(serving=5, returns=(back,)), 90.0)
    assert isinstance(decision, Keep)


def test_training_that_does_not_let_go_in_time_is_killed(knows: Memory) -> None:
    called_s = TWO_DAYS_S + 3600 - 30 - 30 - 121
    back = Return(serves_at_s=called_s + 240, replicas=4, called_s=called_s)
    decision = ask(knows, Standing(serving=16, returns=(back,)), 40.0)
    assert (type(decision), decision.reason) == (Emergency, LendingReason.LEFT_LATE)
    gone = replace(back, left=True)
    assert not isinstance(ask(knows, Standing(serving=16, returns=(gone,)), 40.0), Emergency)


def test_training_gives_back_what_it_cannot_use(knows: Memory) -> None:
    standing = Standing(serving=10, loans=(Loan(TWO_DAYS_S, 10),))
    recall = ask(knows, standing, 40.0, wanted=7)
    assert (type(recall), recall.replicas, recall.reason) == (Recall, 3, LendingReason.NOT_WANTED)
    kept = ask(knows, standing, 40.0, wanted=10)
    assert (type(kept), kept.reason) == (Keep, LendingReason.NOT_WANTED)
    lent = ask(knows, standing, 40.0, wanted=12)
    assert (type(lent), lent.replicas) == (Lend, 2)


def test_without_measurements_everything_comes_back(knows: Memory) -> None:
    standing = Standing(serving=5, loans=(Loan(TWO_DAYS_S, 15),))
    recall = ask(knows, standing, None)
    assert (type(recall), recall.replicas, recall.reason) == (Recall, 15, LendingReason.METRICS_STALE)
    kept = ask(Memory(), Standing(serving=20), None)
    assert (type(kept), kept.reason) == (Keep, LendingReason.METRICS_STALE)


def test_what_was_measured_before_a_clock_was_set_back_says_nothing_of_now(knows: Memory) -> None:
    """Measurements of an hour that the memory has already are not taken again, and demand may be anything in it."""
    _, memory = decide_lending(
        terms(), Standing(serving=20), knows, Sample(at_s=TWO_DAYS_S + 3600, rps=40.0), now_s=TWO_DAYS_S + 3600
    )
    recall = ask(memory, Standing(serving=5, loans=(Loan(TWO_DAYS_S, 15),)), 150.0, hour=0.5)
    assert (type(recall), recall.replicas, recall.reason) == (Recall, 15, LendingReason.METRICS_STALE)
    kept = ask(memory, Standing(serving=20), 40.0, hour=0.5)
    assert (type(kept), kept.reason) == (Keep, LendingReason.METRICS_STALE)


def test_who_has_seen_less_than_a_day_expects_demand_to_double() -> None:
    decision, memory = decide_lending(
        terms(), Standing(serving=20), Memory(), Sample(at_s=MONDAY_S, rps=40.0), now_s=MONDAY_S
    )
    assert reserve_rps(terms(), memory.history) == 40.0
    assert isinstance(decision, Lend)
    assert decision.replicas == 12


def test_asking_again_changes_nothing(knows: Memory) -> None:
    now_s, sample = TWO_DAYS_S + 3600, Sample(at_s=TWO_DAYS_S + 3600, rps=40.0)
    first, memory = decide_lending(terms(), Standing(serving=20), knows, sample, now_s=now_s)
    standing = apply(Standing(serving=20), first, terms(), now_s=now_s)
    again, same = decide_lending(terms(), standing, memory, sample, now_s=now_s)
    assert isinstance(again, Keep)
    assert same == memory


@pytest.mark.parametrize("rps", [-1.0, math.nan, math.inf])
def test_a_demand_that_is_none_is_refused(knows: Memory, rps: float) -> None:
    with pytest.raises(ValueError, match="demand is"):
        ask(knows, Standing(serving=20), rps)


NIGHT = Window(name="night", opens=dt.time(22), closes=dt.time(6), timezone="UTC")


def test_outside_its_window_nothing_is_lent_however_quiet(knows: Memory) -> None:
    kept = ask(knows, Standing(serving=20), 40.0, hour=12.0, windows=(NIGHT,))
    assert (type(kept), kept.reason) == (Keep, LendingReason.OUTSIDE_WINDOW)


def test_near_its_close_nothing_is_lent_and_what_was_comes_back(knows: Memory) -> None:
    slice_ends = 6.0 - (1800 + TIMES.lead_s) / 3600
    kept = ask(knows, Standing(serving=20), 40.0, hour=slice_ends + 0.01, windows=(NIGHT,))
    assert (type(kept), kept.reason) == (Keep, LendingReason.WINDOW_TOO_SHORT)
    standing = Standing(serving=5, loans=(Loan(TWO_DAYS_S, 15),))
    recall = ask(knows, standing, 40.0, hour=6.0 - TIMES.lead_s / 3600, windows=(NIGHT,))
    assert (type(recall), recall.replicas, recall.reason) == (Recall, 15, LendingReason.WINDOW_CLOSES)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", (2026, 3, 28)),
        ("Europe/Berlin", (2026, 10, 24)),
        ("America/New_York", (2026, 3, 7)),
        ("America/New_York", (2026, 10, 31)),
        ("Australia/Lord_Howe", (2026, 4, 4)),
        ("Australia/Lord_Howe", (2026, 10, 3)),
        ("Asia/Kolkata", (2026, 3, 28)),
        ("Africa/Casablanca", (2026, 2, 14)),
    ],
)
def test_no_night_device_is_away_after_the_close_on_any_day_of_a_change(zone: str, day: tuple[int, int, int]) -> None:
    from zoneinfo import ZoneInfo

    window = Window(name="night", opens=dt.time(22), closes=dt.time(6), timezone=zone)
    begins_s = dt.datetime(*day, 12, tzinfo=ZoneInfo(zone)).timestamp()
    of = terms(windows=(window,), timezone=zone)
    lent_at = [
        dt.datetime.fromtimestamp(moment.at_s, ZoneInfo(zone)).time()
        for moment in play(of, [40.0] * DAY_STEPS, begins_s=begins_s)
        if moment.standing.serving < of.replicas
    ]
    assert lent_at
    assert all(at >= dt.time(22) or at < dt.time(6) for at in lent_at)


def test_every_decision_is_said_in_one_line(knows: Memory) -> None:
    lines = [explain(ask(knows, Standing(serving=20), 40.0), now_s=TWO_DAYS_S)]
    lines.append(explain(ask(knows, Standing(serving=5, loans=(Loan(TWO_DAYS_S, 15),)), 90.0), now_s=TWO_DAYS_S))
    lines.append(explain(ask(knows, Standing(serving=20), None), now_s=TWO_DAYS_S))
    assert lines[0].startswith("00:00:00Z lend 15 (spare_for_a_slice): ")
    assert "at once (demand_above_capacity)" in lines[1]
    assert "keep (metrics_stale)" in lines[2]


def test_spare_ahead_is_bounded_by_the_day_ahead(knows: Memory) -> None:
    ahead = list(spare_ahead(terms(), knows, now_s=TWO_DAYS_S, span_s=86_400.0))
    assert len(ahead) == 144
    assert max(free for _, free in ahead[:36]) > max(free for _, free in ahead[60:100])


# Any demand over some hours: levels of a few minutes each, with straight lines or jumps between.
LEVELS = st.lists(st.tuples(st.integers(1, 16), st.floats(0, 170), st.booleans()), min_size=3, max_size=16)


def _demand(levels: list[tuple[int, float, bool]]) -> list[float]:
    demand, before = [], levels[0][1]
    for steps, level, jumps in levels:
        demand += [level if jumps else max(0.0, before + (level - before) * (at + 1) / steps) for at in range(steps)]
        before = level
    return demand


def _within_reserve(of: Terms, memory: Memory, demand: list[float]) -> list[float]:
    """The same demand, with every rise within one lead held to the reserve: the largest rise seen before and more."""
    held: list[float] = []
    known = [memory.history.max_rise]
    for rps in demand:
        floor = min(held[-LEAD_STEPS:], default=memory.history.recent[-1][1])
        seen = known[max(0, len(known) - LEAD_STEPS - 1)]
        held.append(min(rps, floor + seen * (1 + of.jump_margin)))
        known.append(max(known[-1], held[-1] - floor))
    return held


@settings(max_examples=40, deadline=None)
@given(
    levels=LEVELS,
    wrong=st.sampled_from([0.0, 0.5, 1.0, 1.5, 10.0]),
    settle_s=st.sampled_from([0.0, 300.0]),
    margin=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_no_rise_within_the_reserve_is_ever_short_whatever_the_forecast(
    knows: Memory, levels: list[tuple[int, float, bool]], wrong: float, settle_s: float, margin: float
) -> None:
    of = terms(settle_s=settle_s, jump_margin=margin, min_slice_s=60.0)
    demand = _within_reserve(of, knows, _demand(levels))
    moments = play(
        of,
        demand,
        begins_s=TWO_DAYS_S,
        memory=knows,
        forecast=lambda history, now_s, at_s, zone: wrong * expected_rps(history, now_s, at_s, zone),
    )
    assert not [moment for moment in moments if moment.short(of)]


@settings(max_examples=30, deadline=None)
@given(levels=LEVELS, cold_start_s=st.sampled_from([60.0, 180.0]))
def test_no_shortage_outlasts_a_cold_start_and_the_look_before_it(
    knows: Memory, levels: list[tuple[int, float, bool]], cold_start_s: float
) -> None:
    times = RecallTimes(snapshot_s=30.0, drain_s=30.0, cold_start_s=cold_start_s)
    of = terms(times=times, min_slice_s=60.0)
    moments = play(of, _demand(levels), begins_s=TWO_DAYS_S, memory=knows)
    for at, moment in enumerate(moments):
        # What serves one cold start later covers what was asked for now: training was killed at once if need be.
        later = at + int(cold_start_s / STEP_S)
        if later < len(moments):
            served = max(one.standing.serving for one in moments[at : later + 1])
            assert served >= of.replicas_for(moment.rps)


def test_terms_that_serve_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot serve"):
        terms(replica_rps=0.0)


def test_of_a_hundred_measurements_ninety_five_are_not_above_what_is_counted_on() -> None:
    assert p95("drain", [float(i) for i in range(1, 101)]) == 95.0
    assert (p95("drain", [5.0]), p95("drain", [100.0, 120.0])) == (5.0, 120.0)
    for none in ([], [1.0, -1.0]):
        with pytest.raises(ValueError, match="drain: no 95th percentile"):
            p95("drain", none)
    times = RecallTimes(snapshot_s=95.0, drain_s=5.0, cold_start_s=120.0)
    assert (times.lead_s, times.emergency_s) == (220.0, 120.0)
