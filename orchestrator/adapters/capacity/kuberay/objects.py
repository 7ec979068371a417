"""What a RayCluster and its pods say, read into values. Pure.

Fields: `raycluster_types.go` of KubeRay (ray.io/v1) and Kubernetes' Pod. A pod's `deletionTimestamp` is the instant at
which its grace period is over, not the one at which somebody asked for its end.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from orchestrator.adapters.capacity.kuberay.api import Object
from orchestrator.spec.errors import UserError

CLUSTER_LABEL, GROUP_LABEL, TYPE_LABEL = "ray.io/cluster", "ray.io/group", "ray.io/node-type"
OPERATOR = "ray.io/kuberay-operator"
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One worker group. `at`: its place in the list. `removing`: pods that the operator was told to delete.

    `unsized`: why nobody but its owner may set its size; empty if we may.
    """

    name: str
    at: int
    version: str
    replicas: int
    least: int
    most: int
    hosts: int
    removing: tuple[str, ...]
    unsized: str = ""

    @property
    def wanted(self) -> int:
        """Pods that the operator aims at: replicas within its bounds, as KubeRay's GetWorkerGroupDesiredReplicas."""
        return min(max(self.replicas, self.least), self.most) * self.hosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod of a group. `ends_at_s`: when it is killed at the latest, if it is being ended; `why` it does not run."""

    name: str
    ip: str
    over: bool
    ends_at_s: float | None = None
    why: str = ""


def group_of(cluster: Object, name: str) -> Group:
    """A worker group of a RayCluster. Raises: UserError when it has none of that name."""
    about, spec = cluster["metadata"], cluster.get("spec", {})
    groups = spec.get("workerGroupSpecs") or []
    names = [str(one.get("groupName")) for one in groups]
    where = f"RayCluster {about.get('namespace', 'default')}/{about['name']}"
    if name not in names:
        raise UserError(f"there is no worker group {name!r}; there are {', '.join(names) or 'none'}", where=where)
    at = names.index(name)
    found = groups[at]
    return Group(
        name=name,
        at=at,
        version=str(about["resourceVersion"]),
        replicas=0 if found.get("suspend") else int(found.get("replicas") or 0),
        least=0 if found.get("suspend") else int(found.get("minReplicas") or 0),
        most=int(found.get("maxReplicas", _MOST)),
        hosts=int(found.get("numOfHosts") or 1),
        removing=tuple((found.get("scaleStrategy") or {}).get("workersToDelete") or ()),
        unsized=_unsized(spec, found),
    )


def _unsized(spec: Object, group: Object) -> str:
    if spec.get("enableInTreeAutoscaling"):
        return (
            "enableInTreeAutoscaling is true: Ray's autoscaler sets the sizes of its groups, and two writers would "
            "undo each other. Set it to false, or set scale: false"
        )
    if spec.get("managedBy") not in (None, OPERATOR):
        return f"it is managed by {spec['managedBy']}, which sets its size. Set scale: false"
    if spec.get("suspend") or group.get("suspend"):
        return "it is suspended"
    if int(group.get("numOfHosts") or 1) > 1:
        return f"its replicas are of {group['numOfHosts']} pods each, and only single pods are sized. Set scale: false"
    return ""


def pod_of(found: Object) -> Pod:
    """A pod."""
    about, status = found["metadata"], found.get("status", {})
    phase = str(status.get("phase", "Pending"))
    ends = about.get("deletionTimestamp")
    return Pod(
        name=str(about["name"]),
        ip=str(status.get("podIP", "")),
        over=phase in ("Succeeded", "Failed"),
        ends_at_s=None if ends is None else dt.datetime.fromisoformat(ends).timestamp(),
        why=_why(phase, status),
    )


def _why(phase: str, status: Object) -> str:
    """Why a pod is no living node, in the words of whoever holds it up."""
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return f"{one.get('reason', 'not scheduled')}: {one.get('message', 'no node takes it')}"
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting")
        if waiting:
            what = waiting.get("message") or one.get("name", "")
            return f"{waiting.get('reason', 'waiting')}: {what}"
    return "it runs, and Ray does not know it yet" if phase == "Running" else f"its phase is {phase}"
