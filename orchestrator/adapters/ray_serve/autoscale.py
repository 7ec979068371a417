"""Serve's autoscaling policy: what replicas report about their promises, within what the lease allows.

Runs in Serve's controller. The decision itself is `serving.policy.scaling`; the lease is a number that the owner of
capacity writes into the cluster's key-value store.
"""

from __future__ import annotations

from typing import Any

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from orchestrator.adapters.ray_serve.seating import install
from serving.policy.scaling import ReplicaLoad, ScalingRules, ScalingState, replica_target

_NAMESPACE = b"tideline"
_METRICS = ("online_busy", "slack", "shed")
_RULES = ScalingRules()


def write_lease(app_name: str, num_replicas: int | None) -> None:
    """Say how many replicas the application may hold; None = as many as its file says."""
    value = b"" if num_replicas is None else str(num_replicas).encode()
    _internal_kv_put(_key(app_name), value, overwrite=True, namespace=_NAMESPACE)


def read_lease(app_name: str) -> int | None:
    """What `write_lease` said last."""
    value = _internal_kv_get(_key(app_name), namespace=_NAMESPACE)
    return int(value) if value else None


class SloPolicy:
    """Serve's controller makes one for each deployment.

    `min_replicas` is the file's minimum. Serve is told 0, because it would not go below its own where a lease does.
    """

    def __init__(self, min_replicas: int) -> None:
        self._min_replicas = min_replicas
        install()

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Ray Serve calls it with its AutoscalingContext; returns the number of replicas and what to remember."""
        lease = read_lease(context.app_name)
        lowest, highest = self._min_replicas, context.capacity_adjusted_max_replicas
        if lease is not None:
            lowest, highest = min(lowest, lease), min(highest, lease)
        count, state = replica_target(
            _loads(context.aggregated_metrics or {}),
            context.target_num_replicas,
            ScalingState(spare_since_s=context.policy_state.get("spare_since_s")),
            _RULES,
            lowest=lowest,
            highest=highest,
            now_s=context.current_time,
        )
        return count, {"spare_since_s": state.spare_since_s}


def _loads(metrics: dict[str, dict[Any, float]]) -> list[ReplicaLoad]:
    """Replicas that have reported everything."""
    reported = set.intersection(*(set(metrics.get(name, ())) for name in _METRICS))
    return [ReplicaLoad(**{name: metrics[name][replica] for name in _METRICS}) for replica in reported]


def _key(app_name: str) -> bytes:
    return f"serve-lease:{app_name}".encode()
