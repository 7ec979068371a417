"""The chore that sizes pools: from waiting jobs to nodes that are asked for, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from orchestrator.policy.queueing.places import Node
from orchestrator.policy.queueing.wanted import Need, Room
from orchestrator.ports import UnreachableError
from orchestrator.service.scaling import EVERY_S, Scaling
from orchestrator.sim.outside import SimEndpoints
from tests.ledger.world import World, new


class Sizable:
    """Pool p, of which ten nodes more could come."""

    def __init__(self) -> None:
        self.settled: list[Mapping[str, Need]] = []
        self.answers = True

    def rooms(self) -> dict[str, Room]:
        if not self.answers:
            raise UnreachableError("the API server does not answer")
        return {"p": Room(nodes=10, devices=4)}

    def settle(self, needs: Mapping[str, Need], now_s: float) -> None:
        self.settled.append(needs)


@pytest.fixture
def sizable() -> Sizable:
    return Sizable()


@pytest.fixture
def scaling(world: World, sizable: Sizable) -> Scaling:
    return Scaling(lambda: (sizable,), world.capacity, SimEndpoints(), world.ledger)


def test_waiting_jobs_ask_for_nodes_and_empty_ones_are_spare(world: World, scaling: Scaling, sizable: Sizable) -> None:
    pool = next(pool for pool in world.capacity.pools if pool.name == "p")
    world.capacity.pools = (replace(pool, nodes=(Node(name="n", devices=4),)),)
    now_s = world.clock.at_s
    assert scaling(now_s) == now_s + EVERY_S
    assert sizable.settled == [{"p": Need(spare=("n",))}]
    world.ledger.submit(new("a", (6,)))
    assert scaling(now_s + 1.0) == now_s + EVERY_S
    assert len(sizable.settled) == 1
    scaling(now_s + EVERY_S)
    assert sizable.settled[-1] == {"p": Need(more=1)}


def test_a_pool_out_of_sight_is_left_alone(world: World, scaling: Scaling, sizable: Sizable) -> None:
    world.capacity.pools = tuple(replace(pool, in_sight=False) for pool in world.capacity.pools)
    scaling(world.clock.at_s)
    assert sizable.settled == [{}]


def test_a_server_that_does_not_answer_stops_nobody(world: World, scaling: Scaling, sizable: Sizable) -> None:
    sizable.answers = False
    assert scaling(world.clock.at_s) is not None
    sizable.answers = True
    scaling(world.clock.at_s + EVERY_S)
    assert len(sizable.settled) == 1


def test_with_nothing_to_size_nothing_is_asked(world: World) -> None:
    assert Scaling(tuple, world.capacity, SimEndpoints(), world.ledger)(0.0) is None
