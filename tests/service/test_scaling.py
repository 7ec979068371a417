"""The chore that sizes pools: from waiting jobs to nodes that are asked for, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.adapters.capacity.kuberay.groups import WorkerGroups
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource
from orchestrator.adapters.capacity.kuberay.wiring import kuberay
from orchestrator.adapters.capacity.ray_nodes import RayNode
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.ledger.repository import Ledger
from orchestrator.ledger.schema import upgrade
from orchestrator.policy.queueing.places import Node
from orchestrator.policy.queueing.wanted import Need, Room
from orchestrator.ports import UnreachableError
from orchestrator.service import live
from orchestrator.service.loop import ControlLoop
from orchestrator.service.scaling import EVERY_S, Scaling
from orchestrator.sim.outside import Physics, SimClock, SimEndpoints, SimRunner
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from tests.contract.kube_stand_in import Kube, StandIn, ray_cluster, worker_group
from tests.ledger.world import World, new, sqlite


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


# --- All of it, against a stand-in of Kubernetes ---------------------------------------------------------------------

CLUSTER = """
apiVersion: tideline/v1
kind: Cluster
metadata: {{name: c}}
spec:
  ray: {{address: "harbour-head-svc:6379"}}
  pools:
  - name: p
    device: H100
    market: spot
    price: "1"
    devices_per_node: 4
    capacity:
      {{source: kuberay, cluster: harbour, group: h100, api: "{url}", token_file: token, scale: true, idle: 60s}}
  queues:
  - {{name: main, quotas: [{{pool: p, nominal: 64}}], min_run: 0s}}
"""


def test_a_job_brings_its_nodes_and_they_go_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kube, joined, clock = Kube("secret"), dict[str, RayNode](), SimClock(1000.0)
    kube.put("rayclusters", ray_cluster("harbour", worker_group("h100", 0, 0, 4)))
    stand_in = StandIn(kube)
    (tmp_path / "token").write_text("secret")
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.format(url=stand_in.url))
    made: list[tuple[KubeRaySource, WorkerGroups]] = []

    def wired(
        pools: Iterable[PoolSpec], find: Callable[[], RayAddress], base: Path
    ) -> tuple[KubeRaySource, WorkerGroups]:
        made.append(kuberay(pools, find, base, read=lambda at: tuple(joined.values()), watch_s=1))
        return made[-1]

    monkeypatch.setattr(live, "kuberay", wired)
    ledger = Ledger(sqlite(tmp_path), holder="one", clock=clock.now_s)
    upgrade(ledger.database)
    ports = live.live_ports(ledger, cluster=path, state=tmp_path / "state", clock=clock.now_s)
    loop = ControlLoop(replace(ports, runner=SimRunner(clock, lambda job: 1e9, Physics())))

    def until(holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            clock.at_s += EVERY_S
            loop._round()
            assert loop.health().last_error is None
            if holds():
                return
            time.sleep(0.01)
        raise AssertionError("never came true")

    def replicas() -> int:
        return kube.things["rayclusters"]["harbour"]["spec"]["workerGroupSpecs"][0]["replicas"]

    loop._round()
    ledger.submit(new("a", (6,)))
    until(lambda: replicas() == 2)
    assert ledger.read.job("a").state == "queued"
    kube.reconcile("harbour")
    for name in sorted(kube.things["pods"]):
        kube.run(name)
        joined[name] = RayNode(node_id=f"ray-{name[-3:]}", total={"GPU": 4.0}, labels={}, instance=name)
    until(lambda: ledger.read.job("a").state == "running")
    started_s = clock.at_s
    until(lambda: clock.at_s > started_s + 600.0)
    assert replicas() == 2, "a node that somebody holds is never given back"
    ledger.cancel("a")
    until(lambda: replicas() == 0)
    named = kube.things["rayclusters"]["harbour"]["spec"]["workerGroupSpecs"][0]["scaleStrategy"]["workersToDelete"]
    assert set(named) == set(kube.things["pods"])
    for source, groups in made:
        source.close()
        groups.close()
    stand_in.close()
    ledger.database.close()
