"""Which pods of a RayCluster count as nodes, which are asked for, and what is out of sight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from orchestrator.policy.queueing.places import NodeState
from tests.contract.kube_stand_in import StandIn, seconds
from tests.contract.kuberay.world import World, at


def test_only_pods_that_are_living_nodes_count_and_the_others_are_asked_for(world: World) -> None:
    pool = world.until(lambda pool: pool.in_sight)
    assert (pool.observed, pool.asked, pool.asked_why) == (0, 16, "the operator has not made the pods yet")
    world.kube.reconcile("harbour")
    pool = world.until(lambda pool: "Unschedulable" in pool.asked_why)
    assert (pool.observed, pool.asked, pool.asked_why) == (0, 16, "Unschedulable: 0/9 nodes fit")
    first, second = sorted(world.kube.things["pods"])
    world.kube.run(first)
    world.kube.run(second)
    world.ray.join(first)
    pool = world.until(lambda pool: pool.observed == 8 and "runs" in pool.asked_why)
    assert (pool.asked, pool.asked_why) == (8, "it runs, and Ray does not know it yet")
    world.ray.join(second)
    assert (world.pool().observed, world.pool().asked, world.pool().asked_why) == (16, 0, "")
    assert world.pool() is world.pool()


def test_nodes_of_other_groups_and_foreign_nodes_are_not_ours(world: World) -> None:
    pods = world.grow(2)
    other = world.kube.make("harbour", "cpu")
    world.ray.join(other)
    world.ray.join("elsewhere-001")
    world.kube.end(pods[0])
    assert [node.name for node in world.until(lambda pool: pool.observed == 16).nodes] == ["ray-001", "ray-002"]


def test_a_node_without_an_instance_id_is_known_by_its_address(world: World) -> None:
    world.kube.reconcile("harbour")
    pod = min(world.kube.things["pods"])
    world.kube.run(pod, ip="10.0.0.7")
    world.ray.join(pod, instance="", ip="10.0.0.7")
    assert world.until(lambda pool: pool.observed == 8).nodes[0].name == "ray-001"


def test_a_pod_that_is_being_ended_is_a_drain_by_the_end_of_its_grace_period(world: World) -> None:
    pods = world.grow(2)
    world.kube.end(pods[0], at="2026-11-28T12:01:30Z")
    pool = world.until(lambda pool: pool.nodes[0].state is NodeState.LEAVING)
    assert pool.nodes[0].leaves_at_s == seconds("2026-11-28T12:01:30+00:00")
    assert pool.nodes[1].state is NodeState.OK
    # Ray's own drain, begun by the SIGTERM, ends earlier: the earlier end holds.
    world.ray.nodes[pods[0]] = replace(world.ray.nodes[pods[0]], drains_at_s=seconds("2026-11-28T12:01:00+00:00"))
    assert world.pool().nodes[0].leaves_at_s == seconds("2026-11-28T12:01:00+00:00")


def test_a_pod_that_is_gone_is_gone(world: World) -> None:
    pods = world.grow(2)
    world.kube.delete("pods", pods[0])
    assert world.until(lambda pool: pool.observed == 8).asked == 8


def test_without_ray_or_kubernetes_the_pool_is_out_of_sight_as_last_seen(world: World, stand_in: StandIn) -> None:
    world.grow(2)
    world.ray.answers = False
    assert (world.pool().in_sight, world.pool().observed) == (False, 16)
    world.ray.answers = True
    assert world.until(lambda pool: pool.in_sight).observed == 16
    stand_in.kube.token = "another"
    stand_in.kube.compact()
    assert world.until(lambda pool: not pool.in_sight).observed == 16


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{source: kuberay, cluster: harbour, group: a100, AT}", "no worker group 'a100'; there are cpu, h100"),
        ("{source: kuberay, cluster: port, group: h100, AT}", "there is no RayCluster 'port'"),
        ("{source: kuberay, namespace: other, cluster: harbour, group: h100, AT}", "404: the server could not find"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, stand_in: StandIn, line: str, problem: str) -> None:
    world = World(tmp_path, stand_in, line.replace("AT", at(stand_in)))
    with structlog.testing.capture_logs() as logs:
        assert not world.pool().in_sight
        assert not world.pool().in_sight
    assert [problem in entry["why"] for entry in logs] == [True], logs
    world.close()
