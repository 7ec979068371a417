"""What to write into a RayCluster so that a group has the nodes that are needed. Pure.

The operator deletes the pods that are named in `workersToDelete`, whatever `replicas` says, and never empties the
list; whoever wrote it does. It deletes pods of its own choice where there are more than `replicas`. So a group shrinks
by exactly the pods that are named, and only while it has as many as it should have: no more can then be left over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.adapters.capacity.kuberay.api import Object
from orchestrator.adapters.capacity.kuberay.objects import Group, Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """The size a group is set to, and the pods that go."""

    replicas: int
    remove: tuple[str, ...] = ()


def resized(
    group: Group, pods: Iterable[Pod], nodes: Iterable[str], *, more: int, spare: Iterable[str]
) -> Resized | None:
    """The change that is due; None if there is none, or the last one is not carried out yet.

    `nodes`: pods that are living nodes. `more` nodes are needed beside them; `spare` pods may go.
    """
    alive = [pod for pod in pods if not pod.over]
    names = {pod.name for pod in alive}
    if names & set(group.removing):
        return None
    there = set(nodes) & {pod.name for pod in alive if pod.ends_at_s is None}
    coming = sorted(pod.name for pod in alive if pod.ends_at_s is None and pod.name not in there)
    going = [name for name in sorted(spare) if name in there] if more == 0 else []
    target = min(max(len(there) - len(going) + more, group.least), group.most)
    remove: tuple[str, ...] = ()
    replicas = group.replicas
    if target > group.replicas:
        replicas = target
    elif target < group.replicas and len(alive) == group.wanted and len(alive) == len(there) + len(coming):
        remove = tuple([*coming, *going][: group.replicas - target])
        replicas = group.replicas - len(remove)
    if replicas == group.replicas and not remove and not group.removing:
        return None
    return Resized(replicas=replicas, remove=remove)


def patch(group: Group, change: Resized) -> list[Object]:
    """The change as a JSON patch that is refused (409) if the RayCluster has changed since it was read."""
    path = f"/spec/workerGroupSpecs/{group.at}"
    return [
        {"op": "test", "path": f"{path}/groupName", "value": group.name},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": group.version},
        {"op": "add", "path": f"{path}/replicas", "value": change.replicas},
        {"op": "add", "path": f"{path}/scaleStrategy", "value": {"workersToDelete": list(change.remove)}},
    ]


def room(group: Group, nodes: int, *, count: int | None, devices_per_node: int) -> int:
    """Nodes that may come beside those that are there: up to maxReplicas, and to the pool's own `count`."""
    most = group.most if count is None else min(group.most, math.ceil(count / devices_per_node))
    return max(0, most - nodes)
