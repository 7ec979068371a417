"""Devices of worker groups: a pod of the group that Ray has as a living node counts, and nothing else does.

A pod that is being ended is a node that leaves, by the end of its grace period. Pods that were asked for and are no
nodes yet are said to be asked for. Neither API nor Ray answers: the pools are out of sight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from orchestrator.adapters.capacity.kuberay.api import Object
from orchestrator.adapters.capacity.kuberay.objects import GROUP_LABEL, Group, Pod, group_of, pod_of
from orchestrator.adapters.capacity.kuberay.watch import Known
from orchestrator.adapters.capacity.ray_nodes import RayNode, ReadNodes, node_of
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.policy.queueing.from_spec import pool_of
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.ports import UnreachableError
from orchestrator.spec.cluster_pools import KubeRayCapacity
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.errors import UserError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One group at one moment: its pods, and by living node the name of its pod."""

    group: Group
    pods: tuple[Pod, ...]
    nodes: Mapping[str, str]


class KubeRaySource:
    """Pools that are groups of one RayCluster. `clusters` and `pods` are watched; `find` says where its Ray is."""

    def __init__(
        self,
        pools: Iterable[PoolSpec],
        clusters: Known,
        pods: Known,
        find: Callable[[], RayAddress],
        read: ReadNodes,
    ) -> None:
        self._pools = tuple(pools)
        self._clusters, self._pods = clusters, pods
        self._find, self._read = find, read
        self._seen = {spec.name: pool_of(spec, (), in_sight=False) for spec in self._pools}
        self._trouble: dict[str, str] = {}
        self.removing: set[str] = set()
        """Pods that were given back and of which the RayCluster does not say so yet: nothing new may start there."""

    def observe(self) -> tuple[Pool, ...]:
        """All pools; out of sight while Kubernetes or Ray does not answer."""
        try:
            cluster, pods, nodes = self._cluster(), self._by_group(), self._read(self._find())
        except (UnreachableError, UserError) as error:
            return tuple(self._out_of_sight(spec, str(error)) for spec in self._pools)
        return tuple(self._observe(spec, cluster, pods, nodes) for spec in self._pools)

    def look(self, spec: PoolSpec) -> Look:
        """One pool's group as it is now. Raises: UnreachableError, UserError."""
        group = group_of(self._cluster(), _of(spec).group)
        pods = self._by_group().get(group.name, ())
        pairs = joined(pods, self._read(self._find()))
        return Look(group=group, pods=pods, nodes={node.node_id: pod.name for node, pod in pairs})

    def close(self) -> None:
        """Listen no more."""
        self._clusters.close()
        self._pods.close()

    def _observe(
        self, spec: PoolSpec, cluster: Object, groups: Mapping[str, tuple[Pod, ...]], nodes: Iterable[RayNode]
    ) -> Pool:
        try:
            group = group_of(cluster, _of(spec).group)
        except UserError as error:
            return self._out_of_sight(spec, str(error))
        self._say(spec.name, "")
        pods = groups.get(group.name, ())
        pairs = joined(pods, nodes)
        # Once the RayCluster is seen to say it, what it says holds, also when somebody takes it back.
        self.removing -= set(group.removing)
        leaving = self.removing | set(group.removing)
        asked, why = asked_for(group, pods, {pod.name for _, pod in pairs})
        there = capped(spec, (as_node(spec, node, pod, pod.name in leaving) for node, pod in pairs))
        pool = replace(pool_of(spec, there), asked=asked * spec.devices_per_node, asked_why=why)
        if pool != self._seen[spec.name]:
            # What has not changed stays the same object: the ledger looks at capacity only where it is another.
            self._seen[spec.name] = pool
        return self._seen[spec.name]

    def _out_of_sight(self, spec: PoolSpec, why: str) -> Pool:
        self._say(spec.name, why)
        return replace(self._seen[spec.name], in_sight=False)

    def _cluster(self) -> Object:
        name, found = _of(self._pools[0]).cluster, self._clusters.objects()
        if name not in found:
            where = f"namespace {_of(self._pools[0]).namespace}"
            raise UserError(f"there is no RayCluster {name!r}", where=where)
        return found[name]

    def _by_group(self) -> dict[str, tuple[Pod, ...]]:
        found: dict[str, tuple[Pod, ...]] = {}
        pods = self._pods.objects()
        self.removing &= pods.keys()
        for _, one in sorted(pods.items()):
            group = str(one["metadata"].get("labels", {}).get(GROUP_LABEL, ""))
            found[group] = (*found.get(group, ()), pod_of(one))
        return found

    def _say(self, pool: str, trouble: str) -> None:
        if trouble != self._trouble.get(pool, ""):
            if trouble:
                log.warning("a worker group is out of sight", pool=pool, why=trouble)
            else:
                log.info("a worker group is in sight", pool=pool)
            self._trouble[pool] = trouble


def joined(pods: Iterable[Pod], nodes: Iterable[RayNode]) -> list[tuple[RayNode, Pod]]:
    """Living nodes with their pods, in order of id.

    KubeRay gives each Ray process its pod's name as instance id; a Ray that does not say one is told by its address.
    """
    alive = [pod for pod in pods if not pod.over]
    by_name = {pod.name: pod for pod in alive}
    by_ip = {pod.ip: pod for pod in alive if pod.ip}
    pairs = ((node, by_name.get(node.instance) or (None if node.instance else by_ip.get(node.ip))) for node in nodes)
    return sorted(((node, pod) for node, pod in pairs if pod is not None), key=lambda pair: pair[0].node_id)


def as_node(spec: PoolSpec, node: RayNode, pod: Pod, given_back: bool) -> Node:
    """A pod's node: leaving if Ray drains it, if its pod is being ended, or if it was given back; by the first end."""
    found = node_of(node, math.floor(node.total.get(spec.resource, 0.0) + 1e-4))
    ends = [at_s for at_s in (found.leaves_at_s, pod.ends_at_s) if at_s is not None]
    leaving = given_back or pod.ends_at_s is not None or found.state is NodeState.LEAVING
    return replace(found, state=NodeState.LEAVING if leaving else NodeState.OK, leaves_at_s=min(ends, default=None))


def capped(spec: PoolSpec, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """At most `count` devices, nodes in order; nodes without a device are none."""
    found: list[Node] = []
    left: float = math.inf if spec.count is None else spec.count
    for node in nodes:
        devices = int(min(node.devices, left))
        if devices > 0:
            found.append(replace(node, devices=devices))
            left -= devices
    return tuple(found)


def asked_for(group: Group, pods: Iterable[Pod], there: set[str]) -> tuple[int, str]:
    """Pods that the group should have and that are no nodes yet, and why; one that nobody can place says it first."""
    coming = [pod for pod in pods if pod.name not in there and not pod.over and pod.ends_at_s is None]
    staying = [pod for pod in pods if not pod.over and pod.name not in group.removing]
    uncreated = max(0, group.wanted - len(staying))
    reasons = sorted((pod.why for pod in coming), key=lambda why: (not why.startswith("Unschedulable"), why))
    if not reasons and uncreated:
        reasons = ["the operator has not made the pods yet"]
    return len(coming) + uncreated, reasons[0] if reasons else ""


def _of(spec: PoolSpec) -> KubeRayCapacity:
    assert isinstance(spec.capacity, KubeRayCapacity), "only pools that are worker groups come here"
    return spec.capacity
