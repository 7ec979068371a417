"""What knowing the series is worth: no policy is cheaper than the bound, and the plan keeps the deadline."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.policies import play
from orchestrator.sim.reference.foresight import foresee
from orchestrator.sim.reference.optimal import GangProblem, optimal_cost_usd
from orchestrator.sim.world import COST_UNITS_PER_USD
from orchestrator.spec.errors import ExitCode, UserError
from tests.sim.worlds import make_world

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=6, max_size=9)


@settings(max_examples=40, deadline=None)
@given(rows=rows, hours=st.integers(1, 4), loss=st.sampled_from(LossReading))
def test_no_policy_is_cheaper_than_who_knows_the_series(
    rows: list[tuple[int, int]], hours: int, loss: LossReading
) -> None:
    world = make_world(rows, work_s=900.0 * hours, stall_s=60, loss_s=30, max_workers=4, max_on_demand=4, loss=loss)
    known = foresee(world)
    assert known.run is not None
    assert known.run.finished_us is not None
    least = known.bound_usd - 1e-6
    assert known.run.books.cost / COST_UNITS_PER_USD >= least
    for name in ("on-demand", "greedy", "uniform-progress"):
        run = play(world, name)
        assert run.finished_us is None or run.books.cost / COST_UNITS_PER_USD >= least
    assert play(world, "foresight").books == known.run.books


def test_a_plan_that_cannot_be_made_is_refused_with_the_reason() -> None:
    for world in (
        make_world([[4]] * 6, work_s=1e6),  # not by the deadline
        make_world([[4]] * 6, work_s=900, stall_s=590, loss_s=300),  # a loss may undo more than a tick makes
    ):
        with pytest.raises(UserError, match="foresight") as refused:
            play(world, "foresight")
        assert refused.value.code is ExitCode.INVALID


def by_trying(problem: GangProblem) -> float:
    """The least cost over every sequence of places, tick by tick."""
    usd = {"spot": problem.spot_usd_per_h / 3600, "od": problem.on_demand_usd_per_h / 3600}
    best = float("inf")
    for places in itertools.product(("idle", "spot", "od"), repeat=len(problem.available)):
        if any(place == "spot" and not here for place, here in zip(places, problem.available, strict=True)):
            continue
        cost, done_s, stall_s, before = 0.0, 0, 0, "idle"
        for place in places:
            if place != before:
                before, stall_s = place, problem.stall_s
            if place == "idle" or done_s == problem.work_s:
                continue
            useful_s = min(max(0, problem.tick_s - stall_s), problem.work_s - done_s)
            done_s += useful_s
            last = done_s == problem.work_s
            cost += usd[place] * (stall_s + useful_s if last else problem.tick_s)
            stall_s = max(0, stall_s - problem.tick_s)
        best = min(best, cost) if done_s == problem.work_s else best
    return best


@settings(max_examples=40, deadline=None)
@given(
    available=st.lists(st.booleans(), min_size=1, max_size=6),
    work=st.integers(1, 8),
    stall=st.sampled_from((0, 100, 300, 400)),
)
def test_the_optimum_of_one_gang_is_the_cheapest_of_all_ways(available: list[bool], work: int, stall: int) -> None:
    problem = GangProblem(
        available=np.array(available), tick_s=300, work_s=100 * work, stall_s=stall,
        spot_usd_per_h=1.0, on_demand_usd_per_h=3.0,
    )  # fmt: skip
    assert optimal_cost_usd(problem) == pytest.approx(by_trying(problem))
