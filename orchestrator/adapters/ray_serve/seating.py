"""Replicas where the lease has its seats: a wish that Ray Serve's scheduler is made to hear, in Serve's controller.

Serve places replicas wherever Ray finds room and stops whichever it likes, and its options for that are the same for
all replicas of a deployment. A lease names nodes, and what it gives up is promised to somebody else. So two choices of
the controller look at the leased nodes first: where a replica starts, and which one stops. All others stay Serve's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

_NAMESPACE = b"tideline"
_MARK = "_tideline_seats"


def write_seats(app_name: str, seats: Mapping[str, int] | None) -> None:
    """Say how many replicas of an application belong on which node; None = anywhere."""
    text = "" if seats is None else json.dumps(dict(seats))
    _internal_kv_put(_key(app_name), text.encode(), overwrite=True, namespace=_NAMESPACE)


def read_seats(app_name: str) -> dict[str, int] | None:
    """What `write_seats` said last."""
    text = _internal_kv_get(_key(app_name), namespace=_NAMESPACE)
    return {str(node): int(count) for node, count in json.loads(text).items()} if text else None


def _key(app_name: str) -> bytes:
    return f"serve-seats:{app_name}".encode()


def free_seat(seats: Mapping[str, int], on_node: Mapping[str, int]) -> str | None:
    """The node with most seats left; None where all are taken."""
    left = {node: count - on_node.get(node, 0) for node, count in seats.items()}
    open_nodes = [node for node, count in sorted(left.items(), key=lambda one: (-one[1], one[0])) if count > 0]
    return open_nodes[0] if open_nodes else None


def unseated(seats: Mapping[str, int], node_of: Mapping[Any, str]) -> list[Any]:
    """Replicas beyond the seats of their nodes, newest first; `node_of` has them oldest first."""
    over: list[Any] = []
    taken: Counter[str] = Counter()
    for replica, node in node_of.items():
        taken[node] += 1
        if taken[node] > seats.get(node, 0):
            over.append(replica)
    return over[::-1]


def install() -> None:
    """Make this process's Serve scheduler hear of seats; once. Where Serve has other insides than Ray 2.60's, nothing
    is changed, and replicas sit where Serve puts them."""
    from ray.serve._private import deployment_scheduler as serves

    scheduler = getattr(serves, "DeploymentScheduler", None)
    names = ("_schedule_replica", "_get_replicas_to_stop")
    if scheduler is None or getattr(scheduler, _MARK, False) or not all(hasattr(scheduler, name) for name in names):
        return
    schedule, to_stop = (getattr(scheduler, name) for name in names)

    def schedule_on_seat(self: Any, scheduling_request: Any, *args: Any, **named: Any) -> Any:
        deployment = scheduling_request.replica_id.deployment_id
        seats = read_seats(deployment.app_name)
        if seats is not None and named.get("target_node_id") is None and len(args) < 2:
            on_node = Counter(self._running_replicas[deployment].values())
            on_node.update(one.target_node_id for one in self._launching_replicas[deployment].values())
            named["target_node_id"] = free_seat(seats, on_node)
        return schedule(self, scheduling_request, *args, **named)

    def stop_unseated(self: Any, deployment_id: Any, max_num_to_stop: int, **named: Any) -> Any:
        seats = read_seats(deployment_id.app_name)
        chosen = to_stop(self, deployment_id, max_num_to_stop, **named)
        if seats is None:
            return chosen
        running = dict(self._running_replicas[deployment_id])
        # Those that do not run yet go first, as Serve has it.
        first = [replica for replica in chosen if replica not in running]
        rest = [*unseated(seats, running), *(replica for replica in chosen if replica in running)]
        return set(list(dict.fromkeys([*first, *rest]))[:max_num_to_stop])

    scheduler._schedule_replica = schedule_on_seat
    scheduler._get_replicas_to_stop = stop_unseated
    setattr(scheduler, _MARK, True)
