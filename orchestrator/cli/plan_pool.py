"""What a Cluster says of the pool that a plan is for: the kind of its devices, and the link between its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.planner.network import LINK_EFFICIENCY, Link
from orchestrator.spec import Cluster, load_one
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.cluster_pools import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """None where the Cluster does not say."""

    device: str | None = None
    link: Link | None = None


def pool_facts(cluster: Path | None, name: str | None) -> PoolFacts:
    """Of the pool of this name, or of the first; `rates_of` has refused an unknown one before."""
    if cluster is None:
        return PoolFacts()
    spec = load_one(cluster, Cluster).spec
    pool = next(one for one in spec.pools if name in (None, one.name))
    return PoolFacts(device=pool.device, link=_link(spec, pool))


def _link(spec: ClusterSpec, pool: Pool) -> Link | None:
    """The slowest link that two nodes of the pool may have: they differ below its topology path, if anywhere."""
    if pool.topology is None or not spec.levels:
        return None
    depth = pool.topology.count("/") + 1
    level = spec.levels[min(depth, len(spec.levels) - 1)]
    if level.bandwidth_per_s is None:
        return None
    return Link(bytes_per_s=level.bandwidth_per_s * LINK_EFFICIENCY, latency_s=level.latency or 0.0)
