"""Worker groups grow and shrink by name, and what somebody else sizes is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from orchestrator.policy.queueing.places import NodeState
from tests.contract.kube_stand_in import StandIn, ray_cluster, worker_group
from tests.contract.kuberay.world import World, at


def test_nodes_that_are_needed_are_asked_for_once_and_within_the_groups_bounds(world: World) -> None:
    world.grow(2)
    assert world.groups.rooms()["p0"].nodes == 2
    world.settle(0.0, more=1)
    assert world.spec(1)["replicas"] == 3
    world.kube.reconcile("harbour")
    world.until(lambda pool: pool.asked == 8)
    world.settle(5.0, more=1)
    assert len(world.kube.patches) == 1
    world.settle(10.0, more=99)
    assert world.spec(1)["replicas"] == 4
    assert world.spec(0)["replicas"] == 0


def test_empty_nodes_go_by_name_after_their_time_and_take_nothing_new(world: World) -> None:
    pods = world.grow(2)
    world.settle(0.0, spare=("ray-002",))
    world.settle(599.0, spare=("ray-002",))
    assert world.kube.patches == []
    world.settle(600.0, spare=("ray-002",))
    assert (world.spec(1)["replicas"], world.spec(1)["scaleStrategy"]) == (1, {"workersToDelete": [pods[1]]})
    # Before the operator has done anything, nothing new may start there.
    assert [node.state for node in world.pool().nodes] == [NodeState.OK, NodeState.LEAVING]
    world.settle(605.0, more=1)
    assert len(world.kube.patches) == 1, "what was asked is carried out first"
    world.kube.reconcile("harbour")
    del world.ray.nodes[pods[1]]
    world.kube.delete("pods", pods[1])
    world.until(lambda pool: len(pool.nodes) == 1)
    world.settle(610.0)
    assert (world.spec(1)["replicas"], world.spec(1)["scaleStrategy"]) == (1, {"workersToDelete": []})
    world.kube.reconcile("harbour")
    assert sorted(world.kube.things["pods"]) == [pods[0]]


def test_two_groups_of_a_cluster_do_not_disturb_each_other(tmp_path: Path, stand_in: StandIn) -> None:
    lines = [
        f"{{source: kuberay, cluster: harbour, group: {name}, scale: true, {at(stand_in)}}}" for name in ("h100", "cpu")
    ]
    world = World(tmp_path, stand_in, *lines)
    world.grow(2)
    world.settle(0.0, spare=("ray-001",))
    world.settle(600.0, spare=("ray-001",))
    for _ in range(2):
        first, second = world.source.observe()
        assert [node.state for node in first.nodes] == [NodeState.LEAVING, NodeState.OK]
        assert second.nodes == ()
    world.close()


def test_a_pod_that_somebody_wants_back_is_used_again(world: World) -> None:
    world.grow(2)
    world.settle(0.0, spare=("ray-002",))
    world.settle(600.0, spare=("ray-002",))
    world.until(lambda pool: world.source.removing == set())
    found = world.kube.things["rayclusters"]["harbour"]
    found["spec"]["workerGroupSpecs"][1] |= {"replicas": 2, "scaleStrategy": {"workersToDelete": []}}
    world.kube.put("rayclusters", found)
    world.until(lambda pool: pool.nodes[1].state is NodeState.OK)


def test_a_node_that_is_used_in_between_begins_its_time_anew(world: World) -> None:
    world.grow(2)
    world.settle(0.0, spare=("ray-001", "ray-002"))
    world.settle(300.0, spare=("ray-001",))
    world.settle(600.0, spare=("ray-001", "ray-002"))
    assert world.spec(1)["scaleStrategy"]["workersToDelete"] == ["harbour-h100-worker-001"]


def test_what_is_not_needed_any_more_goes_before_it_has_come(world: World) -> None:
    world.grow(2)
    world.settle(0.0, more=2)
    world.kube.reconcile("harbour")
    world.until(lambda pool: pool.asked == 16)
    world.settle(5.0, more=1)
    assert (world.spec(1)["replicas"], len(world.spec(1)["scaleStrategy"]["workersToDelete"])) == (3, 1)


def test_a_group_that_is_not_complete_does_not_shrink(world: World) -> None:
    """The operator would choose for itself which pods are too many, were one of them to come back in between."""
    pods = world.grow(2)
    world.settle(0.0, spare=("ray-001", "ray-002"))
    world.kube.end(pods[0])
    world.until(lambda pool: pool.nodes[0].state is NodeState.LEAVING)
    world.settle(700.0, spare=("ray-002",))
    assert world.kube.patches == []


def test_somebody_elses_change_in_between_is_read_and_kept(world: World) -> None:
    world.grow(2)

    def meddle() -> None:
        world.kube.before_patch = None
        found = world.kube.things["rayclusters"]["harbour"]
        found["spec"]["workerGroupSpecs"][1]["maxReplicas"] = 3
        world.kube.put("rayclusters", found | {"status": {"state": "ready"}})

    world.kube.before_patch = meddle
    world.settle(0.0, more=2)
    assert (world.spec(1)["replicas"], world.spec(1)["maxReplicas"]) == (3, 3)
    assert len(world.kube.patches) == 1


@pytest.mark.parametrize(
    ("spec", "group", "why"),
    [
        ({"enableInTreeAutoscaling": True}, {}, "two writers would undo each other"),
        ({"managedBy": "kueue.x-k8s.io/multikueue"}, {}, "managed by kueue.x-k8s.io/multikueue"),
        ({"suspend": True}, {}, "suspended"),
        ({}, {"numOfHosts": 4}, "of 4 pods each"),
    ],
)
def test_a_group_that_somebody_else_sizes_is_counted_and_left_alone(
    tmp_path: Path, stand_in: StandIn, spec: dict[str, Any], group: dict[str, Any], why: str
) -> None:
    stand_in.kube.put("rayclusters", ray_cluster("harbour", worker_group("h100", 1, 0, 4, **group), **spec))
    world = World(tmp_path, stand_in)
    pod = stand_in.kube.make("harbour", "h100")
    stand_in.kube.run(pod)
    world.ray.join(pod)
    world.until(lambda pool: pool.observed == 8)
    with structlog.testing.capture_logs() as logs:
        assert world.groups.rooms() == {}
        world.settle(0.0, more=2)
    assert [why in entry["why"] for entry in logs] == [True], logs
    assert stand_in.kube.patches == []
    world.close()


def test_a_pool_without_scale_is_only_read(tmp_path: Path, stand_in: StandIn) -> None:
    world = World(tmp_path, stand_in, f"{{source: kuberay, cluster: harbour, group: h100, {at(stand_in)}}}")
    world.until(lambda pool: pool.in_sight)
    assert (world.groups.names, world.groups.rooms()) == ((), {})
    world.close()
