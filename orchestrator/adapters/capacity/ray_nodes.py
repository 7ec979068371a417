"""Devices on the living nodes of a Ray cluster, by pool, without being connected to it.

A process that is connected to Ray ends when Ray's control store is gone for a minute. The control plane must not, so it
asks the store directly, with a deadline and the cluster's token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import grpc
import structlog

from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.policy.queueing.from_spec import pool_of
from orchestrator.policy.queueing.places import Node, NodeState, Pool
from orchestrator.ports import UnreachableError
from orchestrator.spec.cluster_pools import Pool as PoolSpec
from orchestrator.spec.cluster_pools import RayCapacity

log = structlog.get_logger(__name__)

ANSWER_S = 2.0
PLACE_LABEL = "tideline.io/place"
"""A node's label with its path below its pool's place, such as `rack3/block1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNode:
    """A living node: `total` resources, labels, and when it leaves (UTC seconds; 0 = at some time) if it drains.

    `instance`: what whoever started it calls it (`RAY_CLOUD_INSTANCE_ID`), empty where nobody said. `address`: where
    its daemon answers.
    """

    node_id: str
    total: Mapping[str, float]
    labels: Mapping[str, str]
    drains_at_s: float | None = None
    instance: str = ""
    ip: str = ""
    address: str = ""


ReadNodes = Callable[[RayAddress], tuple[RayNode, ...]]


class RayCapacitySource:
    """Pools of one Ray cluster. `find` says where it is, each time anew: it may be started later, or elsewhere."""

    def __init__(
        self, pools: Iterable[PoolSpec], find: Callable[[], RayAddress], read: ReadNodes | None = None
    ) -> None:
        self._pools = tuple(pools)
        self._find = find
        self._read = read or read_nodes
        self._seen = {spec.name: pool_of(spec, ()) for spec in self._pools}
        self._nodes: dict[str, tuple[Node, ...]] = {}
        self._trouble = ""
        self.addresses: dict[str, str] = {}
        """Where the daemons of nodes answered when they were last seen."""

    def observe(self) -> tuple[Pool, ...]:
        """All pools; out of sight while Ray does not answer."""
        try:
            nodes = self._read(self._find())
        except UnreachableError as error:
            self._say(str(error))
            return tuple(replace(self._seen[spec.name], in_sight=False) for spec in self._pools)
        self._say("")
        self.addresses = {node.node_id: node.address for node in nodes if node.address}
        found = assign(self._pools, nodes)
        for spec in self._pools:
            # What has not changed stays the same object: the ledger looks at capacity only where it is another.
            if self._nodes.get(spec.name) != found[spec.name]:
                self._nodes[spec.name] = found[spec.name]
                self._seen[spec.name] = pool_of(spec, found[spec.name])
        return tuple(self._seen[spec.name] for spec in self._pools)

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("Ray is out of sight", why=trouble) if trouble else log.info("Ray is in sight")
            self._trouble = trouble


def assign(pools: Iterable[PoolSpec], nodes: Iterable[RayNode]) -> dict[str, tuple[Node, ...]]:
    """The nodes of each pool. Pure. A node belongs to the first pool whose labels it carries and whose resource it has.

    Pools that name more labels come first, so that one without labels takes what is left. At most `count` devices of a
    pool are seen, nodes in order of id.
    """
    found: dict[str, list[Node]] = {spec.name: [] for spec in pools}
    order = sorted(pools, key=lambda spec: -len(_labels(spec)))
    for node in sorted(nodes, key=lambda one: one.node_id):
        spec = next((one for one in order if _belongs(one, node)), None)
        if spec is not None:
            left = math.inf if spec.count is None else spec.count - sum(one.devices for one in found[spec.name])
            devices = min(math.floor(node.total[spec.resource] + 1e-4), left)
            if devices > 0:
                found[spec.name].append(node_of(node, int(devices)))
    return {name: tuple(each) for name, each in found.items()}


def _labels(spec: PoolSpec) -> Mapping[str, str]:
    return spec.capacity.labels if isinstance(spec.capacity, RayCapacity) else {}


def _belongs(spec: PoolSpec, node: RayNode) -> bool:
    return node.total.get(spec.resource, 0.0) >= 1 and _labels(spec).items() <= node.labels.items()


def node_of(node: RayNode, devices: int) -> Node:
    """A node with so many devices, at the place that its label says."""
    place = node.labels.get(PLACE_LABEL, "")
    return Node(
        name=node.node_id,
        devices=devices,
        place=tuple(place.split("/")) if place else (),
        state=NodeState.OK if node.drains_at_s is None else NodeState.LEAVING,
        leaves_at_s=node.drains_at_s or None,
    )


def read_nodes(address: RayAddress) -> tuple[RayNode, ...]:
    """Ask Ray's control store for its living nodes. Raises: UnreachableError."""
    from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

    token = address.token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        with grpc.insecure_channel(address.host_port) as channel:
            ask = {"timeout": ANSWER_S, "metadata": metadata}
            nodes = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
                gcs_service_pb2.GetAllNodeInfoRequest(), **ask
            )
            drains = gcs_service_pb2_grpc.NodeResourceInfoGcsServiceStub(channel).GetDrainingNodes(
                gcs_service_pb2.GetDrainingNodesRequest(), **ask
            )
    except grpc.RpcError as error:
        why = error.details() if isinstance(error, grpc.Call) else str(error)
        raise UnreachableError(f"Ray at {address.host_port} does not answer: {why}") from error
    leaving = {one.node_id: one.draining_deadline_timestamp_ms / 1000 for one in drains.draining_nodes}
    return tuple(
        RayNode(
            node_id=info.node_id.hex(),
            total=dict(info.resources_total),
            labels=dict(info.labels),
            drains_at_s=leaving.get(info.node_id),
            instance=info.instance_id,
            ip=info.node_manager_address,
            address=f"{info.node_manager_address}:{info.node_manager_port}" if info.node_manager_port else "",
        )
        for info in nodes.node_info_list
        if info.state == gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE
    )


def answers(address: str) -> bool:
    """Whether a node's daemon answers the health check that Ray itself asks. Whatever else it says, it has answered."""
    try:
        with grpc.insecure_channel(address) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
            )
            check(b"", timeout=ANSWER_S)
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNAVAILABLE
        return code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True
