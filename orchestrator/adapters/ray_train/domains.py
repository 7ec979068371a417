"""Where nodes are, read from their labels: mirrors of a snapshot go to another domain where there is one, and ranks
follow the places.

Our own label names a topology path such as `gcp/us-central1/a/rack3`. Without it Ray's default labels do, which its
cluster launchers and KubeRay set; a node with neither counts as a domain of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import ray

from orchestrator.policy.ranks import Place

TOPOLOGY_LABEL = "tideline.io/topology"
REGION_LABEL = "ray.io/availability-region"
ZONE_LABEL = "ray.io/availability-zone"


def domain_of(labels: Mapping[str, str]) -> str:
    """The failure domain that a node's labels name, "" if none. Pure."""
    if labels.get(TOPOLOGY_LABEL):
        return labels[TOPOLOGY_LABEL]
    return "/".join(labels[name] for name in (REGION_LABEL, ZONE_LABEL) if labels.get(name))


def place_of(labels: Mapping[str, str]) -> Place:
    """The same as a path, widest place first; () if the labels name none. Pure."""
    return tuple(part for part in domain_of(labels).split("/") if part)


def read_domains() -> dict[str, str]:
    """Node id -> failure domain, of the nodes that are alive and name one."""
    found = {node["NodeID"]: domain_of(node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]}
    return {node: domain for node, domain in found.items() if domain}
