"""The nodes of a Ray cluster that is started on this machine for a Cluster's pools."""

from __future__ import annotations

import math
import os
from typing import Any

from orchestrator.spec import Cluster, load_text
from orchestrator.spec.cluster_pools import Pool, RayCapacity

DEFAULT = """
apiVersion: tideline/v1
kind: Cluster
metadata: {{name: this-machine}}
spec:
  ray: {{address: local}}
  pools:
  - {{name: local, device: {device}, resource: {resource}, market: on_demand, price: "0", capacity: {{source: ray}}}}
"""


def default_cluster() -> Cluster:
    """This machine as one pool: its GPUs, or its cores where it has none."""
    from orchestrator.adapters.ray_cluster import num_local_gpus

    has_gpus = num_local_gpus() > 0
    text = DEFAULT.format(device="gpu" if has_gpus else "cpu", resource="GPU" if has_gpus else "CPU")
    (cluster,) = load_text(text, where="the default cluster")
    assert isinstance(cluster, Cluster), "the text holds one"
    return cluster


def nodes_for(cluster: Cluster) -> list[dict[str, Any]]:
    """Sizes of local nodes (`NodeSize` as JSON): for each pool that Ray counts as many as make up its `count`; one
    with all that this machine has where it says none."""
    pools = [pool for pool in cluster.spec.pools if isinstance(pool.capacity, RayCapacity)]
    return [node for pool in pools for node in _of(pool)]


def _of(pool: Pool) -> list[dict[str, Any]]:
    if pool.count is None:
        return [_node(pool, None)]
    sizes = range(0, pool.count, pool.devices_per_node)
    return [_node(pool, min(pool.devices_per_node, pool.count - first)) for first in sizes]


def _node(pool: Pool, devices: int | None) -> dict[str, Any]:
    from orchestrator.adapters.ray_cluster import num_local_gpus

    cores = float(os.cpu_count() or 1)
    assert isinstance(pool.capacity, RayCapacity), "only Ray's pools have local nodes"
    node: dict[str, Any] = {"num_cpus": cores, "labels": dict(pool.capacity.labels)}
    match pool.resource:
        case "CPU":
            node["num_cpus"] = cores if devices is None else float(devices)
        case "GPU":
            node["num_gpus"] = num_local_gpus() if devices is None else devices
        case name:
            node["num_cpus"] = max(cores, math.ceil(devices or 1))
            node["resources"] = {name: float(devices or 1)}
    return node
