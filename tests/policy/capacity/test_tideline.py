"""What must hold of our capacity policy on any series: deadlines kept, no look at the future, the same answer again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.capacity.tideline import CapacityReason, Tideline
from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.engine import Run, simulate
from orchestrator.sim.policies import KNOWING, NAMES, find_policy
from orchestrator.sim.world import World
from tests.sim.worlds import make_world

TICK_S = 600
rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=12, max_size=40)


def world_of(series: list[tuple[int, int]], slack: float, stall_s: int, loss_s: int, loss: LossReading) -> World:
    """Work that on-demand finishes after `slack` of the time, from nothing to just in time."""
    running_s = len(series) * TICK_S - stall_s - 1
    return make_world(series, stall_s=stall_s, loss_s=loss_s, loss=loss, work_s=8 * running_s * slack)


@settings(max_examples=60, deadline=None)
@given(
    series=rows,
    slack=st.floats(0.05, 1.0),
    stall_s=st.integers(0, 1500),
    loss_s=st.integers(0, 1500),
    loss=st.sampled_from(LossReading),
)
def test_a_deadline_that_on_demand_can_keep_is_kept_whatever_capacity_does(
    series: list[tuple[int, int]], slack: float, stall_s: int, loss_s: int, loss: LossReading
) -> None:
    world = world_of(series, slack, stall_s, loss_s, loss)
    run = simulate(world, Tideline())
    assert run.finished_us is not None
    assert run.finished_us <= world.deadline_us


def fails_when_held(world: World, at: int) -> World:
    """The same world, but every device vanishes at one tick and stays away."""
    counts = np.array(world.counts)
    counts[at:] = 0
    return make_world(
        counts.tolist(), stall_s=world.stall_us / 1e6, loss_s=world.loss_us / 1e6, work_s=world.work_us / 1e6
    )


@pytest.mark.parametrize("slack", [0.4, 0.8, 0.99, 1.0])
@pytest.mark.parametrize(("stall_s", "loss_s"), [(0, 0), (180, 150), (900, 1200)])
def test_capacity_that_vanishes_for_good_at_any_one_tick_misses_no_deadline(
    slack: float, stall_s: int, loss_s: int
) -> None:
    world = world_of([(4, 4)] * 30, slack, stall_s, loss_s, LossReading.DROP)
    for at in range(31):
        run = simulate(fails_when_held(world, at), Tideline())
        assert run.finished_us is not None, f"gone at tick {at}"


@pytest.mark.parametrize("slack", [0.5, 0.9])
def test_capacity_that_flickers_every_other_tick_misses_no_deadline(slack: float) -> None:
    world = world_of([(4, 4), (0, 4), (4, 0), (0, 0)] * 10, slack, 600, 600, LossReading.DROP)
    assert simulate(world, Tideline()).finished_us is not None


def decisions(run: Run) -> list[tuple[int, int, str]]:
    return [(tick.spot, tick.on_demand, tick.reason) for tick in run.ticks]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*KNOWING, "sliced", "gang-100", "gang-128")])
@settings(max_examples=15, deadline=None)
@given(series=rows, other=rows, cut=st.integers(1, 11), loss=st.sampled_from(LossReading))
def test_no_policy_sees_a_row_before_its_tick(
    name: str, series: list[tuple[int, int]], other: list[tuple[int, int]], cut: int, loss: LossReading
) -> None:
    length = min(len(series), len(other))
    changed = series[:cut] + other[cut:length]
    runs = [
        simulate(world, find_policy(name, world))
        for world in (world_of(s, 0.6, 180, 150, loss) for s in (series[:length], changed))
    ]
    assert decisions(runs[0])[:cut] == decisions(runs[1])[:cut]


@settings(max_examples=20, deadline=None)
@given(series=rows)
def test_the_same_series_gives_the_same_run_and_every_decision_has_its_reason(series: list[tuple[int, int]]) -> None:
    world = world_of(series, 0.6, 180, 150, LossReading.DROP)
    first, second = simulate(world, Tideline()), simulate(world, Tideline())
    assert first.ticks == second.ticks
    assert all(CapacityReason(tick.reason) and tick.detail for tick in first.ticks)
    assert first.books.useful_us <= world.work_us
