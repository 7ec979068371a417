"""Worker groups of a RayCluster, against a stand-in of the API server; no real Kubernetes was ever asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from orchestrator.adapters.capacity.kuberay.api import (
    ConflictError,
    GoneError,
    KubeAddress,
    KubeApi,
    own_cluster,
)
from orchestrator.adapters.capacity.kuberay.groups import WorkerGroups
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource
from orchestrator.adapters.capacity.kuberay.watch import Watched
from orchestrator.adapters.capacity.kuberay.wiring import kuberay
from orchestrator.adapters.capacity.ray_nodes import RayNode
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.policy.queueing.places import NodeState, Pool
from orchestrator.policy.queueing.wanted import Need
from orchestrator.ports import UnreachableError
from orchestrator.spec import Cluster, load_text
from tests.contract.kube_stand_in import Kube, StandIn, ray_cluster, seconds, worker_group
from tests.serving.certificates import write_certificate

TOKEN = "a-token-that-nobody-may-read"
PODS = "/api/v1/namespaces/default/pods"
CLUSTER_PATH = "/apis/ray.io/v1/namespaces/default/rayclusters/harbour"


class Ray:
    """Ray's own view of its nodes: those that a test says have joined."""

    def __init__(self) -> None:
        self.nodes: dict[str, RayNode] = {}
        self.answers = True

    def join(self, pod: str, devices: float = 8.0, **more: Any) -> None:
        self.nodes[pod] = RayNode(
            node_id=f"ray-{pod[-3:]}", total={"GPU": devices}, labels={}, **({"instance": pod} | more)
        )

    def __call__(self, at: RayAddress) -> tuple[RayNode, ...]:
        if not self.answers:
            raise UnreachableError("Ray does not answer")
        return tuple(self.nodes.values())


class World:
    """A RayCluster, its Ray, and our two sides of it."""

    def __init__(self, folder: Path, stand_in: StandIn, *pools: str) -> None:
        (folder / "token").write_text(TOKEN + "\n")
        self.kube, self.ray = stand_in.kube, Ray()
        lines = pools or (f"{{source: kuberay, cluster: harbour, group: h100, scale: true, {at(stand_in)}}}",)
        text = "".join(
            f'\n  - {{name: p{n}, market: spot, price: "1", device: H100, devices_per_node: 8, capacity: {line}}}'
            for n, line in enumerate(lines)
        )
        (found,) = load_text(f"apiVersion: tideline/v1\nkind: Cluster\nmetadata: {{name: c}}\nspec:\n  pools:{text}\n")
        assert isinstance(found, Cluster)
        made = kuberay(found.spec.pools, lambda: RayAddress(host_port="h:1"), folder, read=self.ray, watch_s=1)
        self.source: KubeRaySource = made[0]
        self.groups: WorkerGroups = made[1]

    def close(self) -> None:
        self.source.close()
        self.groups.close()
        for watched in (self.source._clusters, self.source._pods):
            assert isinstance(watched, Watched)
            if watched._thread is not None:
                watched._thread.join(10.0)

    def pool(self) -> Pool:
        return self.source.observe()[0]

    def until(self, holds: Callable[[Pool], bool]) -> Pool:
        """The pool, once the watch has brought what is awaited."""
        for _ in range(1000):
            pool = self.pool()
            if holds(pool):
                return pool
            time.sleep(0.01)
        raise AssertionError(f"never seen: {pool}")

    def settle(self, now_s: float, more: int = 0, spare: tuple[str, ...] = ()) -> None:
        """Size the group, once everything that happened has been heard of."""
        for _ in range(1000):
            heard = self.source._clusters.objects(), self.source._pods.objects()
            if heard == (self.kube.things["rayclusters"], self.kube.things["pods"]):
                return self.groups.settle({"p0": Need(more=more, spare=spare)}, now_s)
            time.sleep(0.01)
        raise AssertionError("the watches did not catch up")

    def grow(self, count: int) -> list[str]:
        """The operator makes what is missing, and all of it runs and joins."""
        self.kube.reconcile("harbour")
        for name in sorted(self.kube.things["pods"]):
            self.kube.run(name)
            self.ray.join(name)
        self.until(lambda pool: len(pool.nodes) == count)
        return sorted(self.kube.things["pods"])

    def spec(self, group: int = 0) -> dict[str, Any]:
        return self.kube.things["rayclusters"]["harbour"]["spec"]["workerGroupSpecs"][group]


def at(stand_in: StandIn) -> str:
    return f'api: "{stand_in.url}", token_file: token'


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    kube = Kube(TOKEN)
    kube.put("rayclusters", ray_cluster("harbour", worker_group("cpu"), worker_group("h100", 2, 0, 4)))
    made = StandIn(kube)
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path, stand_in: StandIn) -> Iterator[World]:
    made = World(tmp_path, stand_in)
    yield made
    made.close()


# --- Counting --------------------------------------------------------------------------------------------------------


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


# --- The API ---------------------------------------------------------------------------------------------------------


MakeApi = Callable[..., KubeApi]


@pytest.fixture
def api_of(tmp_path: Path) -> Iterator[MakeApi]:
    made: list[KubeApi] = []

    def make(stand_in: StandIn, **more: Any) -> KubeApi:
        (tmp_path / "token").write_text(TOKEN)
        where = KubeAddress(url=stand_in.url, token_file=tmp_path / "token", **more)
        made.append(KubeApi(lambda: where, watch_s=1))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_after_history_is_lost_everything_is_listed_again(api_of: MakeApi, stand_in: StandIn) -> None:
    kube, watched = stand_in.kube, Watched(api_of(stand_in), PODS, {})
    first = kube.make("harbour", "h100")
    watched.round()
    kube.compact()
    kube.delete("pods", first)
    second = kube.make("harbour", "h100")
    kube.compact()
    watched.round()  # 410: nothing can be gone on from
    watched.round()
    assert set(watched._objects) == {second}
    assert len([line for line in kube.asked if "watch" not in line]) == 2


def test_a_quiet_watch_goes_on_from_its_bookmark(api_of: MakeApi, stand_in: StandIn) -> None:
    kube, watched = stand_in.kube, Watched(api_of(stand_in), PODS, {"labelSelector": "ray.io/cluster=x"})
    watched.round()
    kube.make("harbour", "h100")  # nothing for this selector, yet history moves on
    watched.round()
    kube.compact()
    watched.round()
    assert len([line for line in kube.asked if "watch" not in line]) == 1


def test_long_lists_are_read_page_by_page(api_of: MakeApi, stand_in: StandIn) -> None:
    names = {stand_in.kube.make("harbour", "h100") for _ in range(5)}
    items, version = api_of(stand_in).list(PODS, {})
    assert ({one["metadata"]["name"] for one in items}, version) == (names, str(stand_in.kube.version))


def test_a_version_that_is_forgotten_and_one_that_is_stale_are_told_apart(api_of: MakeApi, stand_in: StandIn) -> None:
    api = api_of(stand_in)
    stand_in.kube.compact()
    with pytest.raises(GoneError):
        list(api.watch(PODS, {}, "1"))
    with pytest.raises(ConflictError, match="409: the object has been modified"):
        api.patch(CLUSTER_PATH, [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}])


def test_what_the_schema_does_not_allow_is_told_in_the_servers_words(api_of: MakeApi, stand_in: StandIn) -> None:
    operation = {"op": "add", "path": "/spec/workerGroupSpecs/1/replicas", "value": "three"}
    with pytest.raises(UnreachableError, match="422: RayCluster is invalid: 'three' is not of type 'integer'"):
        api_of(stand_in).patch(CLUSTER_PATH, [operation])


def test_a_token_is_read_anew_and_stands_in_no_message(tmp_path: Path, api_of: MakeApi, stand_in: StandIn) -> None:
    api = api_of(stand_in)
    (tmp_path / "token").write_text("a-stolen-one")
    with pytest.raises(UnreachableError, match=r"401: Unauthorized\. The token in .*token is not taken") as refused:
        api.get(CLUSTER_PATH)
    assert "stolen" not in str(refused.value)
    (tmp_path / "token").write_text(TOKEN)
    assert api.get(CLUSTER_PATH)["kind"] == "RayCluster"
    stand_in.kube.verbs.remove(("get", "rayclusters"))
    with pytest.raises(UnreachableError, match=r"403: .*cannot get.* Its role needs") as refused:
        api.get(CLUSTER_PATH)
    assert TOKEN not in str(refused.value)
    (tmp_path / "token").unlink()
    with pytest.raises(UnreachableError, match="token"):
        api.get(CLUSTER_PATH)


def test_a_server_whose_certificate_nobody_vouches_for_gets_no_token(tmp_path: Path, api_of: MakeApi) -> None:
    certificate = write_certificate(tmp_path)
    kube = Kube(TOKEN)
    kube.put("rayclusters", ray_cluster("harbour"))
    secure = StandIn(kube, certificate)
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        api_of(secure).get(CLUSTER_PATH)
    assert kube.asked == []
    assert api_of(secure, ca_file=certificate[0]).get(CLUSTER_PATH)["kind"] == "RayCluster"
    secure.close()


def test_a_pod_finds_its_own_api_server_and_nobody_else_does(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"}
    found = own_cluster(environ, tmp_path)
    assert (found.url, found.token_file, found.ca_file) == (
        "https://[fd00::1]:6443",
        tmp_path / "token",
        tmp_path / "ca.crt",
    )
    with pytest.raises(UnreachableError, match="runs in no Kubernetes pod"):
        own_cluster({})


# --- Sizing ----------------------------------------------------------------------------------------------------------


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
