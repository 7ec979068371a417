"""One RayCluster's watches, source and sizes, from the pools that name it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.adapters.capacity.kuberay.api import WATCH_S, KubeAddress, KubeApi, own_cluster
from orchestrator.adapters.capacity.kuberay.groups import WorkerGroups
from orchestrator.adapters.capacity.kuberay.objects import CLUSTER_LABEL, TYPE_LABEL
from orchestrator.adapters.capacity.kuberay.source import KubeRaySource
from orchestrator.adapters.capacity.kuberay.watch import Watched
from orchestrator.adapters.capacity.ray_nodes import ReadNodes, read_nodes
from orchestrator.adapters.ray_cluster.host import RayAddress
from orchestrator.spec.cluster_pools import KubeRayCapacity
from orchestrator.spec.cluster_pools import Pool as PoolSpec


def kuberay(
    pools: Iterable[PoolSpec],
    find: Callable[[], RayAddress],
    base: Path,
    *,
    read: ReadNodes = read_nodes,
    watch_s: int = WATCH_S,
) -> tuple[KubeRaySource, WorkerGroups]:
    """Pools that are groups of one RayCluster. `base`: what paths are relative to. Nothing is asked yet."""
    given = tuple(pools)
    first = given[0].capacity
    assert isinstance(first, KubeRayCapacity), "only worker groups come here"

    def api() -> KubeApi:
        return KubeApi(lambda: address_of(first, base), watch_s=watch_s)

    clusters = f"/apis/ray.io/v1/namespaces/{first.namespace}/rayclusters"
    workers = f"{CLUSTER_LABEL}={first.cluster},{TYPE_LABEL}=worker"
    source = KubeRaySource(
        given,
        Watched(api(), clusters, {"fieldSelector": f"metadata.name={first.cluster}"}),
        Watched(api(), f"/api/v1/namespaces/{first.namespace}/pods", {"labelSelector": workers}),
        find,
        read,
    )
    sized = [spec for spec in given if isinstance(spec.capacity, KubeRayCapacity) and spec.capacity.scale]
    return source, WorkerGroups(sized, source, api(), f"{clusters}/{first.cluster}")


def address_of(capacity: KubeRayCapacity, base: Path) -> KubeAddress:
    """Where the API server is. Raises: UnreachableError where the pool does not say and Kubernetes does not, either."""
    if capacity.api is None:
        return own_cluster(os.environ)
    assert capacity.token_file is not None, "the spec sees to it"
    ca_file = None if capacity.ca_file is None else base / capacity.ca_file
    return KubeAddress(url=capacity.api, token_file=base / capacity.token_file, ca_file=ca_file)
