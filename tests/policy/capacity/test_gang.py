"""One gang on one pool: its plan against the sum over every path, and the deadline kept whatever happens."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.capacity.gang import Place, make_plan
from orchestrator.policy.capacity.market import NUM_OPEN, NUM_SHUT, Market, chances, observe_market
from orchestrator.policy.capacity.tideline import CapacityReason, Tideline
from orchestrator.policy.capacity.usual import Usual
from orchestrator.policy.capacity.view import CapacityView, LossReading
from orchestrator.sim.engine import simulate
from orchestrator.sim.world import World
from tests.sim.worlds import Script, make_world

TICK_S = 600


def gang(rows: list[int], **changes: object) -> World:
    """Four devices or none; spot at $1, on-demand at $10."""
    return make_world([(n,) for n in rows], **({"min_workers": 4, "max_workers": 4} | changes))


def first_view(world: World) -> CapacityView:
    script = Script([(0, 0)] * world.num_ticks)
    simulate(world, script)
    return script.views[0]


@pytest.mark.parametrize("stall", [0, 1, 2])
@pytest.mark.parametrize("loss", [0, 1])
@pytest.mark.parametrize("slack", [1, 3])
def test_a_plan_costs_what_every_path_through_the_market_costs_on_average(stall: int, loss: int, slack: int) -> None:
    """Stalls and losses of whole ticks, so that the plan has nothing to interpolate."""
    work = 3
    steps = work + stall + slack
    world = gang([4] * steps, stall_s=stall * TICK_S, loss_s=loss * TICK_S, work_s=4 * work * TICK_S)
    market = Market(is_open=True)
    plan = make_plan(first_view(world), market, Usual((1.0,), 10.0, 1))
    chance = chances(market, TICK_S)

    @functools.cache
    def least(steps_left: int, left: int, place: Place, bucket: int) -> float:
        if left <= 0:
            return 0.0
        if not steps_left:
            return left * 10.0 * 4 / 6
        return min(cost(steps_left, left, place, bucket, to) for to in Place)

    def cost(steps_left: int, left: int, place: Place, bucket: int, to: Place) -> float:
        rest = steps_left - 1
        moved = 0 if to is place else stall
        if to is Place.IDLE:
            return mean(rest, left, to, bucket, 0) if left + stall <= rest else float("inf")
        if to is Place.SPOT and bucket >= NUM_OPEN:
            return float("inf")
        after = max(0, left - 1 + moved)
        if to is Place.SPOT and after and after + loss + stall > rest:
            return float("inf")
        paid = min(1, left + moved) * (1.0 if to is Place.SPOT else 10.0) * 4 / 6
        return paid + mean(rest, after, to, bucket, loss)

    def mean(rest: int, left: int, place: Place, bucket: int, lost: int) -> float:
        total = 0.0
        for after, share in enumerate(chance[bucket]):
            if not share:
                continue
            gone = place is Place.SPOT and after >= NUM_OPEN
            there = Place.IDLE if gone else place
            total += share * least(rest, left + (lost if gone else 0), there, after)
        return total

    for place in Place:
        found = plan.cost_usd(place, work * TICK_S, steps * TICK_S)
        expected = [least(steps, work, place, bucket) for bucket in range(NUM_OPEN + NUM_SHUT)]
        assert found == pytest.approx(expected, rel=1e-9), place.name


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.sampled_from([0, 0, 3, 4, 6]), min_size=10, max_size=40),
    slack=st.floats(0.05, 1.0),
    stall_s=st.integers(0, 1500),
    loss_s=st.integers(0, 1500),
    loss=st.sampled_from(LossReading),
)
def test_a_gangs_deadline_that_on_demand_can_keep_is_kept_whatever_capacity_does(
    rows: list[int], slack: float, stall_s: int, loss_s: int, loss: LossReading
) -> None:
    running_s = len(rows) * TICK_S - stall_s - 1
    deadline_s = len(rows) * TICK_S  # the series goes on after it
    facts = {"stall_s": stall_s, "loss_s": loss_s, "work_s": 4 * running_s * slack, "deadline_s": deadline_s}
    world = gang([*rows, *rows[:5]], loss=loss, **facts)
    run = simulate(world, Tideline())
    assert run.finished_us is not None
    assert run.finished_us <= world.deadline_us
    assert all(CapacityReason(tick.reason) and tick.detail for tick in run.ticks)


@pytest.mark.parametrize("slack", [0.5, 0.9, 1.0])
def test_capacity_that_vanishes_for_good_at_any_one_tick_misses_no_deadline(slack: float) -> None:
    for at in range(25):
        rows = [4] * at + [0] * (24 - at)
        run = simulate(gang(rows, stall_s=700, loss_s=900, work_s=4 * (24 * TICK_S - 701) * slack), Tideline())
        assert run.finished_us is not None, f"gone at tick {at}"


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.sampled_from([0, 4]), min_size=20, max_size=20),
    other=st.lists(st.sampled_from([0, 4]), min_size=20, max_size=20),
    cut=st.integers(1, 19),
)
def test_a_plan_sees_no_row_before_its_tick(rows: list[int], other: list[int], cut: int) -> None:
    runs = [
        simulate(gang(series, stall_s=180, work_s=4 * 20 * TICK_S * 0.6), Tideline())
        for series in (rows, rows[:cut] + other[cut:])
    ]
    taken = [[(t.spot, t.on_demand, t.reason, t.detail) for t in run.ticks[:cut]] for run in runs]
    assert taken[0] == taken[1]


def test_with_time_to_spare_a_gang_waits_for_spot_and_with_none_it_buys() -> None:
    rows = [0] * 6 + [4] * 60
    patient = simulate(gang(rows, work_s=4 * 20 * TICK_S, stall_s=120), Tideline())
    assert sum(tick.on_demand for tick in patient.ticks) == 0
    hurried = simulate(gang(rows[:24], work_s=4 * 23 * TICK_S, stall_s=120), Tideline())
    assert hurried.ticks[0].on_demand == 4


def test_a_market_learns_how_long_its_states_last() -> None:
    market = None
    for tick in range(300):
        market = observe_market(market, is_open=tick % 3 > 0, tick_s=TICK_S)
    assert market is not None
    young = market.ends_per_h()[0]
    assert young == pytest.approx(3.0, rel=0.15)  # open for two ticks, then always shut: 100 ends in 33 hours
    assert market.ends_per_h()[NUM_OPEN] == pytest.approx(6.0, rel=0.15)


def test_chances_are_shares_of_one_and_a_short_step_hardly_moves() -> None:
    for step_s in (1.0, 600.0, 86_400.0):
        found = chances(Market(), step_s)
        assert found.min() >= 0.0
        assert found.sum(axis=1) == pytest.approx(np.ones(NUM_OPEN + NUM_SHUT))
    assert np.diag(chances(Market(), 1.0)).min() > 0.99


def test_a_year_is_planned_in_steps_that_keep_the_plan_small() -> None:
    view = first_view(gang([4], work_s=4 * 3600 * 4000, deadline_s=365 * 86_400))
    plan = make_plan(view, Market(), Usual((1.0,), 10.0, 1))
    assert plan.last <= 600
    assert sum(cost.nbytes for cost in plan.costs) < 30e6
