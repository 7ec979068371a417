"""The order in which pools are listed decides nothing but ties, and a tie goes to the pool that is listed first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policy.capacity.view import LossReading
from orchestrator.sim.engine import Run, simulate
from orchestrator.sim.policies import find_policy
from orchestrator.sim.prices import NANO
from orchestrator.sim.world import World
from tests.sim.worlds import make_world

USD = (1.3, 2.1, 3.7)
POLICIES = ["tideline", "greedy", "uniform-progress", "trailing-min-1h", "gang-4"]
counts = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=6, max_size=30)


def world_in(order: list[int], rows: list[tuple[int, ...]], loss: LossReading) -> World:
    """Three pools of different price, listed in this order."""
    return make_world(
        [[row[pool] for pool in order] for row in rows],
        pools=tuple(f"p{pool}" for pool in order),
        spot_nano=tuple(round(USD[pool] * NANO) for pool in order),
        work_s=8 * 600 * len(rows) * 0.5,
        stall_s=45,
        loss_s=90,
        loss=loss,
    )


def course(run: Run) -> list[tuple[int, int, int, str]]:
    return [(tick.spot, tick.on_demand, tick.cost, tick.reason) for tick in run.ticks]


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=25, deadline=None)
@given(rows=counts, order=st.permutations([0, 1, 2]), loss=st.sampled_from(LossReading))
def test_the_order_of_the_pools_changes_no_decision_and_no_bill(
    name: str, rows: list[tuple[int, ...]], order: list[int], loss: LossReading
) -> None:
    listed, shuffled = world_in([0, 1, 2], rows, loss), world_in(order, rows, loss)
    runs = [simulate(world, find_policy(name, world)) for world in (listed, shuffled)]
    assert course(runs[0]) == course(runs[1])


@pytest.mark.parametrize("name", POLICIES)
def test_of_two_equal_pools_the_first_is_taken(name: str) -> None:
    """Each could hold the whole job; by name, price and history they are equal."""
    rows = [(8, 8)] * 12
    first = make_world(rows, spot_nano=(NANO, NANO), work_s=8 * 600 * 6)
    dearer = make_world(rows, spot_nano=(NANO, 2 * NANO), work_s=8 * 600 * 6)
    runs = [simulate(world, find_policy(name, world)) for world in (first, dearer)]
    assert [tick.spot for tick in runs[0].ticks] == [tick.spot for tick in runs[1].ticks]
    assert runs[0].books.cost == runs[1].books.cost, "a device of the second pool would have cost twice as much"
