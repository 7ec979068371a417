"""A RayCluster behind a stand-in of the API server, its Ray, and our two sides of it; no real Kubernetes is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.adapters.capacity.kuberay.api import (
    KubeApi,
)
from orchestrator.adapters.capacity.kuberay.groups import WorkerGroups
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource
from orchestrator.adapters.capacity.kuberay.watch import Watched
from orchestrator.adapters.capacity.kuberay.wiring import kuberay
from orchestrator.adapters.capacity.ray_nodes import RayNode
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.policy.queueing.places import Pool
from orchestrator.policy.queueing.wanted import Need
from orchestrator.ports import UnreachableError
from orchestrator.spec import Cluster, load_text
from tests.contract.kube_stand_in import StandIn

TOKEN = "a-token-that-nobody-may-read"
PODS = "/api/v1/namespaces/default/pods"
MakeApi = Callable[..., KubeApi]
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
