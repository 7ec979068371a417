"""The public tier's controller, with Ray Train and cluster by hand: what it asks for, what it tells the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.train import WorkerGroupError

from orchestrator.adapters.ray_train import public_tier
from orchestrator.adapters.ray_train.exits import PlannedRestart, RankFailed
from orchestrator.adapters.ray_train.mail import Sent
from orchestrator.adapters.ray_train.protocol import (
    AttemptPlan,
    GroupIdle,
    GroupPlaced,
    GroupStarting,
    Held,
    Leaving,
    Left,
    RunOver,
)
from orchestrator.adapters.ray_train.public_tier import PublicConfig, PublicController
from tests.contract.ray_train_fakes import JOB


@dataclass
class Call:
    """An actor's method: called at once."""

    function: Callable[..., Any]

    def remote(self, *args: Any) -> Any:
        return self.function(*args)


@dataclass
class Hub:
    """Offers what the test says; None from time to time, as the real one does."""

    offers: list[AttemptPlan | RunOver | None]
    idles: list[GroupIdle | None] = field(default_factory=list)
    notes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.post = Call(lambda sent, items: self.notes.extend(items))
        self.take = Call(self._take)

    def _take(self, idle: GroupIdle | None, wait_s: float, after: Sent) -> AttemptPlan | RunOver | None:
        self.idles.append(idle)
        return self.offers.pop(0)


@dataclass
class World:
    """Trainers that were made, how each ends, and whether there is room."""

    ends: list[Exception | None] = field(default_factory=list)
    trainers: list[dict[str, Any]] = field(default_factory=list)
    reserved: list[list[str]] = field(default_factory=list)
    has_room: bool = True

    def trainer(self, train_fn: object, **kwargs: Any) -> World:
        self.trainers.append(kwargs)
        return self

    def fit(self) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end

    def reserve(self, nodes: list[str], resources: object, timeout_s: float) -> bool:
        self.reserved.append(nodes)
        return self.has_room


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(public_tier.ray, "get", lambda value: value)
    monkeypatch.setattr(public_tier, "DataParallelTrainer", world.trainer)
    monkeypatch.setattr(public_tier, "_can_reserve", world.reserve)
    monkeypatch.setattr(public_tier, "_free", dict)
    return world


def controller(hub: Hub) -> PublicController:
    config = PublicConfig(
        train_fn=lambda config: {}, config={"session": "s"}, resources_per_rank={"CPU": 2.0}, storage="/x", name="run"
    )
    return PublicController(hub, config)


def plan(attempt: int = 1, ranks_per_worker: int = 2) -> AttemptPlan:
    return AttemptPlan(attempt=attempt, world_size=4, ranks_per_worker=ranks_per_worker, nodes=("a", "b"), job=JOB)


def left(how: Leaving) -> Left:
    return Left(attempt=1, worker=0, node_id="a", at_s=1.0, how=how, step=7)


def test_every_attempt_is_a_trainer_of_the_size_and_on_the_nodes_that_were_decided(world: World) -> None:
    hub = Hub([None, plan(1), plan(2)])
    world.ends = [WorkerGroupError("planned", {0: PlannedRestart(left(Leaving.STOPPED))}), None]
    controller(hub).run()
    assert [made["run_config"].name for made in world.trainers] == ["run-1", "run-2"]
    scaling = world.trainers[0]["scaling_config"]
    assert (scaling.num_workers, scaling.resources_per_worker) == (2, {"CPU": 4.0})
    assert scaling.label_selector == [{"ray.io/node-id": "a"}, {"ray.io/node-id": "b"}]
    failure = world.trainers[0]["run_config"].failure_config
    assert (failure.max_failures, failure.controller_failure_limit, failure.max_preemption_failures) == (0, 0, 0)


def test_the_driver_hears_of_every_phase_and_of_what_is_held(world: World) -> None:
    hub = Hub([plan(1)])
    world.ends = [None]
    controller(hub).run()
    assert [type(note) for note in hub.notes] == [GroupStarting, GroupPlaced, Held, Held]
    assert [note.workers for note in hub.notes if isinstance(note, Held)] == [{"a": 1, "b": 1}, {}]


def test_an_orderly_end_accuses_no_node(world: World) -> None:
    hub = Hub([plan(1), RunOver()])
    world.ends = [
        WorkerGroupError("x", {0: PlannedRestart(left(Leaving.STOPPED)), 1: RankFailed(left(Leaving.FAILED))})
    ]
    controller(hub).run()
    idle = hub.idles[-1]
    assert idle is not None
    assert (idle.error, idle.silent_nodes, idle.detail) == ("WorkerGroupError", (), "")


def test_after_a_worker_that_died_without_a_word_every_node_is_asked(world: World) -> None:
    hub = Hub([plan(1), RunOver()])
    world.ends = [WorkerGroupError("x", {1: RuntimeError("the actor died")})]
    controller(hub).run()
    idle = hub.idles[-1]
    assert idle is not None
    assert (idle.silent_nodes, idle.detail) == (("a", "b"), "worker 1: the actor died")


def test_room_that_was_taken_is_told_at_once_and_no_trainer_waits_for_it(world: World) -> None:
    world.has_room = False
    hub = Hub([plan(1), RunOver(error="gave up")])
    controller(hub).run()
    assert not world.trainers
    idle = hub.idles[-1]
    assert idle is not None
    assert idle.error == "NoRoom"


def test_only_what_is_missing_is_reserved_for_a_growth(world: World) -> None:
    running = controller(Hub([]))
    running._hold({"a": 1, "b": 1})
    assert running.warm(("b", "b", "c"), 1, 60.0)
    assert world.reserved == [["b", "c"]]


def test_errors_that_are_none_of_training_end_the_run(world: World) -> None:
    world.ends = [KeyError("bug")]
    with pytest.raises(KeyError):
        controller(Hub([plan(1)])).run()
