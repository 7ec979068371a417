"""The driver's decisions when nodes come and go: growth, notices, room that is not there, drains that come together."""

from __future__ import annotations

from jobs.train.messages import Checkpoint, Stop, encode
from orchestrator.adapters.ray_train.capacity import NodeView
from orchestrator.adapters.ray_train.events import (
    AttemptClosed,
    AttemptOpened,
    Cause,
    Noticed,
    Remark,
    Status,
    StopAsked,
)
from orchestrator.adapters.ray_train.governor import Bounds, Change, Governor
from orchestrator.adapters.ray_train.lease import Lease
from orchestrator.adapters.ray_train.protocol import (
    Announced,
    Held,
    Leaving,
    Tell,
)
from orchestrator.adapters.ray_train.run import HABITS
from orchestrator.adapters.ray_train.sizes import Size
from orchestrator.policy.batch_plan import BatchPlan
from tests.contract.ray_train_world import World, running_world, step


def grown(world: World, *nodes: str) -> Change:
    return Change(cause=Cause.GROW, size=Size(world_size=len(nodes), nodes=nodes), detail="more room")


def test_growth_touches_the_running_group_only_when_its_new_workers_are_up() -> None:
    world = running_world()
    world.wanted_change = grown(world, "n", "n", "m")
    world.driver.tick()
    world.driver.tick()
    assert world.warm_requests == [("m",)]
    assert not world.hub.orders
    world.warmed = True
    world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Stop("grow")))]


def test_room_that_was_not_there_leaves_the_group_alone() -> None:
    world = running_world()
    world.wanted_change, world.warmed = grown(world, "n", "n", "m"), False
    world.driver.tick()
    world.wanted_change = None
    world.driver.tick()
    assert not world.hub.orders
    assert world.refusals == [{"m"}]
    assert len(world.of(AttemptOpened)) == 1


def test_a_notice_ends_waiting_for_growth() -> None:
    world = running_world()
    world.wanted_change = grown(world, "n", "n", "m")
    world.driver.tick()
    world.draining = frozenset({"n"})
    world.wanted_change = Change(cause=Cause.NOTICE, size=Size(world_size=1, nodes=("m",)), detail="n leaves")
    world.now_s += 10
    world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Stop("notice")))]
    assert world.told == [frozenset({"n"})]


def test_below_the_minimum_the_state_goes_to_storage_and_the_run_waits() -> None:
    world = running_world()
    world.wanted_change = Change(cause=Cause.NOTICE, size=None, detail="1 usable worker is below the minimum of 2")
    world.driver.tick()
    world.leave(Leaving.STOPPED, steps=1)
    world.size = "there is room for 1 workers; 2 are needed"
    world.idle(error="WorkerGroupError")
    world.driver.tick()
    assert world.secured == [0]
    assert world.driver.status is Status.WAITING


def test_nothing_starts_before_the_nodes_are_warm() -> None:
    world = World(warming_up=True)
    world.idle()
    world.driver.tick()
    assert not world.hub.offers
    world.warming_up = False
    world.driver.tick()
    assert world.plan.attempt == 1


def test_a_node_that_does_not_answer_is_lost_whatever_the_cluster_still_thinks() -> None:
    world = running_world(failures=0)
    world.leave(Leaving.FAILED, kind="lost_peer", workers=1)
    world.idle(error="WorkerGroupError", silent_nodes=("gone",))
    (closed,) = world.of(AttemptClosed)
    assert closed.cause is Cause.NODE_LOSS  # type: ignore[union-attr]
    world.driver.tick()
    assert world.plan.attempt == 2


def test_keepers_hear_of_nodes_that_come_in_the_middle_of_an_attempt() -> None:
    world = running_world()
    world.driver.tick()
    assert world.told == []
    world.alive = frozenset({"n", "m"})
    world.now_s += 10
    world.driver.tick()
    assert world.told == [frozenset()]


def test_a_notice_heard_by_a_node_is_looked_at_at_once() -> None:
    world = running_world()
    world.driver.tick()
    world.alive = frozenset({"n", "m"})
    world.driver.read([Announced(at_s=world.now_s, node_id="n", ends_at_s=world.now_s + 30, detail="file: go")])
    world.driver.tick()
    assert [event.node_id for event in world.of(Noticed)] == ["n"]  # type: ignore[union-attr]
    assert world.told == [frozenset({"n"})]


def test_the_reason_of_a_drain_that_was_seen_without_one_is_told_once() -> None:
    world = running_world()
    world.alive, world.draining = frozenset({"n", "m"}), frozenset({"n"})
    world.now_s += 2.0
    world.driver.tick()
    assert [event.detail for event in world.of(Noticed)] == [""]  # type: ignore[union-attr]
    for _ in range(2):
        world.driver.read([Announced(at_s=1.0, node_id="n", ends_at_s=2.0, detail="file: go")])
    assert [event.detail for event in world.of(Remark)] == ["node n: file: go"]  # type: ignore[union-attr]


def test_a_mere_warning_is_told_and_moves_nothing() -> None:
    world = running_world()
    world.driver.read([Announced(at_s=1.0, node_id="n", ends_at_s=None, detail="aws: risk", advisory=True)])
    world.driver.tick()
    assert [event.detail for event in world.of(Remark)] == ["node n: aws: risk"]  # type: ignore[union-attr]
    assert not world.draining


def test_a_node_may_go_once_the_next_attempt_has_made_a_step_without_it() -> None:
    world = running_world()
    world.alive, world.draining = frozenset({"n", "m"}), frozenset({"n"})
    world.driver.ask_to_stop(Cause.NOTICE, "")
    world.leave(Leaving.STOPPED, steps=1)
    world.idle(error="WorkerGroupError")
    world.now_s, world.left, world.size = 200.0, [], Size(world_size=1, nodes=("m",))
    world.driver.tick()
    assert world.left == []
    world.driver.read([world.said(2, 0, step(2))])
    world.now_s += 10
    world.driver.tick()
    assert world.left == [frozenset({"n"})]


def test_a_notice_that_may_wait_for_others_makes_the_state_safe_at_once_and_once() -> None:
    world = running_world()
    for draining in (frozenset({"n"}), frozenset[str](), frozenset[str]()):
        world.draining = draining  # the fake announces what drains at every look, the governor once
        world.now_s += 10
        world.driver.tick()
    assert world.hub.orders == [Tell(attempt=1, line=encode(Checkpoint()))]


def governed_world(*nodes: NodeView) -> tuple[World, list[NodeView]]:
    """A run of one worker on each node, under the governor and the habits of a user's run."""
    seen = list(nodes)
    bounds = Bounds(min_workers=2, max_workers=8, per_rank={"CPU": 1.0}, ranks_per_worker=1, batch=BatchPlan(64, 1))
    names = tuple(node.node_id for node in nodes)
    governor = Governor(bounds, HABITS, Lease, lambda: tuple(seen))
    world = World(size=Size(world_size=len(names), nodes=names), alive=frozenset(names), sizing=governor)
    world.idle()
    world.start()
    world.driver.read([Held(at_s=world.now_s, workers=dict.fromkeys(names, 1))])
    return world, seen


def busy(name: str, drain: float | None = None) -> NodeView:
    return NodeView(node_id=name, free={"CPU": 0.0}, total={"CPU": 1.0}, drain_deadline_s=drain)


def free(name: str) -> NodeView:
    return NodeView(node_id=name, free={"CPU": 1.0}, total={"CPU": 1.0})


def stops(world: World) -> list[tuple[float, str]]:
    return [(event.at_s, event.cause.value) for event in world.of(StopAsked)]  # type: ignore[union-attr]


def pass_time(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.now_s += 1.0
        world.driver.tick()


def test_two_drains_five_seconds_apart_cause_one_restart() -> None:
    world, seen = governed_world(*(free(name) for name in "abcd"))
    seen[:] = [busy(name) for name in "abcd"]
    began_s = world.now_s
    seen[3] = busy("d", drain=began_s + 120)
    pass_time(world, 5)
    seen[2] = busy("c", drain=began_s + 125)
    pass_time(world, 30)
    assert stops(world) == [(began_s + 11, "notice")]
    world.leave(Leaving.STOPPED, steps=1, workers=4)
    world.idle(error="WorkerGroupError")
    world.driver.tick()
    assert world.plan.nodes == ("a", "b")


def test_a_near_deadline_is_not_waited_out_for_others() -> None:
    world, seen = governed_world(*(free(name) for name in "abc"))
    began_s = world.now_s
    seen[:] = [busy("a"), busy("b"), busy("c", drain=began_s + 8)]
    pass_time(world, 5)
    assert stops(world) == [(began_s + 3, "notice")]
